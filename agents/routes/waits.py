"""What a record waits for, so that drains do not wait for it, and an operator sees it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from aiokafka import ConsumerRecord

from streams.http.turn import Turn, current
from streams.kafka.lease import Lease

FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
"""Seconds before something is tried again, at first and at most."""


class Waits:
    """Notes that lookups of a record wait, and for what, in `reasons`: a drain must not wait for it. `given_up`: it was
    left to the next owner of its partition.
    """

    def __init__(self, record: ConsumerRecord[bytes, bytes], lease: Lease, reasons: Counter[str]) -> None:
        self._record = record
        self._lease = lease
        self._reasons = reasons
        self._count = 0
        self.given_up = False

    @contextmanager
    def because(self, reason: str) -> Iterator[None]:
        """Wait for a reason."""
        self._begin(reason)
        try:
            yield
        finally:
            self._end(reason)

    @contextmanager
    def turn(self, source: str) -> Iterator[None]:
        """Wait for the turn of a question to a source, and then no longer."""
        reason = f"source {source}"
        turn = Turn(partial(self._leave, reason))
        self._begin(reason)
        token = current.set(turn)
        try:
            yield
        finally:
            current.reset(token)
            turn.over = True
            if not turn.begun:
                self._end(reason)

    def _leave(self, reason: str) -> None:
        """Let a question leave; while the partition is given up, nothing more does: the next owner asks it. The record
        counts as waiting from then on, so that no drain waits for it.
        """
        if not self._lease.taking:
            self.given_up = True
            raise asyncio.CancelledError
        self._end(reason)

    def _begin(self, reason: str) -> None:
        self._reasons[reason] += 1
        self._count += 1
        if self._count == 1 and not self.given_up:
            self._lease.wait(self._record.offset)

    def _end(self, reason: str) -> None:
        self._reasons[reason] -= 1
        if not self._reasons[reason]:
            del self._reasons[reason]
        self._count -= 1
        if not self._count and self._lease.alive and not self.given_up:
            self._lease.resume(self._record.offset)
