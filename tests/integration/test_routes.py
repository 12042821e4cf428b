"""Routes on a real worker and Kafka: topics of a team's own in, and out."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from agents.testing.broker import Broker
from streams.config.settings import Kafka
from streams.kafka.topics import Admin
from tests.integration.stage import PATIENCE, Seen, Stage, Upstream
from tests.integration.test_commands import millrace
from tests.integration.test_web import until

ROUTES = """
[sources.risk]
url = "{url}/risk/{{id}}"
limits.per = "source"
{risk}

[sources.prices]
url = "{url}/price/{{sku}}"

[routes.orders]
topics = ["orders-{mark}"]
results = "enriched-{mark}"
failures = "failed-{mark}"
when = "value.customer.country != 'US'"
{orders}

[[routes.orders.lookups]]
source = "risk"
params = {{ id = "value.customer.id" }}
into = "risk"
pick = "score"
checks = [{{ name = "range", field = "score", args = {{ low = 0, high = 1 }} }}]

[[routes.orders.lookups]]
source = "prices"
params = {{ sku = "value.lines[*].sku" }}
into = "prices"
required = false
"""


class Shop(Upstream):
    """Scores customers and prices articles; those called `x…` are not there."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.app.router.add_get("/risk/{id}", self._risk)
        self.app.router.add_get("/price/{sku}", self._price)

    async def _risk(self, request: web.Request) -> web.Response:
        self.calls["risk"] += 1
        await asyncio.sleep(float(request.query.get("delay", 0)))
        if self.down:
            return web.Response(status=503)
        name = request.match_info["id"]
        if name.startswith("x"):
            return web.Response(status=404)
        return web.Response(text='{"score":0.10,"of":"%s"}' % name, content_type="application/json")

    async def _price(self, request: web.Request) -> web.Response:
        self.calls["price"] += 1
        if request.match_info["sku"].startswith("x"):
            return web.Response(status=404)
        return web.json_response({"sku": request.match_info["sku"], "price": 2})


class Route:
    """The topics of a stage's route, and its file of sources."""

    def __init__(
        self, stage: Stage, url: str, folder: Path, *, risk: str = "", orders: str = "", more: str = ""
    ) -> None:
        self.stage = stage
        self.orders, self.enriched, self.failed = (f"{name}-{stage.mark}" for name in ("orders", "enriched", "failed"))
        text = ROUTES.format(url=url, mark=stage.mark, risk=risk, orders=orders) + more.format(url=url, mark=stage.mark)
        (folder / "sources.toml").write_text(text)
        stage.settings["MILLRACE_SOURCES"] = str(folder / "sources.toml")

    async def create(self, *others: str) -> None:
        async with Admin(Kafka(bootstrap_servers=self.stage.servers)) as admin:
            names = (self.orders, self.enriched, self.failed, *others)
            for name in names:
                await admin.create(name, self.stage.partitions, 1)
            await admin.settled(*names)

    async def send(self, orders: list[Any], **options: Any) -> None:
        pending = []
        for number, order in enumerate(orders):
            value = order if order is None or isinstance(order, bytes) else json.dumps(order).encode()
            pending.append(await self.stage.producer.send(self.orders, value, key=b"%d" % number, **options))
        await asyncio.gather(*pending)

    async def until(self, topic: str, count: int, seconds: float = PATIENCE) -> list[Seen]:
        """Return the records of a topic once there are so many; fails with the route's dead letters otherwise."""
        deadline = time.monotonic() + seconds
        while (there := await self.stage.count(topic)) < count:
            if time.monotonic() > deadline:
                letters = Counter(each.headers["__dlq.errors.message"] for each in await self.stage.read(self.failed))
                raise AssertionError(f"{there} of {count} records on {topic}; dead letters: {letters}")
            await asyncio.sleep(0.05)
        return await self.stage.read(topic)


@pytest.fixture
async def shop():
    async with Shop() as opened:
        yield opened


def order(number: int, customer: str = "", country: str = "DE", **more: Any) -> dict[str, Any]:
    return {"number": number, "customer": {"id": customer or f"c{number % 20}", "country": country}, **more}


