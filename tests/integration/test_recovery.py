"""Changelogs are read back from a real broker: all of them, only what is new, or with a reason why not."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from agents.testing.broker import Broker
from models.errors import BrokerError
from streams.config.settings import Kafka
from streams.kafka.topics import Admin
from streams.tables import recovery as module
from streams.tables.recovery import Recovery, rows_between
from streams.tables.rocksdb import RocksStore
from streams.tables.store import MemoryStore, Store
from tests.integration.test_contract import NotUtf8

pytestmark = pytest.mark.kafka
PARTITIONS = 3


class Changelogs:
    """Two changelogs of their own."""

    def __init__(self, servers: str) -> None:
        self.kafka = Kafka(bootstrap_servers=servers)
        mark = uuid.uuid4().hex[:8]
        self.topics = {"answers": f"answers-{mark}", "hosts": f"hosts-{mark}"}

    async def __aenter__(self) -> Changelogs:
        async with Admin(self.kafka) as admin:
            for name in self.topics.values():
                await admin.create(name, PARTITIONS, 1, **{"cleanup.policy": "compact"})
            await admin.settled(*self.topics.values())
        self.producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap_servers)
        await self.producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.producer.stop()

    async def put(self, table: str, partition: int, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        sent = [await self.producer.send(self.topics[table], row, key=key, partition=partition) for key, row in rows]
        await asyncio.gather(*sent)

    async def tombstone(self, table: str, partition: int, key: bytes, *offset: bytes | None) -> None:
        headers = [("offset", text) for text in offset]
        await self.producer.send_and_wait(self.topics[table], None, key=key, partition=partition, headers=headers)

    async def unreadable(self, table: str, partition: int, key: bytes, *rows: bytes) -> None:
        """Write rows of which the last has a header name that aiokafka's parser dies of."""
        batch = self.producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 1 << 20)
        for number, value in enumerate(rows, 1):
            headers = [(NotUtf8("x"), b"1")] if number == len(rows) else []
            batch.append(timestamp=None, key=key, value=value, headers=headers)
        await (await self.producer.send_batch(batch, self.topics[table], partition=partition))

    async def recover(self, store: Store, *partitions: int) -> Recovery:
        recovery = Recovery(self.kafka, "test", store, self.topics)
        await recovery.run(partitions)
        assert recovery.lag == 0
        return recovery


@pytest.fixture
async def changelogs(kafka: Broker):
    async with Changelogs(kafka.servers) as opened:
        yield opened


def row(offset: int, text: str = "") -> bytes:
    return b'{"offset":%d,"at":%d,"text":"%b"}' % (offset, offset, text.encode())


async def test_everything_is_read_back(changelogs: Changelogs) -> None:
    """Rows of the partitions asked for come back, the latest of each key, without those that have gone."""
    await changelogs.put("answers", 0, [(b"%d" % (n % 2000), row(n)) for n in range(3000)])
    await changelogs.put("answers", 0, [(b"7", None), (b"8", None)])
    await changelogs.put("answers", 1, [(b"other", row(1))])
    await changelogs.put("hosts", 0, [(b"h", row(5))])
    store = MemoryStore()
    recovery = await changelogs.recover(store, 0, 2)
    assert recovery.rows == 3003
    assert store.count("answers", 0) == 1998
    assert store.get("answers", 0, b"999") == row(2999)
    assert store.get("hosts", 0, b"h") == row(5)
    assert store.count("answers", 1) == 0
    assert (store.reaches("answers", 0), store.reaches("answers", 2), store.reaches("hosts", 0)) == (3002, 0, 1)


async def test_only_what_is_new_is_read(changelogs: Changelogs, tmp_path) -> None:
    """A store that reaches somewhere is read on from there, also after it was closed and opened."""
    store = RocksStore(str(tmp_path), "me", changelogs.topics)
    store.open()
    await changelogs.put("answers", 0, [(b"%d" % n, row(n)) for n in range(500)])
    assert (await changelogs.recover(store, 0)).rows == 500
    store.close()
    await changelogs.put("answers", 0, [(b"%d" % n, row(n)) for n in range(490, 520)])
    store.open()
    assert (await changelogs.recover(store, 0)).rows == 30
    assert store.count("answers", 0) == 520
    store.close()


async def test_strangers_and_echoes_change_nothing(changelogs: Changelogs) -> None:
    """What is no row, and a row that counts less far than one before it, are left out and counted."""
    await changelogs.put(
        "hosts", 0, [(b"h", row(9, "new")), (b"h", row(3, "an echo")), (b"h", b"garbage"), (b"x", b"\xff")]
    )
    await changelogs.put("hosts", 0, [(b"gone", row(1)), (b"gone", None), (b"gone", row(2))])
    await changelogs.put("hosts", 0, [(b"kept", row(5)), (b"mended", row(5)), (b"mended", row(4)), (b"mended", row(6))])
    await changelogs.tombstone("hosts", 0, b"kept", b"4")
    await changelogs.put("hosts", 0, [(b"ended", row(5)), (b"odd", row(5))])
    await changelogs.tombstone("hosts", 0, b"ended", b"5")
    await changelogs.tombstone("hosts", 0, b"odd", None, b"x", b"9" * 5000)
    store = MemoryStore()
    recovery = await changelogs.recover(store, 0)
    assert (recovery.echoes, recovery.foreign) == (3, 2)
    left = {b"gone": row(2), b"h": row(9, "new"), b"kept": row(5), b"mended": row(6)}
    assert dict(store.scan("hosts", 0)) == left
    assert recovery.overwritten == {("hosts", 0): {b"h", b"x", b"kept"}}, "whose latest record is not ours"
    assert store.dirty == {0}


