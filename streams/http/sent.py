"""Whether anything was sent on behalf of whoever waits: what only waited for its turn has not failed."""

from __future__ import annotations

from contextvars import ContextVar


class Sent:
    """Notes that something was sent."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False


watching: ContextVar[Sent | None] = ContextVar("watching", default=None)
"""Set by who wants to know, in its own task."""


def note_sent() -> None:
    """Note that a request has its place and leaves."""
    note = watching.get()
    if note is not None:
        note.sent = True