async def test_records_of_a_topic_come_out_with_the_answers_in_them(kafka: Broker, stage, shop, tmp_path):
    """Merged, passed on, failed, without an optional answer: each where the route says, with key and headers."""
    route = Route(stage, shop.url, tmp_path)
    await route.create()
    await stage.start()
    text = b'{"number": 1.10, "customer": {"id": "c1", "country": "DE"}, "lines": [{"sku": "a"}, {"sku": "b"}]}'
    sent = [text, order(2, country="US"), order(3, "x3"), order(4, lines=[{"sku": "x"}]), b"no JSON", order(6), None]
    await route.send(sent, headers=[("trace", b"t1"), ("content-type", b"text/json")], timestamp_ms=1_790_000_000_000)
    done = {seen.key: seen for seen in await route.until(route.enriched, 5)}
    assert done[b"0"].result == text[:-1] + b',"risk":0.10,"prices":[{"sku":"a","price":2},{"sku":"b","price":2}]}'
    assert done[b"0"].headers["trace"] == b"t1"
    assert done[b"0"].headers["content-type"] == b"application/json"
    assert json.loads(done[b"0"].headers["millrace_checks"].partition(b": ")[2])[0]["value"] is True
    assert json.loads(done[b"1"].result) == order(2, country="US")
    assert done[b"1"].headers["content-type"] == b"text/json"
    assert json.loads(done[b"3"].result) == {**order(4, lines=[{"sku": "x"}]), "risk": 0.1}
    assert done[b"3"].headers["millrace_missing"] == b"prices: upstream_error"
    assert json.loads(done[b"5"].result)["risk"] == 0.1
    assert done[b"6"].result is None
    failed = {seen.key: seen for seen in await route.until(route.failed, 2)}
    assert failed[b"2"].result == json.dumps(order(3, "x3")).encode()
    assert failed[b"2"].headers["__dlq.errors.outcome"] == b"upstream_error"
    assert (failed[b"2"].headers["__dlq.errors.route"], failed[b"2"].headers["__dlq.errors.lookup"]) == (
        b"orders",
        b"risk",
    )
    assert failed[b"2"].headers["__dlq.errors.topic"] == route.orders.encode()
    assert failed[b"4"].headers["__dlq.errors.outcome"] == b"invalid_request"
    assert b"not JSON" in failed[b"4"].headers["__dlq.errors.message"]


async def test_no_record_is_lost_when_a_worker_is_killed(kafka: Broker, stage, shop, tmp_path):
    """Killed in the middle of 2,000 records, and another goes on: each has its output, repeats carry its place."""
    route = Route(stage, shop.url, tmp_path, orders="in_progress = 16")
    await route.create()
    await stage.start()
    sending = asyncio.create_task(route.send([order(n, f"c{n}") for n in range(2000)]))
    await route.until(route.enriched, 300)
    stage.workers[0].kill()
    await stage.start()
    await sending
    async with asyncio.timeout(PATIENCE):
        while True:
            seen = await route.until(route.enriched, 2000)
            if len({each.headers["millrace_record"] for each in seen}) == 2000:
                break
            await asyncio.sleep(0.2)
    assert {json.loads(each.result)["number"] for each in seen} == set(range(2000))
    assert await stage.count(route.failed) == 0


async def test_a_route_waits_in_kafka_for_a_limited_source(kafka: Broker, stage, shop, tmp_path):
    """Six times more records than a source takes within a deadline: none is dead for having waited, the rest is lag."""
    stage.settings["MILLRACE_TIMEOUT"] = "2"
    route = Route(stage, shop.url, tmp_path, risk="limits.rate = 50", orders="in_progress = 256")
    await route.create()
    worker = await stage.start()
    began = time.monotonic()
    await route.send([order(n, f"c{n}") for n in range(300)])
    await route.until(route.enriched, 300)
    assert time.monotonic() - began > 4.5
    assert await stage.count(route.failed) == 0
    assert shop.calls["risk"] == 300
    worker.terminate()
    assert await worker.ended() == 0


