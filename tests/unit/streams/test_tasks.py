"""How background tasks are started, how their end is noticed, and how they are ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from models.errors import TaskEnded
from streams import tasks
from streams.tasks import end_tasks, end_worker, every, first, keep, start, start_thread, watch_callbacks

PATIENCE = 5.0
"""Seconds after which what should have happened has not."""


@pytest.fixture
def reasons() -> Iterator[asyncio.Queue[TaskEnded]]:
    """What the worker was ended with."""
    heard: asyncio.Queue[TaskEnded] = asyncio.Queue()
    token = end_worker.set(heard.put_nowait)
    yield heard
    end_worker.reset(token)


async def fail() -> None:
    raise LookupError("gone")


async def returns() -> None:
    """Come to an end."""


async def reason_of(reasons: asyncio.Queue[TaskEnded]) -> str:
    return str(await asyncio.wait_for(reasons.get(), PATIENCE))


async def test_a_task_that_fails_ends_the_worker_with_one_line(
    reasons: asyncio.Queue[TaskEnded], caplog: pytest.LogCaptureFixture
) -> None:
    """It says what has ended, why, and what is missing without it; the traceback is with it."""
    start(fail(), "reading", means="nothing is read")
    assert await reason_of(reasons) == "reading has ended: LookupError: gone; without it nothing is read"
    [line] = caplog.records
    assert (line.levelname, line.exc_info is not None) == ("CRITICAL", True)
    assert line.getMessage() == "reading has ended: LookupError: gone; without it nothing is read; the worker ends"


async def test_a_task_that_may_fail_is_told_of_and_the_worker_goes_on(
    reasons: asyncio.Queue[TaskEnded], caplog: pytest.LogCaptureFixture
) -> None:
    """Where something begins it anew, or nothing hangs on it."""
    await asyncio.wait({start(fail(), "sweeping", means="it grows", fatal=False), start(returns(), "x", means="y")})
    assert (reasons.empty(), caplog.messages) == (
        True, ["sweeping has ended: LookupError: gone; without it it grows"]
    )  # fmt: skip


@pytest.mark.parametrize("work", [fail, returns])
async def test_a_task_that_is_to_go_on_may_not_end(reasons: asyncio.Queue[TaskEnded], work: tasks.Work) -> None:
    """Neither by a fault nor by coming to an end."""
    keep(work, "watching", means="nobody watches")
    assert "watching has ended" in await reason_of(reasons)


async def test_a_task_whose_wait_is_cancelled_by_others_has_ended(reasons: asyncio.Queue[TaskEnded]) -> None:
    """A task counts as cancelled if what it awaited was: that is an end by itself, too."""
    future = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await future

    task, cancelled = keep(wait, "waiting", means="x"), keep(wait, "cancelled", means="x")
    await asyncio.sleep(0)
    await end_tasks(cancelled)
    future.cancel()
    assert "waiting has ended" in await reason_of(reasons)
    assert (task.cancelled(), reasons.empty()) == (True, True)


async def test_a_task_on_which_no_answer_hangs_begins_again(
    reasons: asyncio.Queue[TaskEnded], caplog: pytest.LogCaptureFixture
) -> None:
    """After a pause, as often as it takes, a line each time."""
    third = asyncio.Event()
    left = [fail, returns]

    async def work() -> None:
        if left:
            await left.pop(0)()
        third.set()
        await asyncio.Event().wait()

    task = keep(work, "telling", means="nobody is told", again=0.0)
    async with asyncio.timeout(PATIENCE):
        await third.wait()
    await end_tasks(task)
    assert caplog.messages == ["telling has failed: LookupError: gone; it restarts in 0 s; until then nobody is told"]
    assert reasons.empty()


async def test_a_thread_that_fails_ends_the_worker(reasons: asyncio.Queue[TaskEnded]) -> None:
    """Its fault comes to the loop that started it."""

    def work() -> None:
        raise LookupError("gone")

    start_thread(work, "counting", means="nothing is counted").join(PATIENCE)
    assert await reason_of(reasons) == "counting has ended: LookupError: gone; without it nothing is counted"


async def test_a_callback_of_ours_that_fails_ends_the_worker(
    reasons: asyncio.Queue[TaskEnded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer whose callback fails is not set again; what others' callbacks meet is told of by asyncio, no more."""
    loop = asyncio.get_running_loop()
    watch_callbacks(loop)

    def beat() -> None:
        raise LookupError("gone")

    loop.call_soon(beat)
    await asyncio.sleep(0.01)
    assert reasons.empty(), "it is a test's"
    monkeypatch.setattr(tasks, "OURS", ("tests",))
    loop.call_soon(beat)
    assert "LookupError: gone; without it what it was to do is not done" in await reason_of(reasons)


async def test_the_first_of_several_ends_the_others() -> None:
    """Which it was is returned, its fault is raised, and nothing is left behind."""
    ended: list[str] = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    assert await first(wait("a"), asyncio.sleep(0)) == 1
    with pytest.raises(LookupError):
        await first(wait("b"), fail())
    with pytest.raises(LookupError):
        await every(wait("c"), fail(), returns())
    await every(returns(), returns())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first(wait("d"), wait("e")), 0.01)
    assert ended == ["a", "b", "c", "d", "e"]


async def test_a_task_that_lost_its_cancellation_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11's `wait_for` swallows one that comes as what it waits for is done: the task ends all the same."""
    monkeypatch.setattr(tasks, "CANCEL_AGAIN", 0.01)
    done = asyncio.get_running_loop().create_future()
    lost = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.wait_for(done, 60)
        except asyncio.CancelledError:
            lost.set()
        else:
            lost.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    done.set_result(None)
    async with asyncio.timeout(5):
        await end_tasks(task, None)
    assert lost.is_set()
    assert task.cancelled()


async def test_what_a_task_failed_with_is_said_once_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    """Closing goes on with what else there is to close, and the fault is not lost."""
    task = start(fail(), "reading", means="nothing is read", fatal=False)
    await asyncio.wait({task})
    await end_tasks(task)
    assert caplog.messages == ["reading has ended: LookupError: gone; without it nothing is read"]
