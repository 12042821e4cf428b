"""Liveness is progress. A worker whose commit point stands still though it has finished work looks alive to everybody
else: it must see that for itself, and end with the reason, so that another takes its place.

What is a fault of ours, and what the broker's? A broker that does not answer, or takes no results, is none of ours:
a restart would only repeat work. So before the end the broker is queried over a connection of its own, and if it does
not answer there either, we wait; if it does, the old connections are closed, since one of them may hang. What no broker
is to blame for is a request that never ends, though it is past any deadline that a request may have and what was begun
after it is finished, and a thread that has stopped turning.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, Self

from streams import ticks
from streams.tasks import end_tasks, start

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks."""
REPORT_AFTER = 15.0
"""Seconds of standing still after which a worker is not ready."""
CHECK_AFTER = 30.0
"""Seconds for which commits may fail, though there is something to commit, before the worker checks the broker."""
COMMIT_DEADLINE = 60.0
"""Seconds for which they may fail before the worker ends."""
GRACE = 20.0
"""Seconds that a commit has left once the broker has answered and the old connections are closed."""
ASK_AGAIN = 10.0
"""Seconds until a broker that did not answer is checked again."""
UNFINISHED_DEADLINE = 360.0
"""Seconds that the oldest request may take once later ones are finished: more than any request may ask for (300)."""
THREAD_DEADLINE = 60.0
"""Seconds for which the consumer's thread may be silent."""
STOOD_STILL = 10.0
"""Seconds between two looks, one second apart, after which the process was frozen: no worker is ended for them."""


class Standing(NamedTuple):
    """How far one partition is: `point` may be committed, `committed` is, `finished` counts what was finished so far,
    `ahead` how many of them are beyond the point, as far as known.

    `hold` is the same object as long as the partition is held without a break; `waits`: what is at the point was not
    begun yet, because its host is busy.
    """

    name: str
    hold: object
    point: int | None
    committed: int | None
    finished: int
    ahead: int = 0
    waits: bool = False


class _Watched:
    """One partition: since when which of its numbers has not moved (monotonic seconds), None if there is no reason."""

    def __init__(self, first: Standing) -> None:
        self.last = first
        self.uncommitted: float | None = None
        self.unfinished: float | None = None

    def look(self, now: Standing, at: float, *, held_up: bool) -> None:
        """Compare with the last check; the clock stops while Kafka accepts no results, or while the request at the
        point waits for its turn.
        """
        before, self.last = self.last, now
        if now.point is None or now.point == now.committed:
            self.uncommitted = None
        elif now.committed != before.committed or self.uncommitted is None:
            self.uncommitted = at
        moved = now.point != before.point
        if moved or self.unfinished is None:
            is_behind = now.ahead > 0 or (not moved and now.finished != before.finished)
            self.unfinished = at if is_behind else None
        elif held_up:
            self.unfinished = at


class Watchdog:
    """Opened with `async with`; looks once a second, for as long as it is open.

    `standings` returns how far each partition is, `heard` the monotonic time of the consumer thread's last sign of
    life; `broker_answers` tries a new connection, `reconnect` closes those that the group has, `held_up` is true while
    Kafka accepts no results. `end` gets the reason, in a sentence.
    """

    def __init__(
        self,
        standings: Callable[[], Iterable[Standing]],
        *,
        heard: Callable[[], float],
        broker_answers: Callable[[], Awaitable[bool]],
        reconnect: Callable[[], Awaitable[None]],
        held_up: Callable[[], bool],
        end: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._standings = standings
        self._last_contact = heard
        self._broker_answers = broker_answers
        self._reconnect = reconnect
        self._held_up = held_up
        self._end = end
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._looked = clock()
        self._awake = -math.inf
        self._ask_at = 0.0
        self._answered_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        self._task = start(self._run(), "the watchdog", means="a stuck worker is not noticed")
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks(self._task)

    def state(self) -> str:
        """Return `ok`, or which partition is stuck and since when, for `/readyz`."""
        now = self._clock()
        for each in self._watched.values():
            if each.uncommitted is not None and now - each.uncommitted >= REPORT_AFTER:
                return f"{each.last.name}: no commit for {now - each.uncommitted:.0f} s"
            if _is_stuck(each, now):
                return f"{each.last.name}: offset {each.last.point} is not finished though later ones are"
        return "ok"

    async def _run(self) -> None:
        while not self._ended:
            await ticks.sleep(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """Check once; ends the worker if it is stuck by its own fault."""
        now = self._clock()
        if now - self._looked > STOOD_STILL:  # so did all that is judged here
            self._awake = now
        try:
            await self._judge(now)
        finally:
            self._looked = self._clock()  # a look may wait for a broker that does not answer

    async def _judge(self, now: float) -> None:
        found = list(self._standings())
        self._watched = {each.name: self._same(each) for each in found}
        held_up = self._held_up()
        for each in found:
            self._watched[each.name].look(each, now, held_up=held_up or each.waits)
        silent = now - max(self._last_contact(), self._awake)
        if found and silent >= THREAD_DEADLINE:
            self._end_worker(f"the consumer's thread has not answered for {silent:.0f} s")
            return
        for watched in self._watched.values():
            if _is_stuck(watched, now, self._awake):
                self._end_worker(
                    f"{watched.last.name}: offset {watched.last.point} unfinished {UNFINISHED_DEADLINE:.0f} s "
                    "after later ones were finished: longer than any request may take"
                )
                return
        await self._look_at_commits(now)

    def _same(self, standing: Standing) -> _Watched:
        watched = self._watched.get(standing.name)
        return watched if watched is not None and watched.last.hold is standing.hold else _Watched(standing)

    async def _look_at_commits(self, now: float) -> None:
        since = {each.last.name: now - max(each.uncommitted, self._awake) for each in self._watched.values()
                 if each.uncommitted is not None}  # fmt: skip
        waiting = {name: seconds for name, seconds in since.items() if seconds >= CHECK_AFTER}
        if not waiting:
            self._answered_at = None
            return
        name, seconds = max(waiting.items(), key=lambda each: each[1])
        if self._answered_at is None:
            if now >= self._ask_at and await self._check_broker(name, seconds):
                logger.warning("%s: no commit for %.0f s; the broker answers over a new connection: closing the others",
                               name, seconds)  # fmt: skip
                await self._reconnect()
            return
        in_time = seconds < COMMIT_DEADLINE or now - self._answered_at < GRACE
        if not in_time and await self._check_broker(name, seconds):
            self._end_worker(f"{name}: nothing could be committed for {seconds:.0f} s though the broker answers")

    async def _check_broker(self, name: str, seconds: float) -> bool:
        answers = await self._broker_answers()
        if answers:
            self._answered_at = self._clock()
        else:
            self._answered_at = None
            self._ask_at = self._clock() + ASK_AGAIN
            logger.warning("%s: no commit for %.0f s; the broker does not answer over a new connection either: waiting",
                           name, seconds)  # fmt: skip
        return answers

    def _end_worker(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._end(reason)


def _is_stuck(watched: _Watched, now: float, awake: float = -math.inf) -> bool:
    """Whether a partition is stuck, of the time since the process was `awake`."""
    return watched.unfinished is not None and now - max(watched.unfinished, awake) >= UNFINISHED_DEADLINE
