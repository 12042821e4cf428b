"""Which cache misses begin, which wait in their host's line, and which are refused. Nothing here blocks, so records
behind a miss are answered meanwhile.

A slow or dead host fills its own line only. Beyond the line's length, requests wait if the host keeps up, in the end in
Kafka; otherwise they are refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

from aiokafka import ConsumerRecord

from agents.answer.line import Line, bucket_of, limits_of, line_name
from agents.answer.parsed_requests import ParsedRequest
from models.errors import Overloaded
from models.source import Limits
from models.strictjson import Raw
from streams.config.settings import LARGE, Settings
from streams.http.limits import Bulkhead
from streams.kafka.lease import Lease
from streams.pool.costs import Admission
from streams.shares import Shares

MAX_IN_PROGRESS = 4_096
"""Cache misses in progress per worker: many more than fetch at once, so that a slow host leaves room for others."""
LOOKS = 64
"""Lines looked at when a place becomes free; the others follow next time."""
LOOK_EVERY = 0.1
"""Seconds between looks for requests that wait in vain."""
STANDS = 0.5
"""Seconds without a look after which this process was blocked, not the hosts."""
REFUSED_TOGETHER = 100
"""Requests refused in one look; `RefusalQueue` publishes their errors."""
TREE = 100
"""Bytes of memory that a value in a JSON body takes at most, besides its text."""

Key: TypeAlias = tuple[str, bool]
"""A line: its host or source, and whether its requests have checks, which may have to wait for the pool."""


class Waiting(NamedTuple):
    """A request: `request_id` is JSON, `received_at` monotonic seconds. `known` is None for a large request that waits:
    it is parsed again when it begins. `weight` is in bytes, 0 for a small request; `checks` are names.
    """

    record: ConsumerRecord[bytes, bytes]
    lease: Lease
    received_at: float
    request_id: bytes
    known: ParsedRequest | None
    weight: int = 0
    checks: tuple[str, ...] = ()


Leave: TypeAlias = Callable[[bool], None]
"""Releases a place. The argument: whether the host answered in time."""


class InFlightLimiter:
    """Calls `begin` or `refuse` for each request. `admission` is the check pool's; `hosts` has the limits configured
    for single hosts, `shared` the bulkheads whose rate is shared with other workers, by name.
    """

    def __init__(
        self,
        settings: Settings,
        begin: Callable[[Waiting, Leave], None],
        refuse: Callable[[Waiting, Overloaded], None],
        *,
        admission: Admission | None = None,
        hosts: Mapping[str, Limits] | None = None,
        shared: Mapping[str, Bulkhead] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._begin = begin
        self._refuse = refuse
        self._admission = admission
        self._hosts = hosts or {}
        self._shared = shared or {}
        self._clock = clock
        self._places: Shares[Key] = Shares(MAX_IN_PROGRESS)
        self._bytes: Shares[Key] = Shares(settings.max_pending_bytes)
        self._lines: dict[Key, Line] = {}
        self._crowded: OrderedDict[Key, deque[Waiting]] = OrderedDict()
        self._looking: asyncio.TimerHandle | None = None
        self._looked_at = 0.0

    def enter(self, item: Waiting) -> None:
        """Begin a request, put it into its line, or refuse it, without waiting."""
        known = item.known
        assert known is not None
        if known.request.checks:
            item = item._replace(checks=tuple(call.name for call in known.request.checks))
        key = line_name(known), bool(item.checks)
        line = self._lines.get(key)
        if line is None:
            limits = limits_of(known, self._hosts)
            waiting = limits.waiting or self._settings.max_waiting_per_host
            line = self._lines[key] = Line(
                key[0], limits, waiting, self._settings.timeout, bucket_of(known, self._shared)
            )
        value = item.record.value or b""
        if len(value) >= LARGE:
            item = item._replace(weight=weight_of(value, known))
        queue = self._crowded.get(key)
        if queue is None and self._try(key, line, item):
            return
        now = self._clock()
        stands = now - self._looked_at > STANDS  # if nothing was looked at lately, the next look refuses it
        due = min(now, self._looked_at + LOOK_EVERY)  # what has passed since then is lateness of ours
        if line.begun + len(queue or ()) >= line.most and not line.keeps_up(due) and not stands:
            self._refuse(item, line.refusal(due))
            return
        line.crowded(now)
        if queue is None:
            queue = self._crowded[key] = deque()
        queue.append(item._replace(known=None) if item.weight else item)
        item.lease.wait(item.record.offset)
        self._look_in(LOOK_EVERY)

    def figures(self) -> dict[str, int]:
        """Return how many requests are in progress and how many wait."""
        return {"begun": self._places.taken, "waiting": sum(map(len, self._crowded.values()))}

    def _try(self, key: Key, line: Line, item: Waiting) -> bool:
        """Begin a request if all limits allow it; returns whether they do."""
        if line.begun >= line.most or not self._places.fits(key):
            return False
        if item.weight and not self._bytes.fits(key, item.weight):
            return False
        promised = 0.0
        if self._admission is not None and item.checks:
            admitted = self._admission.admit(item.checks)
            if admitted is None:
                return False
            promised = admitted
        line.begun += 1
        self._places.take(key)
        if item.weight:
            self._bytes.take(key, item.weight)
        self._begin(item, partial(self._release, key, line, item.weight, promised))
        return True

    def _release(self, key: Key, line: Line, weight: int, promised: float, answered: bool) -> None:  # noqa: FBT001
        line.begun -= 1
        self._places.give(key)
        if weight:
            self._bytes.give(key, weight)
        if promised and self._admission is not None:
            self._admission.release(promised)
        if answered:
            line.answered(self._clock())
        if key in self._crowded:
            self._advance(key)
        elif line.begun <= line.most // 2:
            line.relaxed()
            if not line.begun:
                self._lines.pop(key, None)
        for _ in range(min(LOOKS, len(self._crowded))):
            first = next(iter(self._crowded))
            self._crowded.move_to_end(first)
            self._advance(first)
            if not self._crowded:
                break

    def _advance(self, key: Key) -> None:
        """Begin the first request of a line if there is room; drop those of leases that have ended."""
        queue, line = self._crowded[key], self._lines[key]
        while queue and not queue[0].lease.taking:
            queue.popleft()
        if queue:
            item = queue.popleft()
            item.lease.resume(item.record.offset)
            if not self._try(key, line, item):
                item.lease.wait(item.record.offset)
                queue.appendleft(item)
        if not queue:
            del self._crowded[key]

    def _look_in(self, seconds: float) -> None:
        if self._looking is None:
            self._looked_at = self._clock()
            self._looking = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Refuse the last requests of lines whose hosts do not keep up, a few at a time."""
        self._looking = None
        now, left = self._clock(), REFUSED_TOGETHER
        if (late := now - self._looked_at - LOOK_EVERY) > 0:
            for line in self._lines.values():
                line.excuse(late)
        for key, queue in list(self._crowded.items()):
            line = self._lines[key]
            self._advance(key)
            excess = min(len(queue), line.begun + len(queue) - line.most)
            if excess <= 0 or line.keeps_up(now):
                continue
            for _ in range(min(excess, left)):
                item = queue.pop()
                if item.lease.taking:
                    item.lease.resume(item.record.offset)
                    self._refuse(item, line.refusal(now))
            left -= min(excess, left)
            if not queue:
                self._crowded.pop(key, None)
            if not left:
                break
        if self._crowded:
            self._look_in(LOOK_EVERY if left else 0.0)


def weight_of(value: bytes, known: ParsedRequest) -> int:
    """Return the approximate bytes of memory of a request in progress: its text, what it sends, and a body's values."""
    weight = 2 * len(value)
    if not isinstance(known.request.body, str | Raw):
        weight += TREE * sum(value.count(mark) for mark in (b",", b":", b"[", b"{"))
    return weight
