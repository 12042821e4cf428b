"""The agent of a route: records → lookups → outputs.

A record whose answers are all cached is done at once. Any other begins as a task if fewer than `in_progress` are;
else the agent waits, and the partitions of this route with it: the backlog stays in Kafka. A record that waits for
a slow, limited or resting source keeps its place, so such a source holds up its own routes and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from functools import partial
from typing import Any

from agents.answer.agent import error_for
from agents.answer.headers import unreadable_request
from agents.answer.retry_later import Deferral
from agents.routes.formats import UNKNOWN, Formats
from agents.routes.large import LargeValue
from agents.routes.lookups import Lookups, Results
from agents.routes.outputs import Outputs, Record
from agents.routes.waits import Waits
from agents.routes.walk import MAX_RECORD, Sample, walked
from models.errors import AnswerError, InvalidRequest
from models.expression import Expression, is_true
from models.histogram import Histogram
from models.route import Route
from streams.kafka.batch import RecordBatch
from streams.kafka.fetched import Unreadable
from streams.kafka.key_order import KEY, KeyOrder
from streams.kafka.lease import Lease
from streams.kafka.publisher import Publisher
from streams.tasks import start
from streams.telemetry import logs

logger = logging.getLogger(__name__)

TURN = 0.005
"""Seconds of work on a batch after which other tasks get their turn."""
DROPPED = "dropped"
"""What is counted for a record that goes nowhere."""
LOOK_EVERY = 0.1
"""Seconds between looks at whether the records that wait for a place are still this worker's."""


