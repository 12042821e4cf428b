"""Places for requests that the cache cannot answer: which are begun, which wait in the line of their host, and which
are refused. Nobody is waited for here, so that what comes behind is answered meanwhile.

A host that is slow or dead fills its own line. What does not fit into the line of a host that keeps up waits all the
same, and in the end in Kafka; of one that does not it is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

from aiokafka import ConsumerRecord

from agents.answer.line import Line, kind_of
from agents.answer.parsed_requests import ParsedRequest
from models.errors import Overloaded
from models.source import Limits
from models.strictjson import Raw
from streams.config.settings import LARGE, Settings
from streams.kafka.lease import Lease
from streams.pool.costs import Admission
from streams.shares import Shares

MAX_IN_PROGRESS = 4_096
"""Requests that a worker has begun beyond what its cache answers. Many more than fetch at once, so that those who wait
for a slow host leave room for others."""
LOOKS = 64
"""Lines looked at when a place comes free; the others' turn is the next time."""
LOOK_EVERY = 0.1
"""Seconds between looks at who waits in vain."""
STANDS = 0.5
"""Seconds without a look after which it is this process that stood still, not the hosts."""
REFUSED_TOGETHER = 100
"""Requests refused in one turn of the event loop: some 5 ms."""
TREE = 100
"""Bytes of memory that a value within a JSON body takes at most, beside its text."""

Key: TypeAlias = tuple[str, bool]
"""A line: of which host or source, and whether of requests with checks, which may have to wait for the pool."""


class Waiting(NamedTuple):
    """A request that was taken: its id as JSON, and the monotonic time of its receipt. `known` is None for a large one
    that waits: it is read again when it is begun. `weight` is in bytes, 0 for a small one; `checks` are their names.
    """

    record: ConsumerRecord[bytes, bytes]
    lease: Lease
    received_at: float
    request_id: bytes
    known: ParsedRequest | None
    weight: int = 0
    checks: tuple[str, ...] = ()


Leave: TypeAlias = Callable[[bool], None]
"""Gives a place back; says whether there was an answer that took the host no longer than it may."""


class InFlightLimiter:
    """`begin` and `refuse` are called with what is begun and what is not; `admission` is the check pool's, `hosts` are
    the limits of hosts that have their own.
    """

    def __init__(
        self,
        settings: Settings,
        begin: Callable[[Waiting, Leave], None],
        refuse: Callable[[Waiting, Overloaded], None],
        *,
        admission: Admission | None = None,
        hosts: Mapping[str, Limits] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._begin = begin
        self._refuse = refuse
        self._admission = admission
        self._hosts = hosts or {}
        self._clock = clock
        self._places: Shares[Key] = Shares(MAX_IN_PROGRESS)
        self._bytes: Shares[Key] = Shares(settings.max_pending_bytes)
        self._lines: dict[Key, Line] = {}
        self._crowded: OrderedDict[Key, deque[Waiting]] = OrderedDict()
        self._looking: asyncio.TimerHandle | None = None
        self._looked_at = 0.0

    def enter(self, item: Waiting) -> None:
        """Begin a request, put it into its line, or refuse it: at once, whichever it is."""
        known = item.known
        assert known is not None
        kind = kind_of(known, self._hosts)
        if known.request.checks:
            item = item._replace(checks=tuple(call.name for call in known.request.checks))
        key = kind.name, bool(item.checks)
        line = self._lines.get(key)
        if line is None:
            waiting = kind.limits.waiting or self._settings.max_waiting_per_host
            line = self._lines[key] = Line(kind.name, kind.limits, waiting, self._settings.timeout)
        value = item.record.value or b""
        if len(value) >= LARGE:
            item = item._replace(weight=weight_of(value, known))
        queue = self._crowded.get(key)
        if queue is None and self._try(key, line, item):
            return
        now = self._clock()
        stands = now - self._looked_at > STANDS  # or nobody looks: then it is refused by the next look
        if line.begun + len(queue or ()) >= line.most and not line.keeps_up(now) and not stands:
            self._refuse(item, line.refusal(now))
            return
        line.crowded(now)
        if queue is None:
            queue = self._crowded[key] = deque()
        queue.append(item._replace(known=None) if item.weight else item)
        item.lease.wait(item.record.offset)
        self._look_in(LOOK_EVERY)

    def figures(self) -> dict[str, int]:
        """Return how many requests are begun and how many wait to be."""
        return {"begun": self._places.taken, "waiting": sum(map(len, self._crowded.values()))}

    def _try(self, key: Key, line: Line, item: Waiting) -> bool:
        """Begin a request if there is room for it in every respect."""
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
        """Begin the first of a line, if there is room; who waits for a lease that has ended is let go."""
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
        """Refuse who waits in vain: the last of the lines whose hosts do not keep up, a few at a time."""
        self._looking = None
        now, left = self._clock(), REFUSED_TOGETHER
        if (stood := now - self._looked_at) > STANDS:
            for line in self._lines.values():
                line.excuse(stood)
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
    """Return the bytes of memory that a request takes while it is being answered, roughly: its text, and again what it
    sends; of a body that is no text, also its values.
    """
    weight = 2 * len(value)
    if not isinstance(known.request.body, str | Raw):
        weight += TREE * sum(value.count(mark) for mark in (b",", b":", b"[", b"{"))
    return weight
