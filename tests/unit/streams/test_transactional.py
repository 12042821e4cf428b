"""Transactions over a fake producer that fails at the step that a test names."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    ProducerFenced,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from models.errors import AccessError
from streams.config.settings import Kafka
from streams.kafka import commit_metadata as memo
from streams.kafka import producer as producing
from streams.kafka import publisher as base
from streams.kafka import transactional as module
from streams.kafka.commit_metadata import Identity
from streams.kafka.lease import Lease, Member
from streams.kafka.outgoing import BATCH_BYTES, OutgoingRecord
from streams.kafka.transaction import choose
from streams.kafka.transactional import TransactionalPublisher
from streams.kafka.txn_offsets import GroupMovedOn
from streams.kafka.txn_producer import TransactionalProducer
from tests.fakes import Record

HERE = Identity("cluster", "topic-id")
MEMBER = Member(3, "me")
REQUESTS = TP("requests", 0)
PATIENCE = 5.0


class Producer:
    """Keeps what was committed; fails once at each step in `faults`."""

    def __init__(self, *_):
        self.committed: list[SimpleNamespace] = []
        self.faults: dict[str, Exception] = {}
        self.discarded: list[bool] = []
        self.steps: list[str] = []
        self.limit = 1 << 20

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    def _step(self, name):
        self.steps.append(name)
        if name in self.faults:
            raise self.faults.pop(name)

    async def begin(self):
        self._step("begin")
        self.open = SimpleNamespace(values={}, points={}, group=None, member=None)

    async def new_batch(self):
        return BatchBuilder(BATCH_BYTES, 0, is_transactional=True)

    async def ship(self, topic, partition, batch):
        self._step("ship")
        data = bytes(batch._build())
        if len(data) > self.limit:
            raise RecordTooLargeError
        records = MemoryRecords(data).next_batch()
        self.open.values.setdefault((topic, partition), []).extend(record.value for record in records)

    async def add_offsets(self, group, member, points):
        self._step("offsets")
        self.open.group, self.open.member, self.open.points = group, member, points

    async def commit(self):
        self._step("commit")
        self.committed.append(self.open)

    async def discard(self, *, fenced):
        self.discarded.append(fenced)


class Holder:
    def __init__(self, **leases):
        self.leases = {TP("requests", int(name[1:])): lease for name, lease in leases.items()}
        self.retaken, self.gone = [], []

    def committable(self):
        return {tp: lease for tp, lease in self.leases.items() if lease.alive}

    def is_whole(self):
        return all(lease.alive for lease in self.leases.values())

    def retake(self, leases):
        self.retaken += leases
        self._end(leases)

    def lost(self, leases):
        self.gone += leases
        self._end(leases)

    def _end(self, leases):
        for lease in leases:
            lease.revoke()


def held(partition=0, count=10):
    """A lease with so many records delivered."""
    lease = Lease("group", "requests", partition, HERE, position=0)
    lease.member = MEMBER
    lease.deliver([Record(offset, offset + 1) for offset in range(count)], count)
    return lease


def _keep(_): ...


def record(lease, offset, value=b"v", **more):
    return OutgoingRecord(lease, offset, None, value, [], _keep, **more)


@pytest.fixture
async def opened(monkeypatch):
    """A publisher, its fake producer, a lease and its holder; transactions begin when a test commits."""
    monkeypatch.setattr(module, "TransactionalProducer", Producer)
    monkeypatch.setattr(module, "EVERY", 1_000.0)
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.0)
    lease = held()
    holder, crashes = Holder(p0=lease), []
    publisher = TransactionalPublisher(Kafka(), "test", crashes.append, group="group", name="id", holder=lambda: holder)
    for topic in ("results", "letters"):
        publisher.learn(topic, 4)
    async with publisher:
        yield SimpleNamespace(publisher=publisher, producer=publisher._producer, lease=lease, holder=holder,
                              crashes=crashes)  # fmt: skip


async def test_results_dead_letters_and_offsets_are_one_transaction(opened):
    """What waits is committed together, as the lease's member; only then is it finished and acknowledged."""
    publisher, lease = opened.publisher, opened.lease
    publisher.publish("letters", 0, record(lease, 0, b"letter"))
    publisher.publish("results", 0, record(lease, 0, b"failed"))
    publisher.publish("results", 0, record(lease, 2, b"fine"))
    assert lease.finished == 0
    assert await publisher.commit() is True
    [done] = opened.producer.committed
    assert done.values == {("letters", 0): [b"letter"], ("results", 0): [b"failed", b"fine"]}
    assert (done.group, done.member) == ("group", MEMBER)
    assert done.points == {REQUESTS: lease.committed}
    assert done.points[REQUESTS].offset == 1
    assert 2 in memo.decode(lease.owner, HERE, 1, done.points[REQUESTS].metadata)
    assert (lease.finished, publisher.backlog, publisher.transactions) == (2, 0, {"committed": 1})


