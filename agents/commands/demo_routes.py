"""The demo of a route: orders, compressed with zstd, come out with the answers of two sources in them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

from agents.commands import DONE, FAILED, command, printable, say
from agents.commands.demo_stage import PATIENCE, STRANGER, create, names, run_worker, serve
from models import strictjson

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from agents.testing.broker import Broker

    Output: TypeAlias = ConsumerRecord[bytes, bytes]

ORDERS = 200
CUSTOMERS = 20
"""Customers who order, one of them a stranger to the upstream: each of that one's orders fails."""
ARTICLES = 7
POLL_MS = 100
ROUTE = """
[sources.customers]
url = "http://{address}/shop/customers/{{id}}"

[sources.prices]
url = "http://{address}/shop/prices/{{sku}}"

[routes.orders]
topics = ["{orders}"]
results = "{enriched}"
failures = "{failed}"

[[routes.orders.lookups]]
source = "customers"
params = {{ id = "value.customer" }}
into = "risk"
pick = "score"

[[routes.orders.lookups]]
source = "prices"
params = {{ sku = "value.lines[*].sku" }}
into = "prices"
pick = "price"
"""


async def show(found: Broker) -> int:
    """Run the demo; returns 0 only if every order came out, once at least."""
    from streams.config.settings import Kafka
    from streams.kafka import client

    mark, own = names()
    topics = {name: f"demo-{name}-{mark}" for name in ("orders", "orders-enriched", "orders-failed")}
    orders, enriched, failed = topics.values()
    await create(found, (*own, *topics.values()))
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serve())
        route = ROUTE.format(address=upstream.address, orders=orders, enriched=enriched, failed=failed)
        kafka = Kafka(bootstrap_servers=found.servers)
        producer = await stack.enter_async_context(client.producer(kafka, linger_ms=5, compression_type="zstd"))
        consumer = await stack.enter_async_context(client.consumer(kafka, enriched, failed))
        worker = await stack.enter_async_context(run_worker(found, own, mark, upstream, route))
        started = time.monotonic()
        sent = {b"%d" % number: strictjson.dumps(_order(number)) for number in range(ORDERS)}
        for key, value in sent.items():
            await producer.send(orders, value, key=key)
        seen = await _follow(consumer, lambda: worker.returncode is not None)
        seconds = time.monotonic() - started
        _report(sent, seen, {topic: name for name, topic in topics.items()})
        fine = sum(record.topic == enriched for record in seen.values())
        say(f"{ORDERS} orders in {seconds:.1f} s: {fine} enriched, {len(seen) - fine} failed, "
            f"{ORDERS - len(seen)} lost; {upstream.calls} upstream requests")  # fmt: skip
    if len(seen) < ORDERS:
        return FAILED
    say(f"Next: docs/routes.md, then\n  {command()} routes try NAME FILE    show what comes out for a record of yours")
    return DONE


async def _follow(consumer: Any, failed: Callable[[], bool]) -> dict[bytes, Output]:
    """Return what came out, by key, once all is there, time is up, or the worker failed."""
    seen: dict[bytes, Output] = {}
    deadline = time.monotonic() + PATIENCE
    while len(seen) < ORDERS and not failed() and time.monotonic() < deadline:
        for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
            seen |= {record.key: record for record in records}
    return seen


def _order(number: int) -> dict[str, Any]:
    customer = f"c{number % CUSTOMERS}" if number % CUSTOMERS else STRANGER
    lines = [{"sku": f"s{(number + more) % ARTICLES}"} for more in (0, 3)]
    return {"order": number, "customer": customer, "lines": lines}


def _report(sent: dict[bytes, bytes], seen: dict[bytes, Output], named: dict[str, str]) -> None:
    """Print an order of each kind, as it was sent and as it came out."""
    for name in ("orders-enriched", "orders-failed"):
        record = next((record for record in seen.values() if named[record.topic] == name), None)
        if record is None:
            continue
        print(_line("orders", sent[record.key]))
        why = dict(record.headers).get("__dlq.errors.message")
        print(_line(name, record.value or b"") + (f"  ← {printable(why.decode())}" if why else ""), flush=True)


def _line(topic: str, value: bytes) -> str:
    return f"{topic:16} {printable(value.decode())}"
