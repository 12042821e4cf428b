"""What failed is tried again later: on real workers and Kafka, with delays of seconds."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

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


async def begin(
    stage: Stage, upstream: Upstream, folder: Path, delays: str = '["2s", "3s"]', more: str = ""
) -> dict[str, str]:
    """Write the file of sources and make the topics; returns the settings of workers."""
    file = folder / "sources.toml"
    file.write_text(SOURCES.format(url=upstream.url, delays=delays, more=more), encoding="utf-8")
    stage.settings["MILLRACE_SOURCES"] = str(file)
    code, _, err = await millrace(stage, "topics", "--create", "--replication", "1")
    assert code == 0, err
    return stage.settings


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