class RouteRunner:
    """Works on the records of one route. `outcomes` counts what came of them, `waiting` what they wait for now."""

    def __init__(
        self, route: Route, lookups: Lookups, formats: Formats, outputs: Outputs, publisher: Publisher
    ) -> None:
        self.route = route
        self._lookups = lookups
        self._formats = formats
        self._outputs = outputs
        self._publisher = publisher
        self._order = outputs.order = KeyOrder(self.take) if route.order == KEY else None
        self._free = asyncio.Event()
        self.in_progress = 0
        self.outcomes: Counter[str] = Counter()
        self.whole = Histogram()
        self.waiting: Counter[str] = Counter()
        self._latest: tuple[Record, dict[str, Any] | None, str, float] | None = None

    @property
    def later(self) -> Deferral:
        """Return what was deferred, and what failed at its last try."""
        return self._outputs.later

    async def take(self, batch: RecordBatch) -> None:
        """Work on a batch. Returns when all of it is done or in progress, or its lease takes no more work."""
        lease, turn = batch.lease, time.monotonic()
        for record in batch.records:
            if self._publisher.congested:
                await self._publisher.pace()
            if not lease.taking:
                return
            if self._order is not None and self._order.holds(record, lease, batch.received_at):
                continue
            lease.begun += 1
            scope = self._begin(record, batch)
            if scope is not None:
                if self._order is not None:
                    self._order.open(record, lease)
                lease.begun -= 1  # a drain must not wait for what has no place yet
                if not await self._place(lease):
                    return
                lease.begun += 1
                self._start(record, batch, scope)
            if time.monotonic() - turn > TURN:
                await asyncio.sleep(0)
                turn = time.monotonic()
        await self._publisher.pace()

    def _begin(self, record: Record, batch: RecordBatch) -> dict[str, Any] | None:
        """Finish a record for which nothing has to be waited for; return what is known of any other."""
        scope: dict[str, Any] | None = None
        try:
            if isinstance(record, Unreadable):
                raise unreadable_request(record)  # noqa: TRY301  handled below like any other
            if record.value is None and self.route.tombstones != "look-up":
                outcome = self._let_by(record, batch, self.route.tombstones, None)
            else:
                scope = self._formats.scope(record)
                if scope is UNKNOWN:
                    return {}
                outcome = self._finish_now(record, batch, scope)
                if outcome is None:
                    return scope
        except Exception as exc:  # noqa: BLE001  what one record holds must not keep the rest from being answered
            outcome = self._fail(record, batch, exc)
        self._count(outcome or DROPPED, record, batch, scope)
        return None

    def sample(self) -> dict[str, Any] | None:
        """Return the latest record, walked through; None before the first."""
        return None if self._latest is None else walked(Sample(*self._latest), self._lookups, self._outputs)

    def _finish_now(self, record: Record, batch: RecordBatch, scope: dict[str, Any]) -> str | None:
        """Finish a record and return its outcome, None if a source or the registry has to answer first."""
        if not self.is_wanted(scope):
            return self._let_by(record, batch, self.route.otherwise, scope)
        results = self._lookups.cached(scope, time.time())
        if results is None:
            return None
        scope["results"] = results
        return self._outputs.finish(record, batch.lease, results, scope, batch.received_at)

    def is_wanted(self, scope: dict[str, Any]) -> bool:
        """Whether `when` is true of a record. Raises InvalidRequest for one of a wrong type."""
        when = self.route.when
        if when is None:
            return True
        try:
            return is_true(when.evaluate(self._formats.exactly(scope) if when.exact else scope))
        except ValueError as exc:
            raise self._undecided(when, exc) from None

    async def _is_wanted_later(self, scope: dict[str, Any]) -> bool:
        """Do the same, also for a large record."""
        value, when = scope["value"], self.route.when
        if when is None or not isinstance(value, LargeValue):
            return self.is_wanted(scope)
        [found] = await value.evaluate([(when.text, False)], scope)
        if isinstance(found, ValueError):
            raise self._undecided(when, found)
        return is_true(found)

    def _undecided(self, when: Expression, exc: ValueError) -> InvalidRequest:
        return InvalidRequest(f"route {self.route.name}: when ({when.text}): {exc}")

    def _let_by(self, record: Record, batch: RecordBatch, how: str, scope: dict[str, Any] | None) -> str | None:
        """Pass a record on as it is, or drop it; None if the registry has to answer first."""
        if how == "pass":
            return self._outputs.pass_on(record, batch.lease, scope, batch.received_at)
        batch.lease.drop(record.offset)
        if self._order is not None:
            self._order.close(record, batch.lease)
        return DROPPED

    async def _place(self, lease: Lease) -> bool:
        """Wait for a place among those in progress; returns whether the record is still this worker's."""
        while self.in_progress >= self.route.in_progress and lease.taking:
            self._free.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._free.wait()
        return lease.taking

    def _start(self, record: Record, batch: RecordBatch, scope: dict[str, Any]) -> None:
        self.in_progress += 1
        name = f"a record of the route {self.route.name}"
        task = start(self._look_up(record, batch, scope), name, means="it is never answered")
        batch.lease.work.add(task)
        task.add_done_callback(partial(self._ended, batch.lease))  # also if it is cancelled before its first step

    def _ended(self, lease: Lease, task: asyncio.Task[None]) -> None:
        lease.work.discard(task)
        self.in_progress -= 1
        self._free.set()

    async def _look_up(self, record: Record, batch: RecordBatch, scope: dict[str, Any]) -> None:
        lease, began = batch.lease, batch.received_at
        waits = Waits(record, lease, self.waiting)
        try:
            logs.request_id.set(f"{record.topic}-{record.partition}-{record.offset}")
            scope = scope or await self._formats.scope_later(record, waits)
            scope["lookups"], scope["failed"] = {}, {}
            results, outcome = None, None
            if await self._is_wanted_later(scope):
                results = await self._lookups.run(scope, record, waits)
                outcome = self._outputs.finish(record, lease, results, scope, began)
            else:
                outcome = self._let_by(record, batch, self.route.otherwise, scope)
            if outcome is None:
                outcome = await self._outputs.finish_later(record, lease, results, scope, began, waits=waits)
        except asyncio.CancelledError:
            if not waits.given_up:
                raise
            return
        except Exception as exc:  # noqa: BLE001  an offset that never finishes would hold up the partition for good
            outcome = self._fail(record, batch, exc, scope.get("results"))
        self._count(outcome, record, batch, scope)

    def _fail(self, record: Record, batch: RecordBatch, exc: Exception, results: Results | None = None) -> str:
        error: AnswerError = error_for(exc, record)
        self._outputs.fail(record, batch.lease, error, batch.received_at, results=results)
        return error.outcome

    def _count(self, outcome: str, record: Record, batch: RecordBatch, scope: dict[str, Any] | None) -> None:
        self.outcomes[outcome] += 1
        if record.value is None or len(record.value) <= MAX_RECORD:
            self._latest = record, scope, outcome, time.time()
        self.whole.add(time.monotonic() - batch.received_at)
