"""Requests whose time begins with their turn: what waits for a slow, limited or pausing host has not failed.

A request of a producer has a deadline from its receipt. A route's record waits as long as it has to, since what comes
behind it waits in Kafka; its deadline runs from when its first HTTP request leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar

from streams.deadlines import Deadline


class Turn:
    """One question that waits for its turn; `on_begin` is called when it comes. It raises CancelledError if nothing may
    begin any more.
    """

    __slots__ = ("_on_begin", "_scope", "_seconds", "begun", "deadline", "over")

    def __init__(self, on_begin: Callable[[], None]) -> None:
        self._on_begin = on_begin
        self._scope: Deadline | None = None
        self._seconds = 0.0
        self.begun = self.over = False
        self.deadline: float | None = None

    def bound(self, scope: Deadline, seconds: float) -> None:
        """Let the scope end so many seconds after the turn has come."""
        self._scope, self._seconds = scope, seconds

    def begin(self) -> None:
        """Note that the turn has come."""
        if self.begun or self.over:
            return
        self._on_begin()
        self.begun = True
        if self._scope is not None:
            self.deadline = time.monotonic() + self._seconds
            self._scope.start(self._seconds)


current: ContextVar[Turn | None] = ContextVar("current", default=None)
"""Set in the task of one who waits. Tasks that it starts inherit it: after its end it says nothing any more."""


def begin() -> None:
    """Note that a request has its place and leaves. Raises CancelledError if it may not any more."""
    turn = current.get()
    if turn is not None:
        turn.begin()


def deadline_of(deadline: float | None) -> float | None:
    """Return the deadline that holds now (monotonic seconds): none for what waits for its turn."""
    turn = current.get()
    return deadline if turn is None or turn.over else turn.deadline