async def test_a_record_that_aiokafka_cannot_read_keeps_no_row_back(changelogs: Changelogs) -> None:
    """A header name that is no UTF-8 ends the parser in mid-batch: every row comes back all the same."""
    await changelogs.put("hosts", 0, [(b"%d" % n, row(n)) for n in range(1000)])
    await changelogs.unreadable("hosts", 0, b"odd", row(1), row(2))
    await changelogs.put("hosts", 0, [(b"%d" % n, row(n)) for n in range(1000, 1100)])
    store = MemoryStore()
    recovery = await changelogs.recover(store, 0, 1)
    assert (recovery.rows, store.count("hosts", 0), store.get("hosts", 0, b"odd")) == (1102, 1101, row(2))


async def test_rows_at_some_offsets_are_read_or_not_there(changelogs: Changelogs) -> None:
    """A gap is read whatever header names are in it; one beyond the log's end is said to be none."""
    await changelogs.put("hosts", 0, [(b"a", row(1)), (b"b", row(2))])
    await changelogs.unreadable("hosts", 0, b"c", row(3), row(4))
    await changelogs.put("hosts", 0, [(b"d", row(5))])
    place = TopicPartition(changelogs.topics["hosts"], 0)
    assert await rows_between(changelogs.kafka, "test", place, 1, 4) == {b"b": row(2), b"c": row(4)}
    assert await rows_between(changelogs.kafka, "test", place, 1, 6) is None


async def test_a_look_at_some_offsets_ends(changelogs: Changelogs, monkeypatch) -> None:
    """A log that gives nothing is looked at for so long and no longer, even by who loses its cancellation."""
    await changelogs.put("hosts", 0, [(b"a", row(1))])
    monkeypatch.setattr(module, "LOOK_LIMIT", 1.0)

    class Mute(AIOKafkaConsumer):
        async def getmany(self, **_):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)
            return {}

        async def position(self, _):
            return 0

    monkeypatch.setattr("streams.kafka.client.AIOKafkaConsumer", Mute)
    async with asyncio.timeout(20):
        with pytest.raises(BrokerError):
            await rows_between(changelogs.kafka, "test", TopicPartition(changelogs.topics["hosts"], 0), 0, 1)


async def test_a_store_that_reaches_beyond_the_log_begins_anew(changelogs: Changelogs) -> None:
    """Rows of a changelog that was deleted and made again are not kept for those of the new one."""
    store = MemoryStore()
    store.apply("answers", 0, [(b"old", row(1))], 1000)
    store.apply("hosts", 0, [(b"old", row(1))], 0)
    await changelogs.put("answers", 0, [(b"new", row(1))])
    await changelogs.recover(store, 0)
    assert [key for key, _ in store.scan("answers", 0)] == [b"new"]
    assert list(store.scan("hosts", 0)) == []


async def test_rows_of_another_log_are_not_taken_for_this_one_s(changelogs: Changelogs, tmp_path) -> None:
    """The changelogs were made again while this store was away, and others filled them further than it reaches: its
    rows count further than the new ones, and would stay, and be written over them.
    """
    await changelogs.put("answers", 0, [(b"old", row(5000)), (b"k", row(5001))])
    store = RocksStore(str(tmp_path), "me", changelogs.topics)
    store.open()
    await changelogs.recover(store, 0)
    assert store.count("answers", 0) == 2
    store.close()
    async with Changelogs(changelogs.kafka.bootstrap_servers) as again:
        await again.put("answers", 0, [(b"k", row(n)) for n in range(10)])
        store.open()
        recovery = await again.recover(store, 0)
        assert dict(store.scan("answers", 0)) == {b"k": row(9)}
        assert (recovery.echoes, recovery.overwritten) == (0, {})
        store.close()
        store.open()
        assert (await again.recover(store, 0)).rows == 0, "the same log is read on"
        assert store.count("answers", 0) == 1
        store.close()


async def test_a_topic_that_is_not_there_ends_with_a_reason(kafka: Broker, monkeypatch) -> None:
    """A changelog that cannot be read is an error that names it, not an endless wait."""
    monkeypatch.setattr(module, "STALLED", 2.0)
    absent = Recovery(
        Kafka(bootstrap_servers=kafka.servers), "test", MemoryStore(), {"answers": f"absent-{uuid.uuid4().hex}"}
    )
    started = time.monotonic()
    with pytest.raises(BrokerError, match="cannot read the tables' changelogs"):
        async with asyncio.timeout(40):
            await absent.run([0])
    assert time.monotonic() - started < 40


async def test_a_log_that_gives_nothing_ends_with_a_reason(changelogs: Changelogs, monkeypatch) -> None:
    """When nothing comes though the log goes on, recovery ends and names partition and offset."""
    await changelogs.put("answers", 0, [(b"k", row(1))])
    monkeypatch.setattr(module, "STALLED", 1.0)

    class Mute(AIOKafkaConsumer):
        async def getmany(self, **_):
            await asyncio.sleep(0.1)
            return {}

        async def position(self, _):
            return 0

    monkeypatch.setattr("streams.kafka.client.AIOKafkaConsumer", Mute)
    with pytest.raises(BrokerError, match=r"cannot be read beyond offset 0 of 1"):
        await changelogs.recover(MemoryStore(), 0)
