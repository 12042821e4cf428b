"""Time-outs that cost little: one timer for all blocks of the same length, as nearly all of them end in time.

`asyncio.timeout` makes a timer and two coroutines a block; what it promises holds here, too.
"""

from __future__ import annotations

import asyncio
from itertools import takewhile
from types import TracebackType
from typing import Any, Self


class Deadline:
    """A block of a task that is cancelled when its time is over, and then raises TimeoutError. `start` begins its time.

    When it is cancelled by others, too, it raises CancelledError.
    """

    __slots__ = ("_cancelling", "_deadlines", "_expired", "_task", "row", "seconds", "when")

    def __init__(self, deadlines: Deadlines, seconds: float | None) -> None:
        self._deadlines = deadlines
        self._expired = False
        self.seconds = seconds
        self.when = 0.0
        self.row: _Row | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        self._cancelling = task.cancelling()
        if self.seconds is not None:
            self._deadlines.add(self, self.seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._expired:
            if self.row is not None:
                self._deadlines.remove(self, self.row)
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from exc

    def start(self, seconds: float) -> None:
        """Let the block end so many seconds from now; it must have had no time-out before."""
        self._deadlines.add(self, seconds)

    def expire(self) -> None:
        """Cancel the block."""
        self._expired = True
        self._task.cancel()


class _Row:
    """Blocks of one length, in the order in which they end, and the timer for the first."""

    __slots__ = ("blocks", "seconds", "timer")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.blocks: dict[Deadline, None] = {}
        self.timer: asyncio.TimerHandle | None = None


class Deadlines:
    """The time-outs of one event loop. Their number is that of the blocks that run."""

    def __init__(self) -> None:
        self._rows: dict[float, _Row] = {}

    def within(self, seconds: float | None) -> Deadline:
        """Return a block of so many seconds, for `with`; None: without an end until its `start`."""
        return Deadline(self, seconds)

    def add(self, block: Deadline, seconds: float) -> None:
        """Begin a block's time."""
        loop = asyncio.get_running_loop()
        block.when = loop.time() + seconds
        row = self._rows.get(seconds)
        if row is None:
            row = self._rows[seconds] = _Row(seconds)
            row.timer = loop.call_at(block.when, self._look, row)
        block.row = row
        row.blocks[block] = None

    def remove(self, block: Deadline, row: _Row) -> None:
        """Note that a block has ended in time."""
        del row.blocks[block]
        if not row.blocks and row.timer is not None:
            row.timer.cancel()
            del self._rows[row.seconds]

    def _look(self, row: _Row) -> None:
        """End the blocks whose time is over."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        over = list(takewhile(lambda block: block.when <= now, row.blocks))
        for block in over:
            del row.blocks[block]
            block.expire()
        if row.blocks:
            row.timer = loop.call_at(next(iter(row.blocks)).when, self._look, row)
        else:
            del self._rows[row.seconds]
