"""The order of keys in transactions: one result a request, in order, whatever Kafka and workers do."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from aiokafka.errors import KafkaConnectionError, RecordTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.answer.agent import Answerer
from agents.routes.formats import Formats
from agents.routes.outputs import Outputs
from agents.routes.runner import RouteRunner
from models.expression import Path
from models.route import Lookup, Route
from streams.config.settings import EXACTLY_ONCE, Kafka, Settings
from streams.kafka import transactional as module
from streams.kafka.batch import RecordBatch
from streams.kafka.commit_metadata import Identity
from streams.kafka.lease import Lease, Member
from streams.kafka.outgoing import BATCH_BYTES
from streams.kafka.transactional import TransactionalPublisher
from tests.unit.agents.test_key_order import KINDS, LIMIT, Asked, Upstream

PATIENCE = 20.0
REQUESTS = TP("requests", 0)
SETTINGS = replace(Settings(), order="key", delivery=EXACTLY_ONCE)


class Group:
    """What is committed: records by topic, and how far the requests are answered."""

    def __init__(self):
        self.log = defaultdict(list)
        self.point = 0, ""


class Producer:
    """Fails at steps that `faults` name; a commit that fails was made or not."""

    def __init__(self, life, faults):
        self._life, self._faults = life, list(faults)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def _fails(self, step):
        await asyncio.sleep(0)
        if not self._faults or self._faults[-1][0] != step:
            return False
        _, self.made, turns = self._faults.pop()
        for _turn in range(turns):
            await asyncio.sleep(0)
        return True

    async def begin(self):
        self.open, self.points, self.made = defaultdict(list), {}, True
        if await self._fails("begin"):
            raise KafkaConnectionError

    async def new_batch(self):
        return BatchBuilder(BATCH_BYTES, 0, is_transactional=True)

    async def ship(self, topic, _, batch):
        data = bytes(batch._build())
        if await self._fails("ship"):
            raise KafkaConnectionError
        if topic == "results" and len(data) > LIMIT:
            raise RecordTooLargeError
        self.open[topic] += [(record.key, record.value) for record in MemoryRecords(data).next_batch()]

    async def add_offsets(self, _, __, points):
        if await self._fails("offsets"):
            raise KafkaConnectionError
        self.points = points

    async def commit(self):
        failed, group = await self._fails("commit"), self._life.group
        if self.made and not self._life.is_over:
            for topic, records in self.open.items():
                group.log[topic] += records
            group.point = tuple(self.points.get(REQUESTS, group.point))
        if failed:
            raise KafkaConnectionError

    async def discard(self, *, fenced):  # noqa: ARG002
        await asyncio.sleep(0)


class Life:
    """A worker's: it takes its lease from the group's commit, and again when nobody knows what was committed last."""

    def __init__(self, group, chunks):
        self.group, self.chunks = group, chunks
        self.is_over = False
        self.working = []

    def take(self):
        position, metadata = self.group.point
        self.lease = Lease("millrace", "requests", 0, Identity("c", "t"), position=position, metadata=metadata)
        self.lease.member = Member(1, "me")
        self.working.append(asyncio.ensure_future(self._work(self.lease)))

    async def _work(self, lease):
        for chunk in self.chunks:
            left = [record for record in chunk if record.offset >= lease.resumed]
            if left and lease.alive:
                fresh = lease.deliver(left, left[-1].offset + 1, 1_000_000)
                await self.answer(RecordBatch(fresh, lease, time.monotonic()))

    def committable(self):
        return {REQUESTS: self.lease} if self.lease.alive else {}

    def is_whole(self):
        return self.lease.alive

    def retake(self, leases):
        if self.lease in leases:
            self.lease.revoke()
            self.take()

    @property
    def is_done(self):
        return not self.lease.unfinished and all(work.done() for work in self.working)

    async def end(self):
        self.is_over = True
        self.lease.revoke()
        for work in self.working:
            work.cancel()
        await asyncio.gather(*self.working, return_exceptions=True)


def requests(publisher):
    """Return what answers requests."""
    return Answerer(SETTINGS, Upstream(), publisher).answer


def route(publisher):
    """Return what works on the records of a route."""
    lookup = Lookup("l", "s", into=Path("answer"))
    made = Route("r", ("requests",), "results", (lookup,), "dead-letters", stages=((lookup,),), order="key",
                 output="result", in_progress=3)  # fmt: skip
    formats = Formats(made)
    outputs = Outputs(made, SETTINGS, publisher, {"requests": 1, "results": 1}, formats)
    return RouteRunner(made, Upstream(), formats, outputs, publisher).take


async def live(group, chunks, faults, make, *, turns, limit):
    """Let a worker live for so many turns of the event loop, None: until all is finished."""
    life = Life(group, chunks)
    publisher = TransactionalPublisher(Kafka(), "test", pytest.fail, group="millrace", name="id", holder=lambda: life)
    publisher._producer, publisher._metadata_limit = Producer(life, faults), limit
    async with publisher, asyncio.timeout(PATIENCE):
        publisher.learn("results", 1)
        publisher.learn("dead-letters", 1)
        life.answer = make(publisher)
        life.take()
        turn = 0
        while not life.is_done if turns is None else turn < turns:
            await asyncio.sleep(0 if turn < 500 else 0.001)
            turn += 1
        await life.end()


_ASKED = st.lists(
    st.builds(Asked, st.sampled_from((b"a", b"b", b"c", None)), st.sampled_from(KINDS), st.integers(0, 12)),
    min_size=1, max_size=40,
)  # fmt: skip
_FAULTS = st.lists(
    st.tuples(st.sampled_from(("begin", "ship", "offsets", "commit")), st.booleans(), st.integers(0, 6)), max_size=8
)


@pytest.fixture(params=[requests, route])
def make(request, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.0)
    return request.param


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=_ASKED,
    size=st.integers(1, 12),
    limit=st.sampled_from((60, 75, 90, 4096)),
    lives=st.tuples(st.lists(st.tuples(st.integers(0, 150), _FAULTS), max_size=2), st.tuples(st.none(), _FAULTS)),
)
def test_each_result_is_committed_once_in_the_order_of_its_key(asked, size, limit, lives, make):
    """Transactions that fail at any step, commits of which nobody knows whether they were made, results that Kafka
    refuses, metadata with room for nothing, and workers that die at any moment: each request has one result, in the
    order of its key, and each that failed has one dead letter.
    """
    records = [each.record(offset, route=make is route) for offset, each in enumerate(asked)]
    chunks, group = [records[start : start + size] for start in range(0, len(records), size)], Group()
    for turns, faults in [*lives[0], lives[1]]:
        asyncio.run(live(group, chunks, faults, make, turns=turns, limit=limit))
    found = defaultdict(list)
    for key, value in group.log["results"]:
        offset = int(json.loads(value)["id"].rsplit("-", 1)[1])
        assert key == asked[offset].key
        found[key].append(offset)
    assert sorted(offset for offsets in found.values() for offset in offsets) == list(range(len(asked)))
    assert all(offsets == sorted(offsets) for key, offsets in found.items() if key is not None)
    failed = (
        (each.key, record.raw if each.kind == "unreadable" else record.value)
        for each, record in zip(asked, records, strict=True)
        if each.kind not in ("hit", "miss")
    )
    assert Counter(group.log["dead-letters"]) == Counter(failed)
