"""Confirmed delivery over a fake producer that fills aiokafka's own batches and acknowledges them when told to."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    RecordListTooLargeError,
    RecordTooLargeError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import RecordMetadata

from models.errors import BrokerError
from streams.config.settings import Kafka
from streams.kafka import client, outgoing, producer
from streams.kafka import publisher as module
from streams.kafka.outgoing import OutgoingRecord
from streams.kafka.publisher import BATCH_BYTES, DEFAULT_LIMIT, Publisher

ARRIVED = RecordMetadata("t", 0, TopicPartition("t", 0), 42, None, 0, 0)
"""What aiokafka says of a batch that arrived: its first record's offset is 42."""
PATIENCE = 5.0
"""Seconds after which what should have happened has not."""


class Sent(NamedTuple):
    """A batch that a producer was handed: by which, for where, what was in it, and its size in bytes."""

    producer: int
    place: tuple[str, int]
    records: list
    size: int

    @property
    def values(self):
        return [record.value for record in self.records]


class Cluster:
    """What is behind the fake producers: keeps what they send, and fails, holds or refuses it as a test wants."""

    def __init__(self):
        self.producers: list[Producer] = []
        self.sent: list[Sent] = []
        self.faults = deque()
        self.unreachable = 0
        self.limit = DEFAULT_LIMIT
        self.refusal = MessageSizeTooLargeError
        self.holding = False
        self.held: deque[asyncio.Future] = deque()
        self._changed = asyncio.Event()

    async def open(self):
        if self.unreachable:
            self.unreachable -= 1
            message = "not there"
            raise BrokerError(message)
        self.producers.append(Producer(self, len(self.producers)))
        return self.producers[-1]

    @asynccontextmanager
    async def opened(self, *_, **__):
        producer = await self.open()
        try:
            yield producer
        finally:
            await client.close(producer)

    def take(self, producer, place, batch):
        data = bytes(batch._build())
        self.sent.append(Sent(producer, place, list(MemoryRecords(data).next_batch()), len(data)))
        self._changed.set()
        future = asyncio.get_running_loop().create_future()
        if self.holding:
            self.held.append(future)
        elif self.faults and (fault := self.faults.popleft()) is not None:
            future.set_exception(fault)
        elif len(data) > self.limit:
            future.set_exception(self.refusal())
        else:
            future.set_result(ARRIVED)
        return future

    def release(self, fault=None):
        """Acknowledge, or fail, the batch held longest."""
        future = self.held.popleft()
        future.set_result(ARRIVED) if fault is None else future.set_exception(fault)

    async def until(self, count):
        """Wait until that many batches were sent."""
        async with asyncio.timeout(PATIENCE):
            while len(self.sent) < count:
                self._changed.clear()
                await self._changed.wait()

    def values(self, place=("t", 0)):
        return [value for sent in self.sent if sent.place == place for value in sent.values]


class Connection:
    """What a producer holds open beneath itself."""

    there = frozenset(range(8))
    updates = 0
    _sync_task = _md_update_fut = None

    @property
    def cluster(self):
        return self

    def __init__(self):
        self.closed = False

    async def close(self):
        self.closed = True

    def partitions_for_topic(self, _):
        """As of the metadata."""
        return self.there

    async def force_metadata_update(self):
        self.updates += 1


class Producer:
    """As much of aiokafka's producer as the publisher uses."""

    def __init__(self, cluster, number):
        self._cluster = cluster
        self._number = number
        self.stopped = False
        self.client = Connection()

    def create_batch(self):
        return BatchBuilder(BATCH_BYTES, 0)

    async def partitions_for(self, topic):
        return self.client.partitions_for_topic(topic)

    async def send_batch(self, batch, topic, *, partition):
        if self.stopped:
            raise ProducerClosed
        assert partition in self.client.there, "Unrecognized partition"
        return asyncio.shield(self._cluster.take(self._number, (topic, partition), batch))

    async def stop(self):
        self.stopped = True


