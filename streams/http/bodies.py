"""Room for the bodies of answers. A small one needs none. A larger one reserves all that it may come to before more of
it is read, and keeps that until the request it is for is answered: parsed and encoded, a document takes several times
its bytes. Who waits for room holds up nobody's small answers, and as it holds no room meanwhile, nobody waits in a
circle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from models.errors import Overloaded
from streams.http import turn
from streams.shares import Shares

SMALL = 64 << 10
"""Bytes of a body up to which it reserves nothing."""
TOGETHER = 4
"""Concurrent bodies of the largest size; one host has half of the memory at most."""
EARLY = 0.05
"""Seconds before its deadline that a request stops waiting for memory, to report that."""

_sharing: ContextVar[Room | None] = ContextVar("sharing", default=None)
_answering: ContextVar[kept_until_answered | None] = ContextVar("answering", default=None)


class kept_until_answered:  # noqa: N801  a context manager
    """Keeps the reservation of a body read in its block until its end, not only until the body is read.

    A class: each miss enters it, and a generator takes three times as long.
    """

    __slots__ = ("_gives",)

    def __enter__(self) -> None:
        self._gives: list[Callable[[], None]] | None = []
        _answering.set(self)

    def __exit__(self, *_: object) -> None:
        if _answering.get() is self:  # it is not in a task that is collected unfinished: that is another's
            _answering.set(None)
        gives, self._gives = self._gives, None
        for give in gives or ():
            give()

    def keep(self, give: Callable[[], None]) -> None:
        """Give a reservation back at the end; at once if that has come: a task begun in the block outlives it."""
        if self._gives is None:
            give()
        else:
            self._gives.append(give)


class Bodies:
    """The memory of one client; `most` is its largest body in bytes."""

    def __init__(self, most: int) -> None:
        self._room: Shares[str] = Shares(TOGETHER * most)

    @property
    def taken(self) -> int:
        """Return the bytes reserved."""
        return self._room.taken

    @contextmanager
    def room(self, host: str, most: int, deadline: float | None) -> Iterator[Room]:
        """Yield the reservation of a body of at most `most` bytes, made before `deadline` (monotonic seconds)."""
        if (shared := _sharing.get()) is not None:
            yield shared
            return
        room = Room(self._room, host, most, deadline)
        answering = _answering.get()
        try:
            yield room
        except BaseException:
            room.give()
            raise
        if answering is None:
            room.give()
        elif room.taken:
            answering.keep(room.give)

    @contextmanager
    def one_room(self, host: str, most: int, deadline: float | None) -> Iterator[Room]:
        """Have all bodies that are read in this block share one reservation, of `most` bytes: with one each, what holds
        some would wait for more.
        """
        with self.room(host, most, deadline) as room:
            token = _sharing.set(room)
            try:
                yield room
            finally:
                _sharing.reset(token)


class Room:
    """The reservation of one body."""

    def __init__(self, shares: Shares[str], host: str, most: int, deadline: float | None) -> None:
        self._shares, self._host, self._most, self._deadline = shares, host, most, deadline
        self.taken = False

    async def grow(self, size: int) -> None:
        """Wait for memory, once a body has `size` bytes and more may follow. Raises Overloaded."""
        if size <= SMALL or self.taken:
            return
        deadline = turn.deadline_of(self._deadline)  # what waited for its turn has another by now
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic() - EARLY)
        try:
            async with asyncio.timeout(seconds):
                await self._shares.acquire(self._host, self._most)
        except TimeoutError:
            msg = (
                f"there was no room for an answer of {self._host} of up to {self._most} bytes: too many are being read"
            )
            error = Overloaded(msg)
            error.deadline_bound = True
            raise error from None
        self.taken = True

    def give(self) -> None:
        """Release it."""
        if self.taken:
            self.taken = False
            self._shares.give(self._host, self._most)
