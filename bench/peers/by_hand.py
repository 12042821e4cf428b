"""What an experienced team writes: one consumer, one session, a task a miss, results awaited, ordered commits.

It validates requests with marshmallow and writes CloudEvents headers, as Millrace does; with BARE=1 it does neither.
"""

from __future__ import annotations

from agents.entry import EntryPoint

if __name__ == "__main__":  # first: it needs neither the libraries nor the settings below
    EntryPoint(
        "bench.peers.by_hand", f"{__doc__}\nA worker that `python -m bench.peers` starts, with its settings."
    ).begin()

import asyncio
import json
import os
import time

import aiohttp
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.peers.same import checked, headers, read, result

SERVERS = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
IN_FLIGHT = 256


async def main() -> None:
    consumer = AIOKafkaConsumer(
        os.environ["MILLRACE_REQUESTS_TOPIC"], bootstrap_servers=SERVERS, group_id=os.environ["MILLRACE_GROUP"],
        enable_auto_commit=False, auto_offset_reset="earliest", max_poll_records=1000,
    )  # fmt: skip
    producer = AIOKafkaProducer(bootstrap_servers=SERVERS, acks="all", enable_idempotence=True, linger_ms=5,
                                max_batch_size=262144)  # fmt: skip
    results = os.environ["MILLRACE_RESULTS_TOPIC"]
    slots = asyncio.Semaphore(IN_FLIGHT)
    known: dict[str, tuple[object, float, list[dict]]] = {}
    flights: dict[str, asyncio.Task[None]] = {}
    await consumer.start()
    await producer.start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def fetch(request) -> None:
            async with session.get(request["url"], timeout=aiohttp.ClientTimeout(total=30)) as response:
                document = json.loads(await response.read())
            known[request["url"]] = document, time.time(), checked(request, document)

        def publish(record, request, cache):
            made = result(request, record, known[request["url"]], cache)
            return producer.send(results, json.dumps(made).encode(), key=record.key, partition=record.partition,
                                 headers=headers(made["id"]))  # fmt: skip

        async def miss(record, request):
            url = request["url"]
            flight = flights.get(url)
            cache = "coalesced"
            if flight is None:
                flight = flights[url] = asyncio.create_task(fetch(request))
                cache = "miss"
            try:
                await flight
            finally:
                flights.pop(url, None)
                slots.release()
            return await (await publish(record, request, cache))

        while True:
            batches = await consumer.getmany(timeout_ms=1000)
            for tp, records in batches.items():
                waits = []
                for record in records:
                    request = read(record.value)
                    found = known.get(request["url"])
                    if found is not None and time.time() - found[1] < 60:
                        waits.append(await publish(record, request, "hit"))
                    else:
                        await slots.acquire()
                        waits.append(asyncio.create_task(miss(record, request)))
                await asyncio.gather(*waits)
                await consumer.commit({tp: records[-1].offset + 1})


uvloop.run(main())