class Desk:
    """A receipt that keeps what it is told."""

    def __init__(self):
        self.alive = True
        self.finished = []
        self._changed = asyncio.Event()

    def finish(self, offset):
        self.finished.append(offset)
        self._changed.set()

    def finish_all(self, offsets):
        for offset in offsets:
            self.finish(offset)

    async def until(self, count):
        """Wait until that many records were delivered."""
        async with asyncio.timeout(PATIENCE):
            while len(self.finished) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    """Take the waits out."""
    monkeypatch.setattr(module, "LINGER", 0)
    monkeypatch.setattr(producer, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(producer, "RETRY_PAUSE", 0)
    monkeypatch.setattr(outgoing, "RETRY_PAUSE", 0)


@pytest.fixture
async def cluster(monkeypatch):
    cluster = Cluster()
    monkeypatch.setattr(client, "producer", cluster.opened)
    return cluster


@pytest.fixture
async def desk():
    return Desk()


@pytest.fixture
async def crashes():
    return []


@pytest.fixture
async def publisher(cluster, crashes):
    async with Publisher(Kafka(), "test", crashes.append) as publisher:
        publisher.learn("t", 2)
        publisher.learn("other", 1)
        yield publisher


def drop(_):
    return None


def parcel(desk, offset, value=b"v", *, key=b"k", headers=(), shrink=drop):
    return OutgoingRecord(desk, offset, key, value, list(headers), shrink)


def publish(publisher, desk, offsets, **options):
    """Publish to partition 0 records whose value is their offset."""
    for offset in offsets:
        publisher.publish("t", 0, parcel(desk, offset, b"%d" % offset, **options))


def numbers(offsets):
    return [b"%d" % offset for offset in offsets]


async def a_few_turns():
    """Let whatever is ready to run do so, several times over."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_records_of_a_lane_arrive_in_the_order_of_publishing(publisher, cluster, desk):
    """Whatever batches they travel in, records arrive and are receipted in order, each exactly once."""
    for start in range(0, 900, 300):
        publish(publisher, desk, range(start, start + 300))
        await cluster.until(1)
    await desk.until(900)
    assert cluster.values() == numbers(range(900))
    assert desk.finished == list(range(900))
    assert (publisher.records, publisher.batches, publisher.backlog) == (900, len(cluster.sent), 0)


async def test_records_published_together_travel_together(publisher, cluster, desk):
    """What is published in one turn goes in one batch."""
    publish(publisher, desk, range(100))
    await desk.until(100)
    assert [len(sent.records) for sent in cluster.sent] == [100]


async def test_a_record_arrives_with_all_it_has(publisher, cluster, desk):
    """Key, value and headers reach Kafka as they are, null ones too."""
    headers = [("a", b"1"), ("a", b"2"), ("none", None), ("empty", b"")]
    publisher.publish("t", 0, parcel(desk, 1, b"value", key=b"key", headers=headers))
    publisher.publish("t", 0, parcel(desk, 2, None, key=None, headers=[("a", b"1")]))
    await desk.until(2)
    first, second = cluster.sent[0].records
    assert (first.key, first.value, list(first.headers)) == (b"key", b"value", headers)
    assert (second.key, second.value, list(second.headers)) == (None, None, [("a", b"1")])


async def test_the_partition_is_the_request_s_modulo_the_topic_s_count(publisher, cluster, desk):
    """A key's records stay together, also where the topic has fewer partitions than the requests."""
    for partition in range(5):
        publisher.publish("t", partition, parcel(desk, partition, b"%d" % partition))
        publisher.publish("other", partition, parcel(desk, partition, b"%d" % partition))
    await desk.until(10)
    assert cluster.values(("t", 0)) == numbers([0, 2, 4])
    assert cluster.values(("t", 1)) == numbers([1, 3])
    assert cluster.values(("other", 0)) == numbers(range(5))


async def test_a_receipt_is_told_after_the_acknowledgement_and_not_before(publisher, cluster, desk):
    """A batch that was sent is not delivered until Kafka says so."""
    cluster.holding = True
    publish(publisher, desk, range(3))
    await cluster.until(1)
    await a_few_turns()
    assert (desk.finished, publisher.backlog) == ([], 3)
    cluster.release()
    await desk.until(3)
    assert (desk.finished, publisher.backlog) == ([0, 1, 2], 0)


async def test_a_lane_has_one_batch_under_way(publisher, cluster, desk):
    """What is published meanwhile waits for the acknowledgement, and then goes together."""
    cluster.holding = True
    publish(publisher, desk, [0])
    await cluster.until(1)
    for offset in (1, 2, 3):
        publish(publisher, desk, [offset])
        await a_few_turns()
    assert len(cluster.sent) == 1
    cluster.release()
    await cluster.until(2)
    assert cluster.sent[1].values == numbers([1, 2, 3])


async def test_lanes_do_not_wait_for_each_other(publisher, cluster, desk):
    """Every partition has a batch of its own under way."""
    cluster.holding = True
    for place in (("t", 0), ("t", 1), ("other", 0)):
        publisher.publish(*place, parcel(desk, place[1]))
    await cluster.until(3)
    assert {sent.place for sent in cluster.sent} == {("t", 0), ("t", 1), ("other", 0)}


async def test_a_full_batch_does_not_wait_for_company(publisher, cluster, desk, monkeypatch):
    """Where there is a batch's worth it is shipped at once; less than that waits."""
    monkeypatch.setattr(module, "LINGER", 3600)
    publish(publisher, desk, range(2))
    await a_few_turns()
    assert cluster.sent == []
    publisher.publish("t", 0, parcel(desk, 2, bytes(BATCH_BYTES)))
    await desk.until(2)
    assert desk.finished[:2] == [0, 1]


async def test_where_few_come_none_waits_for_company(publisher, cluster, desk, monkeypatch):
    """A record goes at once if nothing went for as long as it would wait, but not behind a flush of many."""
    linger = 3600
    monkeypatch.setattr(module, "LINGER", linger)
    publisher._flushed_at -= linger
    publish(publisher, desk, [0])
    await desk.until(1)
    publish(publisher, desk, range(1, module.LONELY + 2))
    await a_few_turns()
    assert desk.finished == [0]
    publisher._flush()
    await desk.until(module.LONELY + 2)
    publisher._flushed_at -= linger
    publish(publisher, desk, [100])
    await a_few_turns()
    assert 100 not in desk.finished


async def test_more_than_a_batch_holds_goes_in_several(publisher, cluster, desk):
    """Batches keep to their size, and none of what did not fit is lost."""
    values = [bytes([number]) * 100_000 for number in range(7)]
    for number, value in enumerate(values):
        publisher.publish("t", 0, parcel(desk, number, value))
    await desk.until(7)
    assert cluster.values() == values
    assert all(sent.size <= BATCH_BYTES for sent in cluster.sent)


ERRORS = [KafkaConnectionError, KafkaTimeoutError, NotLeaderForPartitionError, OutOfOrderSequenceNumber, ProducerClosed]


@pytest.mark.parametrize("error", ERRORS)
async def test_a_batch_that_fails_is_sent_again_over_a_new_producer(publisher, cluster, desk, error):
    """The same records go again, over a producer opened after the failed one was stopped, and nothing is lost."""
    cluster.faults.extend([error(), error()])
    publish(publisher, desk, range(3))
    await cluster.until(1)
    publish(publisher, desk, [3])
    await desk.until(4)
    assert [(sent.producer, sent.values[:3]) for sent in cluster.sent[:3]] == [
        (producer, numbers(range(3))) for producer in range(3)
    ]
    assert [producer.stopped for producer in cluster.producers] == [True, True, False]
    assert desk.finished == [0, 1, 2, 3]
    assert (publisher.failures, publisher.failing_since, publisher.backlog) == (2, None, 0)


async def test_a_producer_that_takes_no_batch_is_replaced_too(publisher, cluster, desk):
    """An error on handing a batch over is one like any other."""
    cluster.producers[0].stopped = True
    publish(publisher, desk, range(3))
    await desk.until(3)
    assert [sent.producer for sent in cluster.sent] == [1]


async def test_what_comes_after_a_failed_batch_stays_behind_it(publisher, cluster, desk):
    """Order is kept also when records were published while a batch was failing."""
    cluster.holding = True
    publish(publisher, desk, [0, 1])
    await cluster.until(1)
    publish(publisher, desk, [2, 3])
    cluster.holding = False
    cluster.release(KafkaConnectionError())
    await desk.until(4)
    assert desk.finished == [0, 1, 2, 3]
    assert cluster.values()[2:] == numbers([0, 1, 2, 3])


async def test_the_time_of_the_first_failure_is_known_until_one_succeeds(publisher, cluster, desk):
    """Readiness looks at since when nothing was acknowledged."""
    cluster.holding = True
    publish(publisher, desk, [0])
    since = []
    for _ in range(2):
        await cluster.until(len(since) + 1)
        since.append(publisher.failing_since)
        cluster.release(KafkaConnectionError())
    await cluster.until(3)
    assert since[0] is None
    assert since[1] == publisher.failing_since is not None
    cluster.release()
    await desk.until(1)
    assert publisher.failing_since is None


async def test_a_lane_that_nobody_waits_for_is_not_failing(publisher, cluster, desk):
    """With the lease gone that waited for a failed batch, nothing fails any more: it would never be ready again."""
    cluster.holding = True
    publish(publisher, desk, [0])
    await cluster.until(1)
    desk.alive = False
    cluster.release(KafkaConnectionError())
    await a_few_turns()
    assert (len(cluster.sent), publisher.failing_since) == (1, None)


async def test_a_lane_whose_record_fits_in_no_form_after_a_failure_is_not_failing(publisher, cluster, desk):
    """A record given up leaves an empty lane, which waits for no acknowledgement."""
    cluster.limit = 1000
    cluster.faults.append(KafkaConnectionError())
    publisher.publish("t", 0, parcel(desk, 0, b"x" * 3000))
    await desk.until(1)
    await a_few_turns()
    assert (publisher.dropped, publisher.failing_since) == (1, None)


async def test_a_broker_that_is_away_is_tried_until_it_is_back(publisher, cluster, desk, caplog):
    """A new producer that cannot be opened is tried again and again, and said so."""
    cluster.unreachable = 3
    cluster.faults.append(KafkaConnectionError())
    publish(publisher, desk, range(3))
    await desk.until(3)
    assert cluster.unreachable == 0
    assert [record.message for record in caplog.records].count(
        "cannot publish, trying again: not there; results wait, none is lost"
    ) == 3


async def test_another_lane_s_failure_sends_this_lane_s_batch_again(publisher, cluster, desk):
    """A producer that is replaced takes the batches under way of all lanes with it: each is sent again, none lost."""
    cluster.holding = True
    publisher.publish("t", 0, parcel(desk, 0, b"here"))
    publisher.publish("t", 1, parcel(desk, 1, b"there"))
    await cluster.until(2)
    cluster.holding = False
    cluster.release(KafkaConnectionError())
    await desk.until(2)
    assert sorted((sent.producer, sent.values) for sent in cluster.sent) == [
        (0, [b"here"]),
        (0, [b"there"]),
        (1, [b"here"]),
        (1, [b"there"]),
    ]
    assert len(cluster.producers) == 2
    assert sorted(desk.finished) == [0, 1]


async def test_an_acknowledgement_that_came_first_counts(publisher, cluster, desk):
    """A batch acknowledged in the same moment in which the producer breaks is not sent again."""
    cluster.holding = True
    publisher.publish("t", 0, parcel(desk, 0, b"here"))
    publisher.publish("t", 1, parcel(desk, 1, b"there"))
    await cluster.until(2)
    cluster.holding = False
    failed, acknowledged = cluster.held
    acknowledged.set_result(ARRIVED)
    failed.set_exception(KafkaConnectionError())
    await desk.until(2)
    assert [sent.values for sent in cluster.sent] == [[b"here"], [b"there"], [b"here"]]


async def test_records_that_nobody_waits_for_are_dropped_unsent(publisher, cluster, desk):
    """A receipt that died while its record waited costs no sending, and no place in the backlog."""
    gone = Desk()
    cluster.holding = True
    publish(publisher, desk, [0])
    await cluster.until(1)
    publish(publisher, gone, [1])
    publish(publisher, desk, [2])
    publish(publisher, gone, [3])
    gone.alive = False
    cluster.holding = False
    cluster.release()
    await desk.until(2)
    assert cluster.values() == numbers([0, 2])
    await a_few_turns()
    assert (gone.finished, publisher.backlog) == ([], 0)


async def test_a_failed_batch_that_nobody_waits_for_any_more_is_not_sent_again(publisher, cluster, desk):
    """Once its lease is revoked a record is not retried."""
    cluster.holding = True
    publish(publisher, desk, [0, 1])
    await cluster.until(1)
    desk.alive = False
    cluster.release(KafkaConnectionError())
    await a_few_turns()
    assert len(cluster.sent) == 1
    assert (desk.finished, publisher.backlog) == ([], 0)


# -- too large


@pytest.mark.parametrize("refusal", [MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError])
async def test_a_batch_that_is_too_large_is_taken_apart(publisher, cluster, desk, refusal):
    """Kafka takes less than we knew: the records go one by one, in order, and whole."""
    cluster.limit, cluster.refusal = 1000, refusal
    values = [bytes([number]) * 300 for number in range(5)]
    for number, value in enumerate(values):
        publisher.publish("t", 0, parcel(desk, number, value))
    await desk.until(5)
    assert [len(sent.records) for sent in cluster.sent] == [5, 1, 1, 1, 1, 1]
    assert cluster.values()[5:] == values
    assert desk.finished == list(range(5))


async def test_after_a_batch_was_taken_apart_records_travel_together_again(publisher, cluster, desk):
    """Only the records of the refused batch go alone."""
    cluster.faults.append(MessageSizeTooLargeError())
    publish(publisher, desk, range(3))
    await desk.until(3)
    publish(publisher, desk, range(3, 9))
    await desk.until(9)
    assert [len(sent.records) for sent in cluster.sent] == [3, 1, 1, 1, 6]


def halve(large):
    return large._replace(value=large.value[: len(large.value) // 2]) if len(large.value) > 1 else None


async def test_a_record_that_kafka_finds_too_large_is_made_smaller_until_it_fits(publisher, cluster, desk):
    """Alone and refused, a record is shrunk step by step, and its receipt told once it is there."""
    cluster.limit = 1000
    publisher.publish("t", 0, parcel(desk, 0, b"x" * 3000, shrink=halve))
    publish(publisher, desk, [1])
    await desk.until(2)
    assert [len(value) for value in cluster.values() if value.startswith(b"x")][-3:] == [3000, 1500, 750]
    assert sorted(desk.finished) == [0, 1]
    assert (publisher.dropped, publisher.backlog) == (0, 0)


async def test_a_record_that_fits_in_no_form_is_dropped_and_its_offset_finished(publisher, cluster, desk, caplog):
    """A record that cannot be delivered must not hold up its partition for good: it is given up, and that is told."""
    cluster.limit = 1000
    publisher.publish("t", 0, parcel(desk, 7, b"x" * 3000))
    publish(publisher, desk, [8])
    await desk.until(2)
    await a_few_turns()
    assert sorted(desk.finished) == [7, 8]
    assert cluster.sent[-1].values == [b"8"]
    assert (publisher.dropped, publisher.backlog) == (1, 0)
    (message,) = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert "the request at offset 7 goes without it" in message


async def test_a_record_that_is_taken_back_goes_to_its_owner_and_is_not_finished(publisher, cluster, desk):
    """Its owner publishes what replaces it, which may come by way of another topic; what is behind it goes on."""
    cluster.limit = 1000
    refused = []
    publisher.publish("t", 0, parcel(desk, 0, b"x" * 3000)._replace(take_back=refused.append))
    publish(publisher, desk, [1])
    await desk.until(1)
    await a_few_turns()
    assert [len(record.value) for record in refused] == [3000]
    assert (desk.finished, publisher.dropped, publisher.backlog) == ([1], 0, 0)
    assert publisher.limits["t"] == refused[0].size() - 1


async def test_a_record_whose_timestamp_is_refused_holds_up_nobody(publisher, cluster, desk):
    """It goes to its owner, or out with the time of now; those in its batch go on."""
    for take_back in ((refused := []).append, None):
        cluster.faults.extend([InvalidTimestampError(), InvalidTimestampError(), None])
        offset = len(desk.finished) + 1
        publish(publisher, desk, [])
        publisher.publish("t", 0, parcel(desk, 0)._replace(timestamp=1 << 50, take_back=take_back))
        publish(publisher, desk, [offset])
        await desk.until(offset)
        await a_few_turns()
    assert [record.timestamp for record in refused] == [1 << 50]
    async with asyncio.timeout(PATIENCE):
        while publisher.backlog:
            await asyncio.sleep(0)
    assert sorted(desk.finished) == [0, 1, 2]


async def test_what_kafka_refused_once_is_not_tried_again(publisher, cluster, desk):
    """The limit that a refusal taught is kept to: the next such record is shrunk before it is sent."""
    cluster.limit = 2000
    publisher.publish("t", 0, parcel(desk, 0, b"x" * 2000, shrink=halve))
    await desk.until(1)
    sent = len(cluster.sent)
    publisher.publish("t", 0, parcel(desk, 1, b"x" * 2000, shrink=halve))
    await desk.until(2)
    assert len(cluster.sent) == sent + 1
    assert publisher.limits["other"] == DEFAULT_LIMIT


async def test_a_record_beyond_the_known_limit_is_made_smaller_before_it_is_sent(publisher, cluster, desk):
    """What the topic is known not to take is not sent to be refused, whichever part of it is large."""
    publisher.learn("t", 1, 1000)
    key_off = {"shrink": lambda large: large._replace(key=None), "key": b"k" * 990}
    bare = {"shrink": lambda large: large._replace(headers=[]), "headers": [("name", b"x" * 90)] * 10}
    publisher.publish("t", 0, parcel(desk, 0, b"x" * 950, shrink=halve))
    publisher.publish("t", 0, parcel(desk, 1, **key_off))
    publisher.publish("t", 0, parcel(desk, 2, **bare))
    await desk.until(3)
    records = list(itertools.chain.from_iterable(sent.records for sent in cluster.sent))
    assert [(record.key, len(record.value), len(record.headers)) for record in records] == [
        (b"k", 475, 0),
        (None, 1, 0),
        (b"k", 1, 0),
    ]
    assert publisher.failures == 0


async def test_a_record_known_to_fit_in_no_form_is_never_sent(publisher, cluster, desk):
    """It is given up when it is published, its offset finished at once."""
    publisher.learn("t", 1, 1000)
    publisher.publish("t", 0, parcel(desk, 7, b"x" * 1000))
    assert (desk.finished, publisher.dropped, publisher.backlog) == ([7], 1, 0)
    await a_few_turns()
    assert cluster.sent == []


@pytest.mark.parametrize("limit", [500, 1000, 20_000])
async def test_batches_keep_to_a_topic_s_limit(publisher, cluster, desk, limit):
    """Where a topic takes less than a usual batch, batches are as small as that, and not smaller than need be."""
    publisher.learn("t", 1, limit)
    cluster.limit = limit
    for number in range(200):
        publisher.publish("t", 0, parcel(desk, number, bytes(number)))
    await desk.until(200)
    assert [len(value) for value in cluster.values()] == list(range(200))
    assert publisher.failures == 0
    assert max(sent.size for sent in cluster.sent) <= limit
    assert len(cluster.sent) < 200


async def test_a_topic_without_a_known_limit_has_kafka_s_default(publisher):
    """`max.message.bytes` is 1,048,588 unless set otherwise."""
    publisher.learn("unknown", 1, None)
    assert publisher.limits["unknown"] == 1_048_588


# -- pace, faults, closing


async def test_pace_holds_up_at_the_backlog_and_lets_go_below_it(publisher, cluster, desk, monkeypatch):
    """With as many records unacknowledged as may be, pace waits; once some are acknowledged it goes on."""
    monkeypatch.setattr(module, "BACKLOG_RECORDS", 3)
    cluster.holding = True
    publish(publisher, desk, [0, 1])
    await asyncio.wait_for(publisher.pace(), PATIENCE)
    await cluster.until(1)
    publish(publisher, desk, [2])
    pacing = [asyncio.create_task(publisher.pace()) for _ in range(2)]
    await a_few_turns()
    assert [task.done() for task in pacing] == [False, False]
    cluster.release()
    await asyncio.wait_for(asyncio.gather(*pacing), PATIENCE)
    assert publisher.backlog == 1


async def test_pace_counts_bytes_too(publisher, cluster, desk, monkeypatch):
    """Few large records hold their publisher up like many small ones."""
    monkeypatch.setattr(module, "BACKLOG_BYTES", 1000)
    cluster.holding = True
    publisher.publish("t", 0, parcel(desk, 0, bytes(999)))
    await asyncio.wait_for(publisher.pace(), PATIENCE)
    assert publisher.congested is False
    publisher.publish("t", 0, parcel(desk, 1, b"x"))
    assert publisher.congested is True
    pacing = asyncio.create_task(publisher.pace())
    await cluster.until(1)
    await a_few_turns()
    assert not pacing.done()
    cluster.release()
    await asyncio.wait_for(pacing, PATIENCE)
    assert publisher.congested is False
    assert publisher.backlog_bytes < 1000


async def test_pace_lets_go_when_nobody_waits_for_the_backlog(publisher, cluster, desk, monkeypatch):
    """Records that are dropped make room like those acknowledged."""
    monkeypatch.setattr(module, "BACKLOG_RECORDS", 2)
    cluster.holding = True
    publisher.publish("other", 0, parcel(desk, 0))
    await cluster.until(1)
    for offset in (1, 2, 3):
        publisher.publish("other", 0, parcel(desk, offset))
    pacing = asyncio.create_task(publisher.pace())
    await a_few_turns()
    desk.alive = False
    assert not pacing.done()
    cluster.release(KafkaConnectionError())
    await asyncio.wait_for(pacing, PATIENCE)
    assert publisher.backlog == 0


async def test_a_partition_without_a_leader_does_not_hold_up_the_others(publisher, cluster, desk, monkeypatch):
    """What waits for it counts as its share at most; requests of its number wait, those of others go on."""
    monkeypatch.setattr(module, "BACKLOG_RECORDS", 8)
    monkeypatch.setattr(module, "STUCK_AFTER", 0.01)
    cluster.holding = True
    publish(publisher, desk, range(8))
    assert (publisher.congested, publisher.is_full(0)) == (True, False)
    await asyncio.wait_for(publisher.pace(), PATIENCE)
    assert (publisher.backlog, publisher.is_full(0), publisher.is_full(1), publisher.is_full(2)) == (
        8,
        True,
        False,
        True,
    )
    for offset in range(4):
        publisher.publish("t", 1, parcel(desk, 8 + offset))
    assert publisher.congested is True


async def test_a_partition_that_takes_records_again_counts_in_full(publisher, cluster, desk, monkeypatch):
    """Its first acknowledgement ends that."""
    monkeypatch.setattr(module, "BACKLOG_BYTES", 150)
    monkeypatch.setattr(module, "STUCK_AFTER", 0.01)
    cluster.holding = True
    publisher.publish("t", 0, parcel(desk, 0, bytes(90)))
    await cluster.until(1)
    publisher.publish("t", 0, parcel(desk, 1, bytes(90)))
    publisher.publish("t", 0, parcel(desk, 2, bytes(90)))
    await asyncio.wait_for(publisher.pace(), PATIENCE)
    assert publisher.is_full(0) is True
    cluster.release()
    await desk.until(1)
    assert (publisher.is_full(0), publisher.congested) == (False, True)


async def test_a_stuck_partition_that_all_write_to_is_bounded(publisher, cluster, desk, monkeypatch):
    """A route's outputs go by their keys: requests of other partitions than its own feed it, too, as far as twice the
    bound.
    """
    monkeypatch.setattr(module, "BACKLOG_RECORDS", 8)
    monkeypatch.setattr(module, "STUCK_AFTER", 0.01)
    cluster.holding = True
    publish(publisher, desk, range(11))
    await cluster.until(1)
    await asyncio.wait_for(publisher.pace(), PATIENCE)
    publish(publisher, desk, range(11, 16))
    assert publisher.congested is True


async def test_a_batch_that_waits_for_its_acknowledgement_is_a_failure_in_time(publisher, cluster, desk, monkeypatch):
    """Where too few replicas are in sync aiokafka sends it again for ever, without a word: readiness has to see it."""
    monkeypatch.setattr(module, "STUCK_AFTER", 0.01)
    cluster.holding = True
    publish(publisher, desk, [0])
    await cluster.until(1)
    async with asyncio.timeout(PATIENCE):
        while publisher.failing_since is None:
            await asyncio.sleep(0.005)
    assert publisher.failing_since <= time.monotonic() - 0.01
    cluster.release()
    await desk.until(1)
    await a_few_turns()
    assert publisher.failing_since is None


async def test_nothing_is_sent_while_others_may_have_it(cluster, crashes, desk, monkeypatch):
    """A process that stood still publishes nothing before the group has said what is still its own."""
    monkeypatch.setattr(module, "FENCE_PAUSE", 0.001)
    monkeypatch.setattr(module, "STUCK_AFTER", 0.01)
    fenced = True
    async with Publisher(Kafka(), "test", crashes.append, is_fenced=lambda: fenced) as publisher:
        publisher.learn("t", 2)
        publish(publisher, desk, [0])
        lost = Desk()
        publisher.publish("t", 1, parcel(lost, 7))
        async with asyncio.timeout(PATIENCE):
            while publisher.failing_since is None:
                await asyncio.sleep(0.001)
        assert cluster.sent == []
        lost.alive = False
        async with asyncio.timeout(PATIENCE):
            while publisher.backlog > 1:
                await asyncio.sleep(0.001)
        fenced = False
        await desk.until(1)
        assert ([sent.values for sent in cluster.sent], lost.finished) == ([[b"0"]], [])
        await a_few_turns()
        assert publisher.failing_since is None


async def test_without_any_acknowledgement_the_backlog_is_bounded(publisher, cluster, desk, monkeypatch):
    """With every partition stuck, `pace` waits once each has its share."""
    monkeypatch.setattr(module, "BACKLOG_RECORDS", 8)
    monkeypatch.setattr(module, "STUCK_AFTER", 0.01)
    cluster.holding = True
    for offset in range(16):
        publisher.publish("t", offset % 2, parcel(desk, offset))
    await cluster.until(2)
    await asyncio.sleep(0.05)
    assert (publisher.congested, publisher.is_full(0), publisher.is_full(1)) == (True, True, True)


class Faulty(Desk):
    """A receipt with a bug."""

    def finish(self, offset):
        super().finish(offset)
        raise LookupError(offset)


async def test_a_bug_is_told_and_not_swallowed(publisher, crashes):
    """What ends a lane other than Kafka's errors reaches whoever ends the worker."""
    desk = Faulty()
    publish(publisher, desk, [5])
    await desk.until(1)
    await a_few_turns()
    (crash,) = crashes
    assert isinstance(crash, LookupError)


async def test_closing_ends_what_is_under_way_and_stops_the_producer(cluster, desk, crashes):
    """Leaving the context neither waits for Kafka nor tells receipts of what was not acknowledged."""
    async with Publisher(Kafka(), "test", crashes.append) as publisher:
        publisher.learn("t", 1)
        cluster.holding = True
        publish(publisher, desk, [0])
        await cluster.until(1)
        publish(publisher, desk, [1])
    assert [producer.stopped for producer in cluster.producers] == [True]
    cluster.release()
    await a_few_turns()
    assert (desk.finished, len(cluster.sent), crashes) == ([], 1, [])


async def test_a_lane_that_arrives_while_closing_departs_no_more(cluster, desk, crashes):
    """Its batch was acknowledged as the publisher closed: what waits behind it opens no producer that nobody closes."""
    async with Publisher(Kafka(), "test", crashes.append) as publisher:
        publisher.learn("t", 2)
        cluster.holding = True
        publish(publisher, desk, [0])
        publisher.publish("t", 1, parcel(desk, 1))
        await cluster.until(2)
        publish(publisher, desk, [2])
        cluster.release()
        await desk.until(1)
    await a_few_turns()
    assert (len(cluster.sent), [producer.stopped for producer in cluster.producers], crashes) == (2, [True], [])


async def test_closing_before_the_lanes_depart_sends_nothing(cluster, desk, crashes, monkeypatch):
    """What only waited for company when the publisher closed stays unsent, to be answered again."""
    monkeypatch.setattr(module, "LINGER", 0.001)
    async with Publisher(Kafka(), "test", crashes.append) as publisher:
        publisher.learn("t", 1)
        publish(publisher, desk, [0])
    await asyncio.sleep(0.005)  # longer than the linger: the departure must not come after all
    assert (cluster.sent, desk.finished, crashes) == ([], [], [])


@pytest.mark.parametrize("error", [KafkaConnectionError, TimeoutError])
async def test_a_producer_that_does_not_stop_is_left_behind(cluster, caplog, monkeypatch, error):
    """Closing is bounded in time and never fails; what went wrong is logged, and the connection closed all the same."""

    async def stop(_):
        if error is TimeoutError:
            await asyncio.Event().wait()
        raise error

    monkeypatch.setattr(Producer, "stop", stop)
    monkeypatch.setattr(client.close, "__defaults__", (0.01,))
    caplog.set_level(logging.INFO)
    async with Publisher(Kafka(), "test", print):
        pass
    assert "closing the Producer failed" in caplog.text
    assert [producer.client.closed for producer in cluster.producers] == [True]


HANGS = TimeoutError("never")
"""The fault of a broker that neither answers nor refuses."""


class Aiokafka:
    """Stands for aiokafka's producer class: keeps its arguments, starts or does not."""

    made: list[Aiokafka]
    fault: Exception | None

    def __init__(self, **options):
        self.options = options
        self.stopped = False
        self.made.append(self)

    async def start(self):
        if self.fault is HANGS:
            await asyncio.Event().wait()
        elif self.fault is not None:
            raise self.fault

    async def stop(self):
        self.stopped = True


@pytest.fixture
def aiokafka(monkeypatch):
    monkeypatch.setattr(Aiokafka, "made", [], raising=False)
    monkeypatch.setattr(Aiokafka, "fault", None, raising=False)
    monkeypatch.setattr(client, "AIOKafkaProducer", Aiokafka)
    return Aiokafka


async def test_producers_are_opened_idempotent_with_all_acknowledgements(aiokafka):
    """The guarantee hangs on acks=all and idempotence; batching is ours, so the producer does not linger."""
    async with Publisher(Kafka("a:1,b:2"), "me", print):
        (producer,) = aiokafka.made
    options = producer.options
    assert (options["acks"], options["enable_idempotence"], options["linger_ms"]) == ("all", True, 0)
    assert (options["client_id"], options["bootstrap_servers"]) == ("me", ["a:1", "b:2"])
    assert options["max_batch_size"] == BATCH_BYTES
    assert producer.stopped


@pytest.mark.parametrize("fault", [KafkaConnectionError("no"), ConnectionRefusedError("no")])
async def test_a_broker_that_is_not_there_at_the_start_is_told(aiokafka, fault):
    """The first producer is not tried again: the error says what to look at, and nothing is left open."""
    aiokafka.fault = fault
    with pytest.raises(BrokerError, match="Kafka at localhost:9092 cannot be reached"):
        await Publisher(Kafka(), "me", print).__aenter__()
    assert [producer.stopped for producer in aiokafka.made] == [True]


async def test_a_producer_whose_start_is_cancelled_is_closed(aiokafka):
    """A stop while Kafka is away leaves no connection open."""
    aiokafka.fault = HANGS
    opening = asyncio.create_task(Publisher(Kafka(), "me", print).__aenter__())
    await a_few_turns()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert [producer.stopped for producer in aiokafka.made] == [True]


async def test_a_partition_that_was_just_added_is_looked_for(publisher, desk, monkeypatch):
    """Metadata that is old makes aiokafka assert: it is asked for anew first, and the record goes out."""
    monkeypatch.setattr(Connection, "there", {1})

    async def learn(_):
        monkeypatch.setattr(Connection, "there", {0, 1})

    monkeypatch.setattr(Connection, "force_metadata_update", learn)
    publish(publisher, desk, [1])
    await desk.until(1)
    assert publisher.failures == 0


async def ended(crashes):
    """Return the one reason for which the worker ends."""
    async with asyncio.timeout(PATIENCE):
        while not crashes:
            await asyncio.sleep(0.01)
    [reason] = crashes
    return str(reason)


FEWER = "topic 't' has 1 partitions now, fewer than when this worker began: it must begin again"


async def test_a_partition_that_stays_away_ends_the_worker(publisher, cluster, desk, crashes, monkeypatch):
    """A topic made again with fewer partitions is first waited for, then said to have fewer: no producer is opened for
    it meanwhile, and the worker is not ready.
    """
    monkeypatch.setattr(Connection, "there", {1})
    monkeypatch.setattr(producer, "ABSENT_FOR", 0.05)
    publish(publisher, desk, [1])
    await a_few_turns()
    assert publisher.failing_since is not None
    assert await ended(crashes) == FEWER
    assert (desk.finished, len(cluster.producers)) == ([], 1)


async def test_a_partition_that_goes_while_a_batch_is_under_way_ends_the_worker(
    publisher, cluster, desk, crashes, monkeypatch
):
    """Its acknowledgement is not waited for until aiokafka gives up, 30 s later."""
    monkeypatch.setattr(producer, "ABSENT_FOR", 0.05)
    cluster.holding = True
    publish(publisher, desk, [1])
    await cluster.until(1)
    monkeypatch.setattr(Connection, "there", {1})
    assert await ended(crashes) == FEWER


async def test_a_new_producer_learns_of_a_topic_before_it_is_sent_to(publisher, cluster, desk, crashes, monkeypatch):
    """It knows none at first: the topic may have fewer partitions now, which aiokafka finds by an assertion."""
    cluster.holding = True
    publish(publisher, desk, [1])
    await cluster.until(1)
    monkeypatch.setattr(Connection, "partitions_for_topic", lambda _, __: None)

    async def learn(producer, _):
        monkeypatch.setattr(producer.client, "there", {1})
        return {1}

    monkeypatch.setattr(Producer, "partitions_for", learn)
    monkeypatch.setattr(producer, "ABSENT_FOR", 0.05)
    cluster.release(NotLeaderForPartitionError())
    assert await ended(crashes) == FEWER


async def test_a_producer_that_closes_keeps_nobody_waiting_for_its_metadata(publisher, cluster, desk, monkeypatch):
    """A closed one learns nothing more: who waits for a partition there goes on with the next."""
    monkeypatch.setattr(Connection, "there", {0})
    monkeypatch.setattr(Connection, "force_metadata_update", lambda _: asyncio.Event().wait())
    publisher.publish("t", 1, parcel(desk, 1))
    await a_few_turns()
    monkeypatch.setattr(Connection, "there", {0, 1})
    cluster.faults.append(OutOfOrderSequenceNumber())
    publisher.publish("t", 0, parcel(desk, 0))
    await desk.until(2)
    assert sorted(desk.finished) == [0, 1]


async def test_acknowledgements_are_waited_for(publisher, cluster, desk):
    """All that was published has arrived then, or the time is up."""
    assert await publisher.arrived(0.0)
    cluster.holding = True
    publish(publisher, desk, [1, 2])
    await cluster.until(1)
    assert not await publisher.arrived(0.01)
    waiting = asyncio.create_task(publisher.arrived(PATIENCE))
    await a_few_turns()
    cluster.release()
    assert await waiting
    assert desk.finished == [1, 2]
