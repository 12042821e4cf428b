"""FastStream on aiokafka: a batch subscriber, records as they came, results published unconfirmed and then awaited."""

from __future__ import annotations

from agents.entry import EntryPoint

if __name__ == "__main__":  # first: it needs neither the libraries nor the settings below
    EntryPoint(
        "bench.peers.with_faststream", f"{__doc__}\nA worker that `python -m bench.peers` starts, with its settings."
    ).begin()

import asyncio
import json
import os
import time

import aiohttp
import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage

from bench.peers.same import checked, headers, result

IN_FLIGHT = 256
broker = KafkaBroker(
    os.environ["KAFKA_BOOTSTRAP_SERVERS"], acks="all", enable_idempotence=True, linger_ms=5, max_batch_size=262144,
    logger=None,
)  # fmt: skip
app = FastStream(broker, logger=None)
known: dict[str, tuple[object, float, list[dict]]] = {}
flights: dict[str, asyncio.Task] = {}
slots = asyncio.Semaphore(IN_FLIGHT)
session: aiohttp.ClientSession | None = None


async def fetch(request: dict) -> None:
    async with session.get(request["url"], timeout=aiohttp.ClientTimeout(total=30)) as response:
        document = json.loads(await response.read())
    known[request["url"]] = document, time.time(), checked(request, document)


async def answer(request: dict, record) -> asyncio.Future:
    url, cache = request["url"], "hit"
    if url not in known:
        async with slots:
            cache = "coalesced" if url in flights else "miss"
            if cache == "miss":
                flights[url] = asyncio.create_task(fetch(request))
            try:
                await flights[url]
            finally:
                flights.pop(url, None)
    made = result(request, record, known[url], cache)
    return await broker.publish(
        json.dumps(made).encode(), os.environ["MILLRACE_RESULTS_TOPIC"], key=record.key, partition=record.partition,
        headers={name: value.decode() for name, value in headers(made["id"])}, no_confirm=True,
    )  # fmt: skip


@broker.subscriber(
    os.environ["MILLRACE_REQUESTS_TOPIC"], group_id=os.environ["MILLRACE_GROUP"], auto_offset_reset="earliest",
    batch=True, max_records=1000, ack_policy=AckPolicy.ACK,
)  # fmt: skip
async def batch(requests: list[dict], message: KafkaMessage) -> None:
    sent = await asyncio.gather(*map(answer, requests, message.raw_message))
    await asyncio.gather(*sent)


@app.on_startup
async def begin() -> None:
    global session
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


if __name__ == "__main__":
    uvloop.run(app.run())