async def test_there_is_no_transaction_for_nothing(opened):
    """Without a record, a commit is made for what was finished without one alone, and once."""
    assert await opened.publisher.commit() is True  # the lease's first commit says which topic it is of
    assert await opened.publisher.commit() is None
    opened.lease.finish(0)
    assert await opened.publisher.commit() is True
    assert await opened.publisher.commit() is None
    _, done = opened.producer.committed
    assert (done.values, done.points[REQUESTS].offset) == ({}, 1)


@pytest.mark.parametrize("step", ["begin", "ship", "offsets"])
async def test_what_fails_before_the_commit_goes_into_the_next_transaction(opened, step):
    """Nothing is finished, a new producer aborts it, and the same records and offsets come again."""
    publisher, lease = opened.publisher, opened.lease
    for offset in range(3):
        publisher.publish("results", 0, record(lease, offset, b"%d" % offset))
    opened.producer.faults[step] = KafkaConnectionError()
    assert await publisher.commit() is False
    assert (lease.finished, opened.producer.discarded, publisher.failing_since is None) == (0, [False], False)
    assert await publisher.commit() is True
    [done] = opened.producer.committed
    assert done.values == {("results", 0): [b"0", b"1", b"2"]}
    assert (done.points[REQUESTS].offset, publisher.failing_since) == (3, None)
    assert publisher.transactions == {"aborted": 1, "committed": 1}


async def test_after_a_failed_commit_the_group_says_what_is_done(opened):
    """A transaction may be committed though its commit failed: nothing of it is published again by what we know, its
    leases are taken anew.
    """
    publisher, lease = opened.publisher, opened.lease
    publisher.publish("results", 0, record(lease, 0))
    opened.producer.faults["commit"] = KafkaConnectionError()
    assert await publisher.commit() is False
    assert opened.holder.retaken == [lease]
    assert await publisher.commit() is None
    assert (publisher.backlog, publisher.transactions) == (0, {"unknown": 1})


async def test_a_member_that_the_group_left_behind_drops_its_results(opened):
    """The coordinator refuses the offsets: the new owner answers, and this worker joins again."""
    publisher, lease = opened.publisher, opened.lease
    publisher.publish("results", 0, record(lease, 0))
    opened.producer.faults["offsets"] = GroupMovedOn("ILLEGAL_GENERATION")
    assert await publisher.commit() is False
    assert opened.holder.gone == [lease]
    assert await publisher.commit() is None
    assert opened.producer.committed == []


async def test_a_fenced_producer_goes_on_by_another_id(opened):
    """Two workers of one name would fence each other for ever."""
    opened.publisher.publish("results", 0, record(opened.lease, 0))
    opened.producer.faults["ship"] = ProducerFenced()
    assert await opened.publisher.commit() is False
    assert opened.producer.discarded == [True]
    assert await opened.publisher.commit() is True


async def test_a_missing_acl_ends_the_worker(opened):
    """No retry brings it."""
    opened.publisher.publish("results", 0, record(opened.lease, 0))
    opened.producer.faults["ship"] = TopicAuthorizationFailedError("results")
    await opened.publisher.commit()
    assert isinstance(opened.crashes[0], AccessError)


