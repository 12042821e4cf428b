"""How tasks are ended."""

from __future__ import annotations

import asyncio

import pytest

from streams import tasks
from streams.tasks import end_tasks


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


async def test_what_a_task_failed_with_is_logged_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    """Closing goes on with what else there is to close, and the fault is not lost."""

    async def fail() -> None:
        raise LookupError("gone")

    task = asyncio.create_task(fail(), name="reading")
    await asyncio.wait({task})
    await end_tasks(task)
    assert caplog.messages == ["reading had failed: LookupError('gone')"]
