"""What a hanging host costs the others: requests to host B alone, then with as many to host A, which never answers.

`python -m bench.isolation` prints B's latency, from the request's timestamp in Kafka to the result's, for both.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.stage import PARTITIONS, WORKERS, Stage, Upstream
from streams.kafka.broker import broker
from streams.kafka.topics import Admin
from streams.settings import Kafka

RATE = 400
"""Requests a second to each host."""
SECONDS = 8
HANGING = 600.0
"""Seconds that host A takes: longer than any deadline."""
B_DELAY = 0.005


async def latencies(servers: str, good: str, hanging: str | None) -> list[float]:
    """Answer RATE × SECONDS requests to `good`, with as many to `hanging`; return B's latencies in ms, sorted."""
    stage = Stage(servers, "millrace")
    async with Admin(Kafka(bootstrap_servers=servers)) as admin:
        for name in stage.names:
            await admin.create(name, PARTITIONS)
        await admin.settled(*stage.names)
    process = subprocess.Popen(WORKERS["millrace"], env=stage.environment)  # noqa: ASYNC220
    consumer = AIOKafkaConsumer(stage.results, bootstrap_servers=servers, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await consumer.start()
    await producer.start()
    try:
        await producer.send(stage.requests, b'{"id":"warm","url":"%b/0"}' % good.encode())
        await consumer.getone()
        asked: dict[str, int] = {}
        started = time.monotonic()
        for number, value in enumerate(_requests(good, hanging)):
            ahead = number / (RATE * (2 if hanging else 1)) - (time.monotonic() - started)
            if ahead > 0:
                await asyncio.sleep(ahead)
            sent = await producer.send(stage.requests, json.dumps(value).encode(), partition=number % PARTITIONS)
            if value["id"].startswith("b"):
                asked[value["id"]] = (await sent).timestamp
        found: list[float] = []
        while len(found) < len(asked):
            record = await asyncio.wait_for(consumer.getone(), 60)
            name = json.loads(record.value)["id"]
            if name in asked:
                found.append(record.timestamp - asked[name])
        return sorted(found)
    finally:
        process.kill()  # host A's requests would keep it from stopping
        process.wait()
        await consumer.stop()
        await producer.stop()


def _requests(good: str, hanging: str | None) -> Iterator[dict[str, str]]:
    for number in range(1, RATE * SECONDS + 1):
        yield {"id": f"b{number}", "url": f"{good}/{number}"}
        if hanging:
            yield {"id": f"a{number}", "url": f"{hanging}/{number}"}


def main() -> None:
    """Run both and print the ratio."""
    with broker() as found, Upstream(B_DELAY) as good, Upstream(HANGING) as hanging:
        alone = asyncio.run(latencies(found.servers, good.url, None))
        beside = asyncio.run(latencies(found.servers, good.url, hanging.url))
    for title, values in (("alone", alone), ("beside a hanging host", beside)):
        p50, p99 = values[len(values) // 2], values[int(len(values) * 0.99)]
        print(f"host B {title}: {len(values)} answers, p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    print(f"p99 beside is {beside[int(len(beside) * 0.99)] / alone[int(len(alone) * 0.99)]:.2f} × p99 alone")


if __name__ == "__main__":
    main()