async def test_a_lease_that_ends_on_the_way_takes_its_results_out(opened, monkeypatch):
    """Results may not be half there when their offsets are committed: the transaction begins again without them."""
    publisher, lease, other = opened.publisher, opened.lease, held(1)
    opened.holder.leases[TP("requests", 1)] = other
    publisher.publish("results", 0, record(lease, 0, b"mine"))
    publisher.publish("results", 1, record(other, 0, b"other"))
    ship = opened.producer.ship

    async def end_one(*args):
        await ship(*args)
        other.revoke()

    monkeypatch.setattr(opened.producer, "ship", end_one)
    assert await publisher.commit() is False
    assert await publisher.commit() is True
    [done] = opened.producer.committed
    assert done.values == {("results", 0): [b"mine"]}
    assert done.points.keys() == {REQUESTS}


async def test_a_record_that_kafka_finds_too_large_becomes_another(opened):
    """The transaction is aborted, each record of the batch goes alone, and the large one goes back to its owner, who
    publishes a dead letter and a smaller result in its stead: both in one transaction.
    """
    publisher, lease, producer = opened.publisher, opened.lease, opened.producer

    def replace(large):
        publisher.publish("letters", 0, record(lease, large.offset, b"letter"))
        publisher.publish("results", 0, record(lease, large.offset, b"small"))

    producer.limit = 1_000
    publisher.publish("results", 0, record(lease, 0, b"a"))
    publisher.publish("results", 0, record(lease, 1, b"x" * 1_500, take_back=replace))
    publisher.publish("results", 0, record(lease, 2, b"c"))
    async with asyncio.timeout(PATIENCE):
        while await publisher.commit() is False:
            assert lease.finished == 0
    values = {place: sorted(values) for done in producer.committed for place, values in done.values.items()}
    assert values == {("results", 0): [b"a", b"c", b"small"], ("letters", 0): [b"letter"]}
    assert (lease.point, publisher.backlog) == (3, 0)


async def test_a_slow_transaction_takes_less_the_next_time(opened, monkeypatch):
    """One that Kafka does not take in time would fail for ever: the next has the first half of the offsets."""
    publisher, lease = opened.publisher, opened.lease
    for offset in range(8):
        publisher.publish("results", 0, record(lease, offset, b"%d" % offset))
    opened.producer.faults["ship"] = TimeoutError()
    assert await publisher.commit() is False
    assert await publisher.commit() is True
    assert await publisher.commit() is True
    assert [done.values[("results", 0)] for done in opened.producer.committed] == [
        [b"0", b"1", b"2", b"3"], [b"4", b"5", b"6", b"7"]]  # fmt: skip


async def test_a_long_outage_leaves_no_small_transactions_behind(opened):
    """Hours without a broker say nothing about how much it takes at once; and after a transaction that took less, the
    rest follows at once, though nothing more is published.
    """
    publisher, lease = opened.publisher, held(0, 500)
    opened.holder.leases[REQUESTS] = lease
    for offset in range(500):
        publisher.publish("results", 0, record(lease, offset))
    for step, times in (("begin", 1_200), ("ship", 30)):
        for _ in range(times):
            opened.producer.faults[step] = TimeoutError()
            assert await publisher.commit() is False
    async with asyncio.timeout(PATIENCE):
        assert await publisher.commit() is True
        await publisher.arrived(PATIENCE)
    assert len(opened.producer.committed) < 15
    assert lease.point == 500


async def test_what_was_lost_with_its_lease_fails_no_more(opened):
    """A worker with nothing left to commit is ready, also when no request comes for hours."""
    opened.publisher.publish("results", 0, record(opened.lease, 0))
    opened.producer.faults["commit"] = KafkaConnectionError()
    assert await opened.publisher.commit() is False
    assert await opened.publisher.commit() is None
    assert opened.publisher.failing_since is not None  # its partition stands still
    opened.holder.leases[REQUESTS] = held(0, 0)
    opened.holder.leases[REQUESTS].committed = opened.holder.leases[REQUESTS].commit_point()
    assert await opened.publisher.commit() is None
    assert opened.publisher.failing_since is None


