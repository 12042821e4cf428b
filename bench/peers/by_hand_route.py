"""What a team writes by hand to put an answer into its records: aiokafka, json, a dict; ordered commits."""

from __future__ import annotations

from agents.entry import EntryPoint

if __name__ == "__main__":  # first: it needs neither the libraries nor the settings below
    EntryPoint(
        "bench.peers.by_hand_route", f"{__doc__}\nA worker that `python -m bench.peers` starts, with its settings."
    ).begin()

import asyncio
import json
import os
import time

import aiohttp
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

SERVERS = os.environ["KAFKA_BOOTSTRAP_SERVERS"]


async def main() -> None:
    consumer = AIOKafkaConsumer(
        os.environ["ORDERS"], bootstrap_servers=SERVERS, group_id=os.environ["MILLRACE_GROUP"],
        enable_auto_commit=False, auto_offset_reset="earliest", max_poll_records=1000,
    )  # fmt: skip
    producer = AIOKafkaProducer(bootstrap_servers=SERVERS, acks="all", enable_idempotence=True, linger_ms=5,
                                max_batch_size=262144)  # fmt: skip
    known: dict[str, tuple[object, float]] = {}
    await consumer.start()
    await producer.start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def document(name: str) -> object:
            found = known.get(name)
            if found is not None and time.time() - found[1] < 60:
                return found[0]
            async with session.get(f"{os.environ['URL']}/{name}", timeout=aiohttp.ClientTimeout(total=30)) as response:
                fetched = json.loads(await response.read())
            known[name] = fetched, time.time()
            return fetched

        while True:
            for tp, records in (await consumer.getmany(timeout_ms=1000)).items():
                waits = []
                for record in records:
                    order = json.loads(record.value)
                    order["risk"] = await document(order["customer"]["id"])
                    waits.append(await producer.send(os.environ["ENRICHED"], json.dumps(order).encode(),
                                                     key=record.key, partition=record.partition))  # fmt: skip
                await asyncio.gather(*waits)
                await consumer.commit({tp: records[-1].offset + 1})


uvloop.run(main())
