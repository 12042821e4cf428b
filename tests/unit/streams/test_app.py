"""A worker's life over apps that do as a test wants: what its exit code is, and when the last resort is armed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from models.errors import SettingsError
from streams import app as module
from streams.app import App, run
from streams.config import settings as defaults

PATIENCE = 5.0
"""Seconds after which what should have happened has not."""


class FakeApp:
    """As much of an app as `run` uses. `at_start` is its start, `at_stop` is raised by its stop."""

    def __init__(self, at_start: Any = None, at_stop: BaseException | None = None) -> None:
        self.crashed = False
        self.crash_reason: BaseException | None = None
        self.stopped = 0
        self._at_start = at_start
        self._at_stop = at_stop
        self._ended = asyncio.Event()

    async def start(self) -> None:
        if self._at_start is not None:
            await self._at_start(self)

    def crash(self, reason: BaseException) -> None:
        self.crashed, self.crash_reason = True, reason
        self._ended.set()

    async def wait_until_stopped(self) -> None:
        await self._ended.wait()

    async def stop(self) -> None:
        self.stopped += 1
        if self._at_stop is not None:
            raise self._at_stop


async def opens_nothing(_: AsyncExitStack) -> None:
    """Open nothing."""


def tell() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def life(*apps: FakeApp, open_: Any = opens_nothing) -> int:
    async with asyncio.timeout(PATIENCE):
        return await run(apps, open_)  # type: ignore[arg-type]


def armed() -> list[threading.Thread]:
    """Return the timers that would end this process."""
    return [each for each in threading.enumerate() if isinstance(each, threading.Timer) and not each.finished.is_set()]


async def refused(_: FakeApp) -> None:
    raise SettingsError("no such topic")


async def test_a_worker_that_cannot_start_says_why_and_leaves_no_timer() -> None:
    """Whoever called `run` may go on living: nothing is left that would end the process a while later."""
    app, other = FakeApp(refused), FakeApp()
    with pytest.raises(SettingsError, match="no such topic"):
        await life(app, other)
    assert (app.stopped, other.stopped, armed()) == (1, 1, [])


async def test_why_it_cannot_start_is_told_whatever_its_stop_meets() -> None:
    """A stop of half a start that fails, too, does not take the reason's place, nor another app's stop."""
    app, other = FakeApp(refused, at_stop=OSError("closed twice")), FakeApp()
    with pytest.raises(SettingsError, match="no such topic"):
        await life(app, other)
    assert other.stopped == 1


async def test_what_cannot_be_opened_leaves_no_timer_either() -> None:
    """Apps that were never started are not stopped."""

    async def fails(_: AsyncExitStack) -> None:
        raise SettingsError("the port is taken")

    app = FakeApp()
    with pytest.raises(SettingsError, match="the port is taken"):
        await life(app, open_=fails)
    assert (app.stopped, armed()) == (0, [])


async def test_a_stop_while_things_are_opened_is_heeded() -> None:
    """Kafka may not answer while a worker looks at it: told to stop, it closes what is open, starts nothing, ends."""
    closed = []

    async def waits(stack: AsyncExitStack) -> None:
        stack.callback(closed.append, True)
        tell()
        await asyncio.Event().wait()

    app = FakeApp()
    assert await life(app, open_=waits) == 0
    assert (closed, app.stopped, armed()) == ([True], 0, [])


async def test_the_last_resort_is_armed_as_soon_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that does not heed its cancellation cannot keep the process longer than the deadline."""
    loop = asyncio.get_running_loop()
    exiting = asyncio.Event()
    monkeypatch.setattr(module, "_exit_now", lambda: loop.call_soon_threadsafe(exiting.set))
    monkeypatch.setattr(defaults, "SHUTDOWN_DEADLINE", 0.01)

    async def deaf(_: FakeApp) -> None:
        tell()
        while not exiting.is_set():
            try:
                await exiting.wait()
            except asyncio.CancelledError:
                continue

    assert await life(FakeApp(deaf)) == 0
    assert exiting.is_set()


async def test_a_start_cut_short_that_crashes_of_it_is_no_crash() -> None:
    """A worker told to stop while it comes up ends with 0, whatever its half-open connections make of that."""

    async def starts(app: FakeApp) -> None:
        tell()
        try:
            await asyncio.Event().wait()
        finally:
            app.crash(ConnectionError("closed while connecting"))

    assert await life(FakeApp(starts)) == 0


async def test_a_crash_is_one_though_the_stop_is_told_after_it() -> None:
    """What crashed first is the reason, also if it crashed while another app was starting."""

    async def crashes(app: FakeApp) -> None:
        app.crash(LookupError("a bug"))

    async def waits(_: FakeApp) -> None:
        tell()
        await asyncio.Event().wait()

    assert await life(FakeApp(crashes)) == 1
    assert await life(FakeApp(crashes), FakeApp(waits)) == 1


async def test_a_stop_that_fails_keeps_no_other_app_from_stopping(caplog: pytest.LogCaptureFixture) -> None:
    """It is told in the log, and the exit code is still that of a worker that stopped as told."""

    async def starts(_: FakeApp) -> None:
        tell()

    other = FakeApp()
    assert await life(FakeApp(starts, at_stop=OSError("no")), other) == 0
    assert other.stopped == 1
    assert any(line.startswith("stopping failed: OSError('no'); ") for line in caplog.messages)


@pytest.mark.parametrize(
    ("started", "member", "alive", "fenced"),
    [(True, False, True, True), (True, True, True, False), (True, False, False, False), (False, False, True, False)],
)
def test_who_may_have_lost_what_it_holds_is_fenced(
    monkeypatch: pytest.MonkeyPatch, started: bool, member: bool, alive: bool, fenced: bool
) -> None:
    """Who holds nothing is not: other parts publish through it, and its group may have no topic to be a member for."""
    made = App.__new__(App)
    holder = SimpleNamespace(is_member=member, leases={"t": SimpleNamespace(alive=alive)})
    monkeypatch.setattr(App, "started", started)
    monkeypatch.setattr(App, "holder", holder)
    assert made._is_fenced() is fenced
