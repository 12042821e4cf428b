"""Whatever a producer sends and a topic compresses: each request has its result, and nothing stops a worker."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import aiohttp
import psutil
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from confluent_kafka import Producer

from agents.testing.broker import Broker
from models.dead_letter import DLQ
from streams.config.settings import Kafka
from streams.kafka.topics import Admin
from streams.tables.changelogs import TABLES
from tests.integration.stage import PATIENCE, Stage, Upstream, asked
from tests.integration.test_commands import millrace
from tests.unit.streams.raw_batches import ATTRIBUTES, Name, batch, bodies, changed

pytestmark = pytest.mark.kafka

CODECS = ("gzip", "snappy", "lz4", "zstd", "none")
EACH = 100
"""Requests of each codec."""
MEMORY_LIMIT = 1536 << 20
"""Bytes that deploy/kubernetes lets a worker take."""
BOMBS = 6
"""Batches of some kilobytes that inflate to 250 MB each."""


@pytest.fixture
async def compressed(kafka: Broker):
    """Every topic of ours, tables' changelogs and the workers' too, compressed by the topic, each by another codec."""
    async with Stage(kafka.servers, settings={"MILLRACE_ROLE": "all"}) as stage:
        codec = {"compression.type": "zstd"}, {"compression.type": "snappy"}, {"compression.type": "lz4"}
        await stage.create_topics(requests=codec[0], results=codec[1], dead_letters=codec[2])
        names = [f"{stage.group}-tables-{table}-changelog" for table in TABLES]
        async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
            for name, how in zip(names, ("gzip", "snappy", "lz4", "zstd"), strict=True):
                await admin.create(name, stage.partitions, 1, **{"cleanup.policy": "compact", "compression.type": how})
            workers = f"workers-{stage.mark}"
            await admin.create(workers, 1, 1, **{"cleanup.policy": "compact", "compression.type": "zstd"})
            await admin.settled(*names, workers)
        yield stage


def send_by_another_client(stage: Stage, url: str) -> set[str]:
    """Send requests with librdkafka, compressed by it with each codec; return their ids."""
    ids = set()
    for codec in CODECS:
        producer = Producer({"bootstrap.servers": stage.servers, "compression.type": codec, "linger.ms": 200})
        for number in range(EACH):
            ids.add(f"{codec}-{number}")
            value = json.dumps({"id": f"{codec}-{number}", "url": f"{url}/doc/{number % 7}"})
            producer.produce(stage.requests, value, key=b"%d" % number, headers={"own": b"1"})
        assert producer.flush(PATIENCE) == 0
    return ids


async def put(stage: Stage, topic: str, raw: bytes, partition: int = 0) -> None:
    """Write a batch as it is."""
    client = stage.producer.client
    await stage.producer.partitions_for(topic)
    leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
    written = [(topic, [(partition, raw)])]
    request = ProduceRequest(transactional_id=None, required_acks=-1, timeout=20_000, topics=written)
    response = await client.send(leader, request)
    [(_, [(_, code, *_)])] = response.topics
    assert code == 0, for_code(code)


async def test_every_codec_on_every_topic(compressed: Stage, upstream: Upstream) -> None:
    """Requests of another client by each codec are answered over topics that compress, the tables count them, and come
    back from their changelogs; letters are redriven, results are followed.
    """
    stage = compressed
    worker = await stage.start()
    ids = send_by_another_client(stage, upstream.url)
    await stage.send([b"no request"] * 3)
    await stage.until_results(len(ids) + 3)
    seen = await stage.results_of(ids)
    assert Counter(each.result["outcome"] for each in seen) == {"ok": len(ids), "invalid_request": 3}
    assert len(await stage.read(stage.dead_letters)) == 3

    async def until_counted(url: str) -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
            while True:
                async with session.get(url + "/api/tables/outcomes") as response:
                    minutes = (await response.json()).get("rows", []) if response.status == 200 else []
                if sum(sum(row["answers"].values()) for row in minutes) == len(seen):
                    return
                await asyncio.sleep(0.1)

    await until_counted(worker.url)
    worker.kill()
    await worker.ended()
    again = await stage.start(MILLRACE_ROLE="tables")
    await again.logged(r"tables recovered: [1-9]")
    await until_counted(again.url)
    code, out, err = await millrace(stage, "tail", "--from-beginning", "-n", str(len(seen)))
    assert (code, len(out.splitlines())) == (0, len(seen)), err
    code, _, err = await millrace(stage, "redrive", "--all", "--dry-run")
    assert (code, "3" in err) == (0, True), err


async def test_what_kafka_takes_stops_nothing(stage: Stage, upstream: Upstream, kafka: Broker) -> None:
    """Batches that no client writes and Kafka takes, and some that inflate to gigabytes: each record has a result,
    requests among them are answered, and the worker stays under the manifests' limit.
    """
    worker = await stage.start()
    process = psutil.Process(worker.process.pid)

    def request(number: int) -> bytes:
        return asked(f"{upstream.url}/doc/{number % 5}", number)

    async def send(raw: bytes) -> None:
        await put(stage, stage.requests, raw)

    plain = batch(*[(b"k", request(n), [("h", None), ("", b"")]) for n in range(3)])
    attributed = bytearray(plain[61:])
    attributed[bodies(attributed)[1]] = 0xFF  # which aiokafka reads as two bytes
    renumbered = bytearray(batch(*[(b"k", request(n), []) for n in range(6, 9)])[61:])
    for begin in bodies(renumbered):
        renumbered[begin + 2] = 0  # each says that it is the first
    await send(changed(plain, {}, bytes(attributed)))
    await send(batch(*[(b"k", request(n), [(Name(b"\xff\xfe"), b"1")]) for n in range(3, 6)], codec=2))
    await send(changed(batch(*[(b"k", request(n), []) for n in range(6, 9)]), {}, bytes(renumbered)))
    await send(batch((None, None, []), (b"", b"", [("h%d" % n, b"") for n in range(5000)])))
    await send(batch((b"k" * 900_000, request(9), [])))
    for number, timestamp in enumerate((-1, -2, 0, 1_700_000_000), 10):
        await send(batch((b"k", request(number), []), timestamp=timestamp))
    await send(changed(batch((b"k", request(14), [])), {ATTRIBUTES: 0x40C0}))
    bomb = batch((b"big", bytes(250_000_000), [("ce_id", b"bomb")]), (b"k", request(15), []), codec=4)
    for number in range(BOMBS):
        await put(stage, stage.requests, bomb, number % stage.partitions)
    await stage.send([request(16)])

    most, expected = 0, 3 + 3 + 3 + 2 + 1 + 4 + 1 + 2 * BOMBS + 1
    async with asyncio.timeout(PATIENCE):
        while await stage.count(stage.results) < expected:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.02)
    seen = await stage.read()
    outcomes = Counter((each.result["outcome"], each.result["id"]) for each in seen)
    assert len(seen) == expected
    assert {name for outcome, name in outcomes if outcome == "ok"} == {f"r{n}" for n in range(17)}
    assert outcomes["invalid_request", "bomb"] == BOMBS
    assert outcomes["ok", "r15"] == BOMBS
    letters = [each for each in await stage.read(stage.dead_letters) if each.key == b"big"]
    assert {each.headers[DLQ + "value.bytes"][:6] for each in letters} == {b"250000"}
    assert most < MEMORY_LIMIT / 2, f"{most >> 20} MiB"
    lines = [line for line in worker.log if "cannot be read" in line]
    assert len(lines) == BOMBS
    async with aiohttp.ClientSession() as session, session.get(worker.url + "/metrics") as response:
        metrics = await response.text()
    assert f'millrace_unreadable_records_total{{topic="{stage.requests}"}} {BOMBS}.0' in metrics
    assert f'millrace_rebalances_total{{group="{stage.group}"}} 1.0' in metrics  # heartbeats went on meanwhile
