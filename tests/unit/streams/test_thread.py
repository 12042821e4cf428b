"""What calls into the consumer's thread come to when the thread ends in the middle of them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import ConsumerStoppedError
from aiokafka.util import commit_structure_validate
from faust.types import TP

from streams.kafka.lease import CommitPoint
from streams.kafka.thread import ConsumerThread, new_loop


class Thread(ConsumerThread):
    """As much of the thread as calls need: it serves until it crashes, and gets a last call that it never begins."""

    def __init__(self) -> None:
        self._ending = threading.Lock()
        self.thread_loop = new_loop()
        self._close_thread_loop_on_stop = False
        self._stopped = self._stopping = asyncio.Event()
        self.crashed_there = asyncio.Event()
        self.begun = threading.Event()
        self.ended: list[str] = []

    async def _serve(self) -> None:
        await self.crashed_there.wait()
        self.last = asyncio.run_coroutine_threadsafe(self.hang("last"), self.thread_loop)

    async def hang(self, name: str) -> None:
        """Wait for what never comes, as for a broker that does not answer."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(name)


@pytest.fixture
async def thread() -> AsyncIterator[Thread]:
    thread = Thread()
    running = threading.Thread(target=thread._start_thread)
    running.start()
    yield thread
    thread._post(thread.crashed_there.set)
    await asyncio.to_thread(running.join)
    assert thread.thread_loop.is_closed()


async def test_calls_end_with_the_thread(thread: Thread, caplog: pytest.LogCaptureFixture) -> None:
    """Each raises ConsumerStoppedError, whether it was begun or not; nothing meets a loop that is closed."""
    call = asyncio.ensure_future(thread.call(thread.hang("begun")))
    await asyncio.to_thread(thread.begun.wait)
    thread._post(thread.crashed_there.set)
    with pytest.raises(ConsumerStoppedError):
        await call
    while not thread.thread_loop.is_closed():
        await asyncio.sleep(0.01)
    assert (sorted(thread.ended), thread.last.cancelled()) == (["begun", "last"], True)
    with pytest.raises(ConsumerStoppedError):
        await thread.call(thread.hang("late"))
    thread.leave()
    thread._stopped_set()
    assert thread._stopped.is_set()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_call_that_is_given_up_ends_in_the_thread(thread: Thread) -> None:
    """Its caller is cancelled, and so is what the thread does for it."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await thread.call(thread.hang("given up"))
    while not thread.ended:
        await asyncio.sleep(0.01)
    assert thread.ended == ["given up"]


async def test_a_call_that_is_given_up_as_the_thread_ends_meets_no_closed_loop(
    thread: Thread, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker's stop cancels its tasks at any time, also once the thread has ended."""
    call = asyncio.ensure_future(thread.call(thread.hang("begun")))
    await asyncio.to_thread(thread.begun.wait)
    thread._post(thread.crashed_there.set)
    while not thread.thread_loop.is_closed():
        time.sleep(0.001)  # noqa: ASYNC251  the call must not hear of it before it is cancelled
    call.cancel()
    with pytest.raises((asyncio.CancelledError, ConsumerStoppedError)):
        await call
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_group_that_is_not_known_yet_has_no_fault(thread: Thread) -> None:
    """While its consumer looks for brokers, which takes long where they are slow, the group is looked at in vain."""

    async def look() -> None:
        thread._consumer = AIOKafkaConsumer(group_id="g")  # not started: it has no coordinator
        await thread.check_group()
        await thread._consumer.stop()

    await thread.call(look())


class Committing:
    """A consumer that holds one partition, and refuses to commit nothing, as aiokafka's does."""

    def __init__(self) -> None:
        self.committed: list[Any] = []

    def assignment(self) -> set[TP]:
        return {TP("t", 1)}

    async def commit(self, offsets: Any) -> None:
        commit_structure_validate(offsets)
        self.committed.append(offsets)


async def test_nothing_that_is_still_held_is_no_commit() -> None:
    """Points of partitions that went to others are theirs; aiokafka would raise ValueError for none at all."""
    consumer = Committing()
    thread = SimpleNamespace(_ensure_consumer=lambda: consumer)
    points = {TP("t", number): CommitPoint(5, "") for number in (0, 1)}
    assert await ConsumerThread.commit_points(cast("Any", thread), {TP("t", 0): points[TP("t", 0)]}) is None
    assert consumer.committed == []
    assert await ConsumerThread.commit_points(cast("Any", thread), points) is None
    assert [list(each) for each in consumer.committed] == [[TP("t", 1)]]
    assert await ConsumerThread.commit_points(cast("Any", thread), {TP("t", 1): points[TP("t", 1)]}) is True
