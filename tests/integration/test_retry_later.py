"""What failed is tried again later: on real workers and Kafka, with delays of seconds."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from agents.testing.broker import Broker
from tests.integration.stage import PATIENCE, Seen, Stage, Upstream
from tests.integration.test_commands import millrace

pytestmark = pytest.mark.kafka
DLQ = "__dlq.errors."
SOURCES = """
[sources.flaky]
url = "{url}/flaky/{{id}}"
retry.attempts = 1
cache.negative_ttl = 0
retry_later = {delays}
{more}
"""


class Flaky(Upstream):
    """Answers `/flaky/<id>` with 425, which trips no breaker, until it was asked `needed` times for that id; ids that
    begin with `x` have 404.
    """

    def __init__(self, needed: int) -> None:
        super().__init__()
        self.needed = needed
        self.asked_at: dict[str, list[float]] = {}
        self.app.router.add_get("/flaky/{id}", self._flaky)

    async def _flaky(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        times = self.asked_at.setdefault(name, [])
        times.append(time.monotonic())
        if name.startswith("x"):
            return web.Response(status=404)
        return web.Response(status=425) if len(times) < self.needed else web.json_response({"of": name})


def describe(stage: Stage, upstream: Upstream, folder: Path, delays: str, more: str = "") -> None:
    """Write the file of sources."""
    file = folder / "sources.toml"
    file.write_text(SOURCES.format(url=upstream.url, delays=delays, more=more), encoding="utf-8")
    stage.settings["MILLRACE_SOURCES"] = str(file)


async def begin(stage: Stage, upstream: Upstream, folder: Path, delays: str = '["2s", "3s"]', more: str = "") -> None:
    """Write the file of sources and make the topics."""
    describe(stage, upstream, folder, delays, more)
    code, _, err = await millrace(stage, "topics", "--create", "--replication", "1")
    assert code == 0, err


def asked(name: str, **more: object) -> bytes:
    return json.dumps({"source": "flaky", "params": {"id": name}, **more}).encode()


async def until(stage: Stage, topic: str, count: int) -> list[Seen]:
    """Return a topic's records once there are so many."""
    async with asyncio.timeout(PATIENCE):
        while await stage.count(topic) < count:
            await asyncio.sleep(0.1)
    return await stage.read(None if topic == stage.results else topic)


async def test_what_failed_is_tried_again_when_its_time_has_come(kafka: Broker, stage: Stage, tmp_path: Path) -> None:
    """One result at the end, with the id that the first try had; key, context and trace are kept; a 404 is no case."""
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with Flaky(needed=3) as upstream:
        await begin(stage, upstream, tmp_path)
        await stage.start()
        headers = [("traceparent", trace)]
        at = await stage.producer.send_and_wait(stage.requests, asked("a", context={"n": 1}), b"ka", headers=headers)
        await stage.send([asked("x", id="gone")])
        [gone, answered] = sorted(await until(stage, stage.results, 2), key=lambda each: each.result["outcome"] == "ok")
        assert (gone.result["id"], gone.result["status"]) == ("gone", 404)
        assert answered.result["id"] == f"{stage.requests}-{at.partition}-{at.offset}"
        assert (answered.result["outcome"], answered.result["context"]) == ("ok", {"n": 1})
        assert (answered.key, answered.headers["traceparent"]) == (b"ka", trace)
        first, second, third = upstream.asked_at["a"]
        assert 2 <= second - first < 8
        assert 3 <= third - second < 9
        assert [each.headers[DLQ + "id"] for each in await stage.read(stage.dead_letters)] == [b"gone"]


async def test_the_last_try_ends_in_the_dead_letters(kafka: Broker, stage: Stage, tmp_path: Path) -> None:
    """Its letter counts all deliveries and names the request's own place, from which it is redriven: with all tries."""
    async with Flaky(needed=5) as upstream:
        await begin(stage, upstream, tmp_path, '["1s", "1s"]', "interim_results = true")
        await stage.start()
        at = await stage.producer.send_and_wait(stage.requests, asked("b", id="b"), b"kb")
        results = [each.result for each in await until(stage, stage.results, 3)]
        assert [each["outcome"] for each in results] == ["upstream_error"] * 3
        assert sorted("retry_at" in each for each in results) == [False, True, True]
        [letter] = await stage.read(stage.dead_letters)
        said = {name: letter.headers[DLQ + name] for name in ("delivery.count", "topic", "partition", "offset", "id")}
        assert said == {"delivery.count": b"3", "topic": stage.requests.encode(), "id": b"b",
                        "partition": b"%d" % at.partition, "offset": b"%d" % at.offset}  # fmt: skip
        assert not [name for name in letter.headers if "later" in name]
        code, _, err = await millrace(stage, "redrive", "--all")
        assert (code, "1 redriven" in err) == (0, True), err
        results = [each.result for each in await until(stage, stage.results, 5)]
        assert Counter(each["outcome"] for each in results) == {"upstream_error": 4, "ok": 1}


