"""A request that comes over HTTP goes the way of any other, on a real broker; and the end of the results, followed."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import pytest

from models.errors import BrokerError
from streams.config.settings import Kafka
from streams.kafka.tail import Tail
from tests.integration.stage import asked

TOKEN = {"Authorization": "Bearer t"}


@pytest.fixture
async def worker(stage):
    """A worker with a token, for whom changes may be asked."""
    return await stage.start(MILLRACE_WEB_TOKEN="t")


async def post(worker, body, query="", **headers):
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{worker.url}/api/requests{query}", json=body, headers=TOKEN | headers) as response,
    ):
        return response.status, await response.json(content_type=None), response.headers


async def test_a_request_is_taken_and_answered(stage, worker, upstream):
    """202 with the id that it got; the result has that id and the key that was given."""
    status, told, headers = await post(worker, {"url": upstream.url + "/doc/1"}, "?key=a%2Fb")
    assert (status, headers["Location"]) == (202, "/api/tables/answers/a%2Fb")
    [seen] = await stage.results_of({told["id"]})
    assert (seen.key, seen.result["document"]) == (b"a/b", {"n": 1})


async def test_the_result_itself_is_waited_for(stage, worker, upstream):
    """With `wait` the result comes, also when many others do, and at once when it is there."""
    noise = asyncio.ensure_future(stage.send(asked(upstream.url + "/doc/9", number) for number in range(2_000)))
    for number in range(5):
        status, told, _ = await post(worker, {"id": f"w{number}", "url": f"{upstream.url}/doc/{number}"}, "?wait=30")
        assert (status, told["id"], told["document"]) == (200, f"w{number}", {"n": number})
    await noise
    began = time.monotonic()
    await asyncio.gather(*(post(worker, {"url": upstream.url + "/doc/3"}, "?wait=30") for _ in range(20)))
    assert time.monotonic() - began < 10


async def test_what_does_not_come_in_time_is_accepted(stage, worker, upstream):
    """A result that takes longer than the wait gives 202, and comes all the same."""
    status, told, _ = await post(worker, {"url": upstream.url + "/doc/1?delay=2"}, "?wait=0.3")
    assert status == 202
    await stage.results_of({told["id"]})


async def test_the_trace_goes_along(stage, worker, upstream):
    """A traceparent of the HTTP request is the result's."""
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    _, told, _ = await post(worker, {"url": upstream.url + "/doc/1"}, traceparent=trace)
    [seen] = await stage.results_of({told["id"]})
    assert seen.headers["traceparent"].split(b"-")[1] == b"ab" * 16


async def test_what_is_no_request_is_not_sent(stage, worker):
    """It is refused naming the field, as the worker itself would, and nothing is on the topic."""
    status, told, _ = await post(worker, {"url": "ftp://a", "checks": ["nope"]})
    assert (status, {each["field"] for each in told["errors"]}) == (422, {"url", "checks.0.name"})
    status, told, _ = await post(worker, {"source": "nope"})
    assert (status, told["errors"][0]["field"]) == (422, "source")
    assert await stage.count(stage.requests) == 0


@pytest.mark.parametrize("known", [True, False])
async def test_whoever_watches_sees_what_comes(stage, upstream, known):
    """Results come in handfuls with how many were dropped; together they are all that there were, in order."""
    await stage.start()
    seen, dropped = [], []
    async with Tail(Kafka(bootstrap_servers=stage.servers), stage.results) as tail:

        def watch(records, missed):
            seen.extend(json.loads(record.value)["id"] for record in records)
            dropped.append(missed)

        with tail.watching(watch):
            async with tail.expecting("nobody", 0):  # its end is known from here on
                if known:
                    await stage.send([asked(upstream.url + "/doc/1", number) for number in range(3_000)])
                    await stage.results_of({f"r{number}" for number in range(3_000)})
            async with asyncio.timeout(30):
                while known and len(seen) + sum(dropped) < 3_000:
                    await asyncio.sleep(0.05)
    assert len(seen) + sum(dropped) == (3_000 if known else 0)
    assert len(set(seen)) == len(seen)


async def test_nobody_there_nothing_read(stage, monkeypatch):
    """Reading begins with the first who waits and ends a while after the last."""
    monkeypatch.setattr("streams.kafka.tail.IDLE_STOP", 0.5)
    async with Tail(Kafka(bootstrap_servers=stage.servers), stage.results) as tail:
        assert not tail.reading
        async with tail.expecting("x", 0):
            assert tail.reading
        async with asyncio.timeout(10):
            while tail.reading:
                await asyncio.sleep(0.05)
        async with tail.expecting("x", 0):
            assert tail.reading


async def test_without_kafka_it_is_said():
    """Who waits hears why, instead of waiting for ever; and the next one tries again."""
    async with Tail(Kafka(bootstrap_servers="127.0.0.1:1"), "results") as tail:
        for _ in range(2):
            with pytest.raises(BrokerError, match="cannot be reached"):
                async with tail.expecting("x", 0):
                    pass