async def test_a_source_that_rests_holds_up_its_own_route_alone(kafka: Broker, stage, shop, tmp_path):
    """While one route's source fails and its breaker is open, another route and the requests go on; then all comes."""
    more = """
[routes.articles]
topics = ["articles-{mark}"]
results = "priced-{mark}"
output = "document"

[[routes.articles.lookups]]
source = "prices"
params = {{ sku = "value.sku" }}
"""
    stage.settings["MILLRACE_NEGATIVE_TTL"] = "0"
    route = Route(stage, shop.url, tmp_path, risk="retry.attempts = 1", more=more)
    articles, priced = f"articles-{stage.mark}", f"priced-{stage.mark}"
    await route.create(articles, priced)
    worker = await stage.start()
    shop.down = True
    await route.send([order(n, f"c{n}") for n in range(500)])
    await worker.logged("fails too often")
    for number in range(100):
        await stage.producer.send(articles, b'{"sku":"s%d"}' % number, key=b"k")
    await stage.producer.flush()
    await stage.send([json.dumps({"id": f"r{n}", "url": f"{shop.url}/doc/{n}"}).encode() for n in range(100)])
    seen = await route.until(priced, 100, 20)
    assert {json.loads(each.result)["price"] for each in seen} == {2}
    await stage.results_of({f"r{n}" for n in range(100)}, seconds=20)
    failed = await stage.count(route.failed)
    assert failed < 300  # those that were asked before the breaker opened, and one probe each 5 s
    shop.down = False
    async with asyncio.timeout(PATIENCE):
        while await stage.count(route.enriched) + await stage.count(route.failed) < 500:
            await asyncio.sleep(0.1)
    letters = await stage.read(route.failed)
    assert {each.headers["__dlq.errors.outcome"] for each in letters} <= {b"upstream_error"}


async def test_what_the_topic_of_the_results_refuses_holds_up_nobody(kafka: Broker, stage, shop, tmp_path):
    """A record of tomorrow, and one without a key for a compacted topic: dead letters, and those behind them go on."""
    stage.partitions = 1
    more = """
[routes.latest]
topics = ["articles-{mark}"]
results = "priced-{mark}"
failures = "unpriced-{mark}"

[[routes.latest.lookups]]
source = "prices"
params = {{ sku = "value.sku" }}
"""
    route = Route(stage, shop.url, tmp_path, orders='timestamp = "record"', more=more)
    articles, priced, unpriced = (f"{name}-{stage.mark}" for name in ("articles", "priced", "unpriced"))
    await route.create(articles, unpriced)
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        await admin.create(priced, 1, 1, **{"cleanup.policy": "compact"})
        await admin.create(f"late-{stage.mark}", 1, 1, **{"message.timestamp.after.max.ms": "1000"})
        await admin.settled(priced, f"late-{stage.mark}")
    sources = tmp_path / "sources.toml"
    sources.write_text(sources.read_text().replace(f'results = "{route.enriched}"', f'results = "late-{stage.mark}"'))
    await stage.start()
    now = int(time.time() * 1000)
    await route.send([order(1)], timestamp_ms=now + 1_800_000)
    await route.send([order(2)], timestamp_ms=now)
    await stage.producer.send(articles, b'{"sku":"a"}', key=None)
    await stage.producer.send(articles, b'{"sku":"b"}', key=b"b")
    [seen] = await route.until(f"late-{stage.mark}", 1)
    assert json.loads(seen.result)["number"] == 2
    [letter] = await route.until(route.failed, 1)
    assert b"does not take the record's timestamp" in letter.headers["__dlq.errors.message"]
    [seen] = await route.until(priced, 1)
    [letter] = await route.until(unpriced, 1)
    assert (seen.key, letter.result) == (b"b", b'{"sku":"a"}')
    assert b"has no key, and the topic" in letter.headers["__dlq.errors.message"]


async def test_dead_letters_of_a_route_are_redriven_to_its_topic_once(kafka: Broker, stage, shop, tmp_path):
    """What failed comes out enriched, with the place of its first delivery; a second redrive finds nothing to do."""
    stage.settings["MILLRACE_NEGATIVE_TTL"] = "0"
    route = Route(stage, shop.url, tmp_path, risk="retry.attempts = 1")
    await route.create()
    await stage.start()
    shop.down = True
    await route.send([order(n) for n in range(3)])
    await route.until(route.failed, 3)
    shop.down = False
    code, _, err = await millrace(stage, "redrive", "--route", "orders", "--all")
    assert (code, "3 redriven" in err) == (0, True)
    seen = await route.until(route.enriched, 3)
    letters = await stage.read(route.failed)
    places = {
        f"{route.orders}-{each.headers['__dlq.errors.partition'].decode()}-{each.headers['__dlq.errors.offset'].decode()}"
        for each in letters
    }
    assert {each.headers["millrace_record"].decode() for each in seen} == places
    code, _, err = await millrace(stage, "redrive", "--route", "orders", "--all")
    assert "3 not redriven: redriven before" in err
    code, _, err = await millrace(stage, "redrive", "--route", "none", "--all")
    assert (code, "no route 'none'; known: orders" in err) == (2, True)


