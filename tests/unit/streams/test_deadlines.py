"""Time-outs that share a timer end as asyncio's own do."""

from __future__ import annotations

import asyncio

import pytest

from streams.deadlines import Deadlines

SHORT, LONG = 0.01, 60.0


@pytest.fixture
def deadlines():
    return Deadlines()


async def waits(deadlines, seconds, ended):
    """Wait for good within a time-out, and note how that ends."""
    try:
        with deadlines.within(seconds):
            await asyncio.Event().wait()
    except TimeoutError:
        ended.append("timed out")
        assert not asyncio.current_task().cancelling()
        raise
    except asyncio.CancelledError:
        ended.append("cancelled")
        raise


async def test_each_block_of_a_length_times_out(deadlines):
    """One timer ends all blocks of a length, also those that begin later."""
    ended = []
    tasks = [asyncio.create_task(waits(deadlines, SHORT, ended)) for _ in range(3)]
    await asyncio.sleep(SHORT / 2)
    tasks.append(asyncio.create_task(waits(deadlines, SHORT, ended)))
    assert [type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)] == [TimeoutError] * 4
    assert ended == ["timed out"] * 4
    assert not deadlines._rows


async def test_blocks_that_end_in_time_leave_nothing(deadlines):
    """Neither a block nor its timer is left, however many lengths there are, whether it ends well or not."""
    for seconds in (LONG, LONG + 1, LONG + 2):
        with deadlines.within(seconds):
            await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError), deadlines.within(seconds):
            raise ZeroDivisionError
    assert not deadlines._rows


async def test_a_task_that_is_cancelled_is_no_timeout(deadlines):
    """Who cancels the task gets CancelledError, and the other blocks of the length still time out."""
    ended = []
    first = asyncio.create_task(waits(deadlines, SHORT, ended))
    second = asyncio.create_task(waits(deadlines, SHORT, ended))
    await asyncio.sleep(0)
    first.cancel()
    ends = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError, TimeoutError]
    assert ended == ["cancelled", "timed out"]


async def test_a_task_that_is_cancelled_as_its_time_ends_is_cancelled(deadlines):
    """A cancellation by others is never lost to a time-out of the same moment."""
    ended = []
    task = asyncio.create_task(waits(deadlines, LONG, ended))
    await asyncio.sleep(0)
    (row,) = deadlines._rows.values()
    (block,) = row.blocks
    block.when = 0.0
    deadlines._look(row)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled"]


async def test_a_block_may_begin_its_time_later(deadlines):
    """Without seconds a block has no end until its start."""
    with pytest.raises(TimeoutError), deadlines.within(None) as block:
        await asyncio.sleep(2 * SHORT)
        assert not deadlines._rows
        block.start(SHORT)
        await asyncio.Event().wait()
    assert not deadlines._rows
