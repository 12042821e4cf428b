"""The order of keys: whatever upstreams, Kafka and workers do, the results of a key come in its requests' order."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from dataclasses import dataclass, replace

import pytest
from aiokafka import ConsumerRecord
from aiokafka.errors import KafkaTimeoutError
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.answer.agent import Answerer
from agents.answer.encoded_answer import EncodedAnswer
from agents.routes.formats import Formats
from agents.routes.lookups import Found
from agents.routes.outputs import Outputs
from agents.routes.runner import RouteRunner
from models.errors import Overloaded, UpstreamError
from models.expression import Path
from models.request import Request
from models.result import Answer, encode_answer
from models.route import Lookup, Route
from streams.cache.entry import Entry
from streams.config.settings import Kafka, Settings
from streams.kafka import client, outgoing, producer
from streams.kafka import publisher as publishing
from streams.kafka.batch import RecordBatch
from streams.kafka.commit_metadata import Identity
from streams.kafka.fetched import Unreadable
from streams.kafka.lease import Lease
from streams.kafka.publisher import Publisher
from tests.unit.streams.test_publisher import ARRIVED, Cluster

PATIENCE = 20.0
"""Seconds after which what should have happened has not."""
LIMIT = 4_000
"""Bytes that the topics take: fewer than the worker knows."""
KINDS = ("hit", "miss", "fails", "refused", "hit-that-fails", "hit-too-large", "large-hit", "invalid", "unreadable")
FAILED = UpstreamError("example.org answered 503", 503)
REQUEST = Request(url="http://example.org/")


def answer(size=1, error=None):
    made = Answer.failed(error) if error else Answer("ok", 200, "x" * size, has_document=True)
    return encode_answer(REQUEST, made)


@dataclass(frozen=True)
class Asked:
    """A request: its key, what becomes of it, and for how many turns of the event loop its upstream takes."""

    key: bytes | None
    kind: str
    turns: int

    def record(self, offset, *, route):
        kind = self.kind.encode()
        value = b'{"url":"http://example.org/%d/%b/%d"}' % (offset, kind, self.turns)
        if route:
            value = b'{"offset":%d,"kind":"%b","turns":%d}' % (offset, kind, self.turns)
        if self.kind == "invalid":
            value = b"{"
        if self.kind == "unreadable":
            return Unreadable("requests", 0, offset, 5, 0, None, None, None, -1, -1, (), "no reason", value,
                              sent_key=self.key)  # fmt: skip
        return ConsumerRecord("requests", 0, offset, 5 + offset, 0, self.key, value, None, 1, 1, ())


class Upstream:
    """In the place of an enricher: what a request meets stands in its URL. `begun` are offsets, in order."""

    def __init__(self):
        self.begun = []

    def _read(self, known):
        if isinstance(known, dict):  # a record of a route
            return known["offset"], known["kind"], known["turns"]
        _, offset, kind, turns = known.request.url.rsplit("/", 3)
        return int(offset), kind, int(turns)

    def cached(self, scope, now):
        """As the lookups of a route."""
        entry = self.peek(scope["value"], now)
        return entry and self._found(entry.error, EncodedAnswer.of(entry, b"hit"))

    async def run(self, scope, *_):
        if scope["value"]["kind"] == "refused":
            return self._found(Overloaded("no"), None)
        answer = await self.answer(scope["value"], None)
        return self._found(answer.error, answer)

    def _found(self, error, answer):
        return {"l": Found(error=error, answer=answer)}

    def refusal(self, known):
        return Overloaded("no") if self._read(known)[1] == "refused" else None

    def overdue(self, _):
        pass

    def peek(self, known, now):
        kind = self._read(known)[1]
        if not kind.endswith(("hit", "too-large", "hit-that-fails")):
            return None
        error = FAILED if kind == "hit-that-fails" else None
        size = {"hit-too-large": LIMIT, "large-hit": 20_000}.get(kind, 1)
        return Entry(answer(size, error), now, now + 60, error)

    async def answer(self, known, _):
        offset, kind, turns = self._read(known)
        self.begun.append(offset)
        for _turn in range(turns):
            await asyncio.sleep(0)
        error = FAILED if kind == "fails" else None
        return EncodedAnswer(answer(1, error), b"miss", None if error else time.time(), error)


class Log(Cluster):
    """A cluster that acknowledges late, and fails batches that it has written, or has not. `faults` says which."""

    def __init__(self, faults):
        super().__init__()
        self.outcomes = list(faults)
        self.limit = LIMIT
        self.written = defaultdict(list)
        self.closed = False

    def take(self, producer, place, batch):  # noqa: ARG002
        data = bytes(batch._build())
        future = asyncio.get_running_loop().create_future()
        kept, fault, turns = self.outcomes.pop() if self.outcomes else (True, None, 0)
        if len(data) > self.limit and place[0] == "results":
            kept, fault = False, self.refusal()
        if kept and not self.closed:
            self.written[place[0]] += [(record.key, record.value) for record in MemoryRecords(data).next_batch()]
        asyncio.ensure_future(self._answer(future, fault, turns))  # noqa: RUF006
        return future

    async def _answer(self, future, fault, turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        if not future.done():
            future.set_result(ARRIVED) if fault is None else future.set_exception(fault)


def requests(upstream, publisher):
    """Return what answers requests."""
    return Answerer(replace(Settings(), order="key"), upstream, publisher).answer


def route(upstream, publisher):
    """Return what works on the records of a route."""
    lookup = Lookup("l", "s", into=Path("answer"))
    made = Route("r", ("requests",), "results", (lookup,), "dead-letters", stages=((lookup,),), order="key",
                 output="result", in_progress=3)  # fmt: skip
    formats = Formats(made)
    outputs = Outputs(made, Settings(), publisher, {"requests": 1, "results": 1}, formats)
    return RouteRunner(made, upstream, formats, outputs, publisher).take


async def live(log, lease, chunks, turns, make):
    """Let a worker live for so many turns of the event loop, None: until all is finished; returns its last commit, and
    the offsets for which the upstream was asked, in order.
    """
    commit, upstream = lease.commit_point(), Upstream()
    async with Publisher(Kafka(), "test", lambda exc: pytest.fail(repr(exc))) as publisher:
        publisher.learn("results", 1)
        publisher.learn("dead-letters", 1)
        working = asyncio.ensure_future(work(make(upstream, publisher), lease, chunks))
        async with asyncio.timeout(PATIENCE):
            turn = 0
            while lease.unfinished or not working.done() if turns is None else turn < turns:
                await asyncio.sleep(0 if turn < 500 else 0.001)
                turn += 1
                assert lease.held <= lease.unfinished  # so what bounds the pending bounds what waits for its key
                if turn % 7 == 0:
                    commit = lease.commit_point()
        if turns is None:
            await working
            assert (lease.held, lease.keys, lease.in_progress) == (0, {}, 0)
        log.closed = True
        working.cancel()
        lease.revoke()
        await asyncio.gather(working, return_exceptions=True)
    return commit, upstream.begun


async def work(answer, lease, chunks):
    """Deliver and answer what is there, chunk by chunk, from where the lease begins."""
    for chunk in chunks:
        left = [record for record in chunk if record.offset >= lease.resumed]
        if left:
            fresh = lease.deliver(left, left[-1].offset + 1, 1_000_000)
            await answer(RecordBatch(fresh, lease, time.monotonic()))


def answered(log, asked):
    """Return the offsets of the results of each key, in the order of the log."""
    found = defaultdict(list)
    for key, value in log:
        offset = int(json.loads(value)["id"].rsplit("-", 1)[1])
        assert key == asked[offset].key
        found[key].append(offset)
    return found


_ASKED = st.lists(
    st.builds(Asked, st.sampled_from((b"a", b"b", b"c", None)), st.sampled_from(KINDS), st.integers(0, 12)),
    min_size=1, max_size=40,
)  # fmt: skip
_FAULTS = st.lists(
    st.one_of(
        st.tuples(st.just(True), st.none(), st.integers(0, 6)),
        st.tuples(st.booleans(), st.builds(KafkaTimeoutError), st.integers(0, 6)),
    ),
    max_size=12,
)


@pytest.fixture(params=[requests, route])
def make(request):
    return request.param


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=_ASKED,
    size=st.integers(1, 12),
    lives=st.tuples(st.lists(st.tuples(st.integers(0, 120), _FAULTS), max_size=2), st.tuples(st.none(), _FAULTS)),
)
def test_results_of_a_key_come_in_the_order_of_its_requests(asked, size, lives, make, monkeypatch):
    """Hits, misses, failures, invalid, unreadable and refused records, batches that fail, results that Kafka refuses,
    and workers that die at any moment: every request is answered, and both the first and the last results of a key's
    requests come in order. Of one key, one request at a time is begun.
    """
    records, written = [each.record(offset, route=make is route) for offset, each in enumerate(asked)], []
    identity, place, metadata = Identity("cluster", "topic"), 0, ""
    for turns, outcomes in [*lives[0], lives[1]]:
        lease, log = Lease("millrace", "requests", 0, identity, position=place, metadata=metadata), Log(outcomes)
        with monkeypatch.context() as patches:
            patches.setattr(client, "producer", log.opened)
            for module, name in ((publishing, "LINGER"), (producer, "RETRY_PAUSE"), (outgoing, "RETRY_PAUSE")):
                patches.setattr(module, name, 0)
            chunks = [records[start : start + size] for start in range(0, len(records), size)]
            (place, metadata), begun = asyncio.run(live(log, lease, chunks, turns, make))
        written += log.written["results"]
        for key in (b"a", b"b", b"c"):
            of_key = [offset for offset in begun if asked[offset].key == key]
            assert of_key == sorted(of_key)
    found = answered(written, asked)
    assert {offset for offsets in found.values() for offset in offsets} == set(range(len(asked)))
    for key, offsets in found.items():
        if key is not None:
            first, last = list(dict.fromkeys(offsets)), list(dict.fromkeys(reversed(offsets)))[::-1]
            assert (first, last) == (sorted(first), sorted(last)), key
