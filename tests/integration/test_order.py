"""The order of keys on Kafka itself: kill -9, members that come and go, failures and repeats leave it as it is."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from aiohttp import web

from agents.testing.broker import Broker
from streams.config.settings import Kafka
from streams.kafka.topics import Admin
from tests.integration.stage import PATIENCE, Stage, Upstream, asked, repeats

COUNT = 1_500
KEYS = 60
HOT = 10
"""One of so many requests has one and the same key."""
ROUTE = """
[sources.hook]
url = "{url}/hook"
method = "POST"
body = {{ key = "{{key}}", number = "{{number}}" }}
retry.unsafe = true

[routes.hooks]
topics = ["events-{mark}"]
results = "sent-{mark}"
order = "key"

[[routes.hooks.lookups]]
source = "hook"
params = {{ key = "key", number = "value.number" }}
into = "answer"
"""
pytestmark = pytest.mark.kafka


class Receiver(Upstream):
    """Receives webhooks, some late, and refuses some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[tuple[bytes | None, int]] = []
        self._draw = random.Random(17)
        self.app.router.add_post("/hook", self._hook)

    async def _hook(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.received.append((body["key"].encode(), int(body["number"])))
        await asyncio.sleep(self._draw.choice((0, 0.005, 0.05)))
        return web.json_response({}, status=503 if self._draw.random() < 0.05 else 200)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as opened:
        yield opened


def key_of(number: int) -> bytes:
    return b"hot" if number % HOT == 0 else b"k%d" % (number * 7 % KEYS)


def load(upstream: Upstream) -> list[bytes]:
    """Requests of all kinds: hits, misses of various lengths, what the upstream refuses, what is no request."""
    draw = random.Random(15)
    values = []
    for number in range(COUNT):
        kind = draw.random()
        if kind < 0.05:
            values.append(b'{"id":"r%d"}' % number)
        elif kind < 0.15:
            values.append(asked(f"{upstream.url}/doc/{number}?status=404", number))
        elif kind < 0.6:
            values.append(asked(f"{upstream.url}/doc/{number}?delay={draw.choice((0, 0.01, 0.04, 0.15))}", number))
        else:
            values.append(asked(f"{upstream.url}/doc/{draw.randrange(20)}", number))
    return values


def assert_in_order(seen: Iterable[tuple[bytes | None, int]]) -> None:
    """Fail unless the first and the last results of each key's requests come in the order of their numbers."""
    found: defaultdict[bytes | None, list[int]] = defaultdict(list)
    for key, number in seen:
        found[key].append(number)
    for key, numbers in found.items():
        first, last = list(dict.fromkeys(numbers)), list(dict.fromkeys(reversed(numbers)))[::-1]
        assert first == sorted(first), f"{key!r}: a later result came first"
        assert last == sorted(last), f"{key!r}: the last result is not that of the last request"


async def test_results_of_a_key_stay_in_order_through_kill_9(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """Two workers are killed in mid-run, one joins: every request is answered, each key's results are in order."""
    stage.settings["MILLRACE_ORDER"] = "key"
    first = await stage.start()
    await stage.send(load(upstream), key=key_of)
    await stage.until_results(COUNT // 5)
    first.kill()
    second = await stage.start()
    await stage.until_results(COUNT // 2)
    await stage.start(ready=False)  # a rebalance in mid-run
    await stage.until_results(COUNT * 3 // 5)
    second.kill()
    seen = await stage.results_of({f"r{number}" for number in range(COUNT)}, seconds=2 * PATIENCE)
    print(f"\nin order: {repeats(seen)} repeats")
    assert_in_order((each.key, int(each.result["id"][1:])) for each in seen)
    kinds = {each.result["outcome"] for each in seen}, {each.result.get("cache") for each in seen}
    assert kinds[0] == {"ok", "upstream_error", "invalid_request"}
    assert {"hit", "miss"} <= kinds[1]


async def test_webhooks_of_a_key_are_sent_in_order_through_kill_9(
    kafka: Broker, stage: Stage, receiver: Receiver, tmp_path: Path
) -> None:
    """A route with `order = "key"` sends, and publishes, those of one key in the order of its records."""
    file = tmp_path / "sources.toml"
    file.write_text(ROUTE.format(url=receiver.url, mark=stage.mark), encoding="utf-8")
    stage.settings["MILLRACE_SOURCES"] = str(file)
    topics = [f"events-{stage.mark}", f"sent-{stage.mark}"]
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        for name in topics:
            await admin.create(name, stage.partitions, 1)
        await admin.settled(*topics)
    worker = await stage.start()
    count = 1_000
    for number in range(count):
        await stage.producer.send(topics[0], json.dumps({"number": number}).encode(), key=key_of(number))
    await stage.producer.flush()
    async with asyncio.timeout(PATIENCE):
        while await stage.count(topics[1]) < count // 3:
            await asyncio.sleep(0.05)
    worker.kill()
    await worker.ended()
    await stage.start()
    sent: list[tuple[bytes | None, int]] = []
    async with asyncio.timeout(2 * PATIENCE):
        while len({number for _, number in sent}) < count:
            sent = [(each.key, json.loads(each.result)["number"]) for each in await stage.read(topics[1])]
    assert_in_order(sent)
    assert_in_order(receiver.received)