async def test_what_is_named_is_redriven_from_whichever_topic_of_the_route_it_came(
    kafka: Broker, stage, shop, tmp_path
):
    """A letter of one topic is not missed for the others, and all topics of a route share the limit."""
    stage.settings["MILLRACE_NEGATIVE_TTL"] = "0"
    more = """
[routes.stock]
topics = ["articles-{mark}", "goods-{mark}"]
results = "priced-{mark}"
failures = "unpriced-{mark}"

[[routes.stock.lookups]]
source = "risk"
params = {{ id = "key" }}
into = "risk"
"""
    route = Route(stage, shop.url, tmp_path, risk="retry.attempts = 1", more=more)
    articles, goods, priced, unpriced = (f"{name}-{stage.mark}" for name in ("articles", "goods", "priced", "unpriced"))
    await route.create(articles, goods, priced, unpriced)
    await stage.start()
    shop.down = True
    for topic, key in ((articles, b"a1"), (goods, b"g1"), (goods, b"g2")):
        await stage.producer.send_and_wait(topic, b"{}", key=key)
    await route.until(unpriced, 3)
    shop.down = False
    code, out, err = await millrace(
        stage, "redrive", "--route", "stock", "--all", "--limit", "2", "--dry-run", "--json"
    )
    assert (code, "2 would be redriven" in err, len(out.splitlines())) == (0, True, 2)
    code, out, _ = await millrace(stage, "redrive", "--route", "stock", "--all", "--dry-run", "--json")
    letters = [json.loads(line) for line in out.splitlines()]
    assert (code, len(letters)) == (0, 3)
    for named in (["--id", letters[0]["id"]], ["--letter", f"{letters[-1]['partition']}:{letters[-1]['offset']}"]):
        code, _, err = await millrace(stage, "redrive", "--route", "stock", *named)
        assert (code, "1 redriven" in err, "no dead letter" in err) == (0, True, False)
    await route.until(priced, 2)


async def test_a_record_without_a_value_is_redriven_as_it_was(kafka: Broker, stage, shop, tmp_path):
    """One that is looked up by its key: it comes back without a value, and without headers that it did not have."""
    stage.settings["MILLRACE_NEGATIVE_TTL"] = "0"
    more = """
[routes.gone]
topics = ["articles-{mark}"]
results = "priced-{mark}"
failures = "unpriced-{mark}"
tombstones = "look-up"

[[routes.gone.lookups]]
source = "risk"
params = {{ id = "key" }}
into = "risk"
"""
    route = Route(stage, shop.url, tmp_path, risk="retry.attempts = 1", more=more)
    articles, priced, unpriced = (f"{name}-{stage.mark}" for name in ("articles", "priced", "unpriced"))
    await route.create(articles, priced, unpriced)
    await stage.start()
    shop.down = True
    await stage.producer.send(articles, None, key=b"c1", headers=[("trace", b"t")])
    await route.until(unpriced, 1)
    shop.down = False
    code, _, err = await millrace(stage, "redrive", "--route", "gone", "--all")
    assert (code, "1 redriven" in err) == (0, True)
    [seen] = await route.until(priced, 1)
    assert (seen.key, json.loads(seen.result)["risk"]["of"]) == (b"c1", "c1")
    assert seen.headers.keys() == {"trace", "content-type", "millrace_record"}


async def test_the_page_and_the_api_show_what_a_route_waits_for(kafka: Broker, stage, shop, tmp_path):
    """Lag, rate, outcomes and what a route with a limited source waits for, and at the end that all is done."""
    stage.settings["MILLRACE_ROLE"] = "all"
    route = Route(stage, shop.url, tmp_path, risk="limits.rate = 20", orders="in_progress = 16")
    await route.create()
    worker = await stage.start()
    await route.send([order(n, f"c{n}") for n in range(100)] + [b"no JSON"])

    def waits(status: int, told: dict[str, Any]) -> bool:
        [shown] = told.get("routes") or [{}]
        return bool(status == 200 and shown and shown["lag"] and shown["waiting"] and shown["rate"])

    [seen] = (await until(worker, "/api/routes", waits))["routes"]
    assert (seen["name"], seen["topics"], seen["group"]) == ("orders", [route.orders], f"{stage.group}-orders")
    assert (seen["in_progress"], seen["waiting"].keys(), seen["partitions"]) == (16, {"source risk"}, stage.partitions)
    [seen] = (await until(worker, "/api/routes", lambda _, told: told["routes"][0]["lag"] == 0))["routes"]
    assert (seen["outcomes"], seen["waiting"], seen["in_progress"]) == ({"ok": 100, "invalid_request": 1}, {}, 0)
    async with ClientSession() as session, session.get(worker.url + "/routes") as response:
        assert (response.status, route.enriched in await response.text()) == (200, True)