@pytest.mark.parametrize("large", [1, 6, 7, 8])
async def test_what_kafka_refuses_keeps_its_place(opened, large):
    """Results of a key come in the order of their requests, though a later batch of the transaction is refused."""
    publisher, lease, producer = opened.publisher, opened.lease, opened.producer

    async def replace(record):
        return record._replace(value=b"small", take_back=None)

    publisher.limits["results"], producer.limit = 500, 450  # some small records a batch
    for offset in range(10):
        value = b"x" * 80 if offset != large else b"x" * 420
        publisher.publish("results", 0, record(lease, offset, value, take_back=replace), fits=True)
    order = [each.offset for each in publisher._queues["results", 0].waiting]
    async with asyncio.timeout(PATIENCE):
        while await publisher.commit() is False:
            assert [each.offset for each in publisher._queues["results", 0].waiting] == order
    values = producer.committed[0].values[("results", 0)]
    assert [number for number, value in enumerate(values) if value == b"small"] == [large]


async def test_a_dead_letter_is_committed_with_the_offset_whose_result_fits_nowhere(opened, monkeypatch):
    """Such an offset is finished at once, so that every commit says so from then on: its dead letter may not wait."""
    publisher, lease = opened.publisher, opened.lease
    monkeypatch.setattr(publisher, "_share", 0.25)
    publisher.limits["results"] = 400
    for offset in range(4):
        publisher.publish("results", 0, record(lease, offset))
    publisher.publish("letters", 0, record(lease, 5, b"letter"))
    publisher.publish("results", 0, record(lease, 5, b"x" * 500)._replace(shrink=lambda _: None))
    assert await publisher.commit() is True
    [done] = opened.producer.committed
    point = done.points[REQUESTS]
    assert 5 in memo.decode(lease.owner, HERE, point.offset, point.metadata)
    assert done.values[("letters", 0)] == [b"letter"]


def test_what_a_commit_can_list_is_found_in_two_looks(monkeypatch):
    """Each goes through all that is pending, on the loop, ten times a second."""
    looks, lease = [], held(0, 20_000)
    look = Lease.point_with
    monkeypatch.setattr(Lease, "point_with", lambda *args: (looks.append(1), look(*args))[1])
    chosen, point = choose(lease, set(range(1, 20_000, 2)), memo.METADATA_LIMIT)
    assert len(looks) == 2
    assert len(chosen) == memo.length(point.metadata) > 900


def test_the_record_at_the_point_is_committed_however_many_were_dropped_behind_it():
    """A key with thousands of records that wait for each other, and between them others that a route drops: the commit
    has no room to list these, and need not.
    """
    lease = Lease("g", "t", 0, position=0)
    lease.deliver([Record(offset, 5) for offset in range(20_000)], 20_000)
    for offset in range(1, 20_000, 2):
        lease.drop(offset)
    chosen, point = choose(lease, {0}, memo.METADATA_LIMIT)
    assert chosen == {0}
    assert point is not None
    assert point.offset == 2


async def test_a_partition_that_stays_away_ends_the_worker(monkeypatch):
    """A topic made again with fewer partitions takes no result of some requests any more, whatever is tried."""
    crashes = []

    async def there(_):
        return {0}

    async def look():
        pass

    producer = TransactionalProducer(Kafka(), "test", crashes.append, "id")
    client = SimpleNamespace(force_metadata_update=look)
    producer._producer = SimpleNamespace(partitions_for=there, client=client)
    for _ in range(2):
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.ship("results", 1, None)
        assert crashes == []
    monkeypatch.setattr(producing, "ABSENT_FOR", 0.0)
    with pytest.raises(UnknownTopicOrPartitionError):
        await producer.ship("results", 1, None)
    assert (
        str(crashes[0])
        == "topic 'results' has 1 partitions now, fewer than when this worker began: it must begin again"
    )


