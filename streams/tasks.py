"""Background tasks: the one way to start what nobody awaits, and to end it.

asyncio keeps the fault of a task that nobody awaits to itself. So each is started here: when it ends by itself, one
line says what has ended and what that means, and the worker ends, too, with 1, or the task begins again where that
is sound. `tests/unit/test_house.py` allows `create_task`, `ensure_future` and threads here alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from models.errors import TaskEnded

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, None]]

CANCEL_AGAIN = 2.0
"""Seconds until a task that has not ended is cancelled again: what it closes may take a moment."""
OURS = ("agents", "streams", "models")
"""Packages whose callbacks, too, end the worker when they fail."""

end_worker: ContextVar[Callable[[TaskEnded], None] | None] = ContextVar("end_worker", default=None)
"""What ends the worker, for the tasks that are started in this context."""


def start(
    work: Coroutine[Any, Any, T],
    name: str,
    *,
    means: str,
    fatal: bool = True,
    then: Callable[[asyncio.Task[T]], None] | None = None,
) -> asyncio.Task[T]:
    """Start a task that comes to an end. If it fails, one line says so, `means` being what is missing without it; and
    the worker ends, unless that is not fatal: something begins it anew. `then` is called at its end in any case.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(partial(_look, means, end_worker.get() if fatal else None, then))
    return task


def keep(work: Work, name: str, *, means: str, again: float | None = None) -> asyncio.Task[None]:
    """Start a task that goes on until it is cancelled. If it ends by itself, the worker ends, too; or it begins again
    after so many seconds, where no answer hangs on it. `means` says what is missing meanwhile.
    """
    return start(_kept(work, name, means, again), name, means=means)


def start_thread(work: Callable[[], None], name: str, *, means: str) -> threading.Thread:
    """Start a thread that the process does not wait for. If it fails, the worker ends."""
    loop, end = asyncio.get_running_loop(), end_worker.get()

    def run() -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001  it is handed on
            with suppress(RuntimeError):  # the loop is closed: the process ends anyway
                loop.call_soon_threadsafe(_ended, name, exc, means, end)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


async def first(*works: Awaitable[Any]) -> int:
    """Wait until one of these has ended and cancel the others; returns which (the first of them), or raises its fault.

    Cancelled itself, it cancels all of them.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    number = next(number for number, task in enumerate(tasks) if task in done)
    await tasks[number]
    return number


async def every(*works: Awaitable[Any]) -> None:
    """Wait for all of these; if one fails, cancel the others and raise its fault."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def watch_callbacks(loop: asyncio.AbstractEventLoop) -> None:
    """Have a callback of ours that fails (a timer, a task's end) end the worker, as a task does: it comes no more."""
    end = end_worker.get()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if isinstance(fault, Exception) and "task" not in context and _is_ours(fault):
            _ended(context.get("message", "a callback"), fault, "what it was to do is not done", end)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended. The failure of one was logged when it happened, and is not raised.

    Python 3.11's `wait_for` loses a cancellation that comes as what it waits for is done: its task would go on for
    ever, and with it everything that waits for its end.
    """
    left = {task for task in tasks if task is not None}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN)


async def end_all() -> None:
    """End all other tasks of the running loop, those too that were posted to it last, so that it may be closed."""
    await asyncio.sleep(0)
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        await end_tasks(*left)


async def _kept(work: Work, name: str, means: str, again: float | None) -> None:
    while True:
        fault: Exception = _CameToAnEnd()
        try:
            await work()
        except Exception as exc:  # noqa: BLE001  it is raised or logged
            fault = exc
        if again is None:
            raise fault
        logger.error("%s has failed: %s; it restarts in %g s; until then %s",
                     name, _described(fault), again, means, exc_info=fault)  # fmt: skip
        await asyncio.sleep(again)


class _CameToAnEnd(Exception):
    def __str__(self) -> str:
        return "it came to an end"


class _WasCancelled(Exception):
    def __str__(self) -> str:
        return "what it waited for was cancelled"


def _look(
    means: str,
    end: Callable[[TaskEnded], None] | None,
    then: Callable[[asyncio.Task[Any]], None] | None,
    task: asyncio.Task[Any],
) -> None:
    fault = task.exception() if not task.cancelled() else None if task.cancelling() else _WasCancelled()
    if fault is not None:
        _ended(task.get_name(), fault, means, end)
    if then is not None:
        then(task)


def _ended(name: str, fault: BaseException, means: str, end: Callable[[TaskEnded], None] | None) -> None:
    """Say so and end the worker."""
    reason = f"{name} has ended: {_described(fault)}; without it {means}"
    logger.critical("%s%s", reason, "" if end is None else "; the worker ends", exc_info=fault)
    if end is not None:
        end(TaskEnded(reason))


def _described(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}"


def _is_ours(fault: BaseException) -> bool:
    """Whether the callback that failed, the outermost frame, is one of ours."""
    trace = fault.__traceback__
    while trace is not None:
        package = trace.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("asyncio", "uvloop"):
            return package in OURS
        trace = trace.tb_next
    return False