async def test_a_topic_that_a_pattern_matches_is_read_as_it_appears(kafka: Broker, stage, shop, tmp_path):
    """From its first record, while two workers go on with the rest: nothing is lost, little repeated, and all that
    looks at routes shows it; what is not to be read is not.
    """
    stage.settings["MILLRACE_ROLE"] = "all"
    route = Route(stage, shop.url, tmp_path)
    file, pattern = tmp_path / "sources.toml", f"^orders-{stage.mark}-.*"
    file.write_text(file.read_text().replace(f'["orders-{stage.mark}"]', f"[\"orders-{stage.mark}\", '{pattern}']"))
    await route.create()
    first, second = [await stage.start(), await stage.start()]
    sending = asyncio.create_task(route.send([order(n, f"c{n}") for n in range(1000)]))
    await route.until(route.enriched, 100)
    new = f"orders-{stage.mark}-eu"
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        await admin.create(new, 2, 1)
        await admin.create(f"other-orders-{stage.mark}-eu", 2, 1)
        await admin.settled(new)
    for number in range(1000, 1010):
        await stage.producer.send(new, json.dumps(order(number)).encode(), key=b"k")
    await sending
    seen = await route.until(route.enriched, 1010)
    assert {json.loads(each.result)["number"] for each in seen} == set(range(1010))
    assert len(seen) < 1030
    for worker in (first, second):
        assert await worker.logged(f"new topics match its patterns: {new}")
    await until(first, "/api/routes", lambda _, told: told["routes"][0]["topics"] == [route.orders, new])
    code, out, _ = await millrace(stage, "topics")
    assert (code, f"{new}\tpartitions=2" in out) == (0, True)
    code, out, _ = await millrace(stage, "doctor", "--json")
    assert f"topic {new}" in {json.loads(line)["subject"] for line in out.splitlines()}
    await stage.producer.send(new, b"no JSON", key=b"k")
    await route.until(route.failed, 1)
    code, _, err = await millrace(stage, "redrive", "--route", "orders", "--all")
    assert (code, "1 redriven" in err) == (0, True)
    await route.until(route.failed, 2)


async def test_patterns_may_match_nothing_yet_and_their_topics_may_go(kafka: Broker, stage, shop, tmp_path):
    """A worker whose route has no topic is ready; what comes is read, and what goes holds up nobody."""
    route = Route(stage, shop.url, tmp_path)
    file = tmp_path / "sources.toml"
    file.write_text(file.read_text().replace(f'["orders-{stage.mark}"]', f"['^eu-{stage.mark}-.*']"))
    await route.create()
    worker = await stage.start()
    await worker.logged("its patterns match no topic yet")
    await worker.logged("ready after .*orders has 0 partitions")
    new, other = f"eu-{stage.mark}-a", f"eu-{stage.mark}-b"
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        for name in (new, other):
            await admin.create(name, 2, 1)
            await admin.settled(name)
            await stage.producer.send(name, json.dumps(order(1)).encode())
        await route.until(route.enriched, 2)
        await admin._client.delete_topics([new])
        await worker.logged(f"topics are gone: {new}")
    await stage.producer.send(other, json.dumps(order(2)).encode())
    await route.until(route.enriched, 3)
    async with asyncio.timeout(PATIENCE), ClientSession() as session:
        while (await session.get(worker.url + "/readyz")).status != 200:
            await asyncio.sleep(0.2)
    assert not any("create it with: millrace topics --create" in line for line in worker.log)
    worker.terminate()
    assert await worker.ended() == 0


async def test_the_doctor_looks_at_topics_and_groups_of_routes(kafka: Broker, stage, shop, tmp_path):
    """Missing topics are named with what to do; once there, all is well, the group of the route, too."""
    route = Route(stage, shop.url, tmp_path)
    code, out, _ = await millrace(stage, "doctor", "--json")
    problems = {each["subject"]: each["advice"] for each in map(json.loads, out.splitlines())
                if each["state"] == "problem"}  # fmt: skip
    advice = "create it: millrace topics --create"
    assert (code, problems) == (1, {f"topic {name}": advice for name in (route.orders, route.enriched, route.failed)})
    await route.create()
    code, out, _ = await millrace(stage, "doctor", "--json")
    fine = {each["subject"] for each in map(json.loads, out.splitlines()) if each["state"] == "ok"}
    assert (code, fine >= {"route orders", f"group {stage.group}-orders", f"topic {route.enriched}"}) == (0, True)