async def test_what_the_metadata_cannot_remember_waits_for_what_comes_before(opened):
    """Every second of many requests is answered: more holes than a commit can list. What it cannot list is kept back,
    does not count as congestion, fills its partition, and is committed once the first ones are answered.
    """
    publisher, lease = opened.publisher, held(0, 8_000)
    opened.holder.leases[REQUESTS] = lease
    for offset in range(1, 8_000, 2):
        publisher.publish("results", 0, record(lease, offset, b"%d" % offset))
    assert await publisher.commit() is True
    [done] = opened.producer.committed
    listed = memo.decode(lease.owner, HERE, 0, done.points[REQUESTS].metadata)
    first = len(done.values[("results", 0)])
    assert [number for number in range(8_000) if number in listed] == list(range(1, 2 * first, 2))
    assert publisher.backlog == 4_000 - first > 0
    for offset in range(0, 8_000, 2):
        publisher.publish("results", 0, record(lease, offset, b"%d" % offset))
    while await publisher.commit():
        pass
    values = [value for done in opened.producer.committed for value in done.values.get(("results", 0), ())]
    assert sorted(map(int, values)) == list(range(8_000))
    assert (lease.point, publisher.backlog) == (8_000, 0)


async def test_kept_back_results_fill_their_partition_only(opened, monkeypatch):
    """No more is taken of a partition with its share kept back; requests that may be refused still find room."""
    monkeypatch.setattr(base, "BACKLOG_RECORDS", 400)
    publisher, lease = opened.publisher, held(0, 8_000)
    opened.holder.leases[REQUESTS] = lease
    for offset in range(1, 8_000, 2):
        publisher.publish("results", 0, record(lease, offset))
    assert publisher.congested
    assert await publisher.commit() is True
    assert not publisher.congested
    assert (publisher.is_full(0), publisher.is_full(1)) == (True, False)


async def test_kept_back_results_hurry_no_transaction(opened, monkeypatch):
    """Many bytes that wait begin a transaction at once, but not those that it would not take."""
    monkeypatch.setattr(module, "EARLY_BYTES", 4_000)
    publisher, lease = opened.publisher, held(0, 8_000)
    opened.holder.leases[REQUESTS] = lease
    for offset in range(1, 8_000, 2):
        publisher.publish("results", 0, record(lease, offset, b"12"))
    assert await publisher.commit() is True
    assert publisher.backlog_bytes > 4_000
    publisher.publish("results", 0, record(lease, 2))
    assert not publisher._due.is_set()


async def test_waiting_records_begin_a_transaction_by_themselves(opened, monkeypatch):
    """Nobody has to ask for a commit."""
    monkeypatch.setattr(module, "EVERY", 0.0)
    opened.publisher.publish("results", 0, record(opened.lease, 0))
    assert await opened.publisher.arrived(PATIENCE)
    assert len(opened.producer.committed) == 1


@given(st.sets(st.integers(0, 199)), st.sets(st.integers(0, 199)), st.integers(70, 400))
def test_a_commit_lists_all_that_its_transaction_finishes(before, offered, limit):
    """Of whatever was finished before and is offered now, a transaction takes what its commit says to be finished, no
    less: a new owner that reads the commit answers exactly the rest.
    """
    lease = held(0, 200)
    first, _ = choose(lease, before, limit)
    lease.finish_all(list(first))
    chosen, point = choose(lease, offered - first, limit)
    assert chosen <= offered
    if point is None:
        assert not chosen
        return
    new = Lease("group", "requests", 0, HERE, position=point.offset, metadata=point.metadata)
    again = new.deliver([Record(offset, offset + 1) for offset in range(point.offset, 200)], 200, 200)
    assert {each.offset for each in again} == set(range(200)) - first - chosen


def test_asking_what_a_commit_would_say_changes_nothing():
    """A transaction may fail after its offsets were composed."""
    lease = held(0, 10)
    before = lease.commit_point()
    point, whole = lease.point_with({0, 1, 5}, memo.METADATA_LIMIT)
    assert (point.offset, whole, lease.commit_point(), lease.unfinished) == (2, True, before, 10)