async def test_a_kill_loses_nothing_that_waits(kafka: Broker, stage: Stage, tmp_path: Path) -> None:
    """Workers are killed while requests wait, and while they are tried again: each request has its result."""
    names = [f"n{number}" for number in range(300)]
    async with Flaky(needed=3) as upstream:
        await begin(stage, upstream, tmp_path, '["2s", "2s"]')
        worker = await stage.start()
        await stage.send([asked(name, id=name) for name in names])
        await until(stage, f"{stage.group}-later-2s", 150)
        worker.kill()
        await worker.ended()
        second, _ = await asyncio.gather(stage.start(), stage.start())
        await until(stage, stage.results, 20)
        second.kill()
        await second.ended()
        seen = await stage.results_of(set(names), seconds=2 * PATIENCE)
        failed = {each.result["id"] for each in seen if each.result["outcome"] != "ok"}  # the breaker was open
        assert {each.headers[DLQ + "id"].decode() for each in await stage.read(stage.dead_letters)} >= failed
        assert not [each for each in seen if "retry_at" in each.result]


async def test_what_waits_is_taken_up_early(kafka: Broker, stage: Stage, tmp_path: Path) -> None:
    """`redrive --later` has all that is there tried now; what fails again waits for its own time; lag and doctor say
    that it waits, and the metrics count it.
    """
    async with Flaky(needed=2) as upstream:
        await begin(stage, upstream, tmp_path, '["1h", "2h"]')
        worker = await stage.start()
        await stage.send([asked(name, id=name) for name in "ab"])
        await until(stage, f"{stage.group}-later-3600s", 2)
        code, out, err = await millrace(stage, "redrive", "--later", "--dry-run", "--json")
        assert (code, "2 would be" in err) == (0, True), err
        assert [json.loads(line)["waiting"] for line in out.splitlines()] == [2, 0]
        assert await stage.count(stage.results) == 0
        code, _, err = await millrace(stage, "redrive", "--later")
        assert (code, "2 are tried again now" in err) == (0, True), err
        results = {each.result["id"]: each.result["outcome"] for each in await until(stage, stage.results, 2)}
        assert results == {"a": "ok", "b": "ok"}
        async with ClientSession() as session, session.get(worker.url + "/metrics") as response:
            text = await response.text()
        found = dict(re.findall(r"^(millrace_retry_later_\w+\{[^}]*3600s\"\}) (\S+)$", text, re.MULTILINE))
        name = f'{{topic="{stage.group}-later-3600s"}}'
        assert found == {f"millrace_retry_later_{each}{name}": count for each, count in (
            ("waiting", "0.0"), ("overdue_seconds", "0.0"), ("deferred_total", "2.0"), ("taken_up_total", "2.0"))
        }  # fmt: skip
        for wrong in (["--all"], ["--id", "x"], ["--limit", "1"], ["--route", "r"]):
            assert (await millrace(stage, "redrive", "--later", *wrong))[0] == 2


async def test_a_delay_that_was_given_up_is_reported_as_long_as_something_waits(
    kafka: Broker, stage: Stage, tmp_path: Path
) -> None:
    """Nobody reads its topic any more: doctor says so, also of a retention that is too short; topics are required."""
    async with Flaky(needed=2) as upstream:
        await begin(stage, upstream, tmp_path, '["1h"]')
        worker = await stage.start()
        await stage.send([asked("a")])
        await until(stage, f"{stage.group}-later-3600s", 1)
        worker.terminate()
        await worker.ended()
        await begin(stage, upstream, tmp_path, '["2h"]')
        _, out, _ = await millrace(stage, "doctor")
        assert f"topic {stage.group}-later-3600s: 1 records wait there" in out
        assert f"topic {stage.group}-later-7200s" in out
        assert f"group {stage.group}-later" in out
        describe(stage, upstream, tmp_path, '["3h"]')
        lost = await stage.start(ready=False)
        assert await lost.ended() == 1
        assert any(f"{stage.group}-later-10800s" in line and "topics --create" in line for line in lost.log)


ROUTE = """
[routes.orders]
topics = ["orders-{mark}"]
results = "enriched-{mark}"
failures = "failed-{mark}"
retry_later = ["1s", "1s"]

[[routes.orders.lookups]]
source = "flaky"
params = {{ id = "key" }}
into = "found"
"""


async def test_a_route_tries_its_records_again_without_writing_to_its_topics(
    kafka: Broker, stage: Stage, tmp_path: Path
) -> None:
    """A record whose lookup fails is published enriched in the end, once; one that fails to the end is dead."""
    async with Flaky(needed=3) as upstream:
        await begin(stage, upstream, tmp_path, '["1h"]', ROUTE.format(mark=stage.mark))
        orders, enriched, failed = (f"{name}-{stage.mark}" for name in ("orders", "enriched", "failed"))
        await stage.start()
        for key in (b"a", b"b", b"x"):
            await stage.producer.send_and_wait(orders, b'{"n": 1}', key)
        await until(stage, enriched, 2)
        published = {each.key: json.loads(each.result) for each in await stage.read(enriched)}
        assert published == {key: {"n": 1, "found": {"of": key.decode()}} for key in (b"a", b"b")}
        upstream.needed = 9
        await stage.producer.send_and_wait(orders, b'{"n": 1}', b"c")
        await until(stage, failed, 2)
        letters = {each.key: each.headers[DLQ + "delivery.count"] for each in await stage.read(failed)}
        assert letters == {b"x": b"1", b"c": b"3"}
        assert await stage.count(orders) == 4
