"""The API of real workers on a real broker: any of them answers for all, also while one is gone."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import aiohttp
import psutil
import pytest

from agents.testing.broker import free_port
from tests.integration.stage import PATIENCE, asked

pytestmark = pytest.mark.kafka
COUNT = 60


async def get(worker, path):
    async with aiohttp.ClientSession() as session, session.get(worker.url + path) as response:
        body = await response.read()
        return response.status, json.loads(body), response.headers


async def until(worker, path, wanted):
    """Ask until the answer is what is wanted; returns it."""
    last = None
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                status, told, _ = last = await get(worker, path)
                if wanted(status, told):
                    return told
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{path}: {last}") from None


def whole(count):
    return lambda status, told: status == 200 and "partial" not in told and told["total"] == count


@pytest.fixture
async def two(stage, upstream):
    """Two workers that share tables and requests, and 60 answers."""
    workers = [await stage.start(MILLRACE_ROLE="all", MILLRACE_WORKER_ID=f"w{number}", MILLRACE_WEB_TOKEN="t")
               for number in range(2)]  # fmt: skip
    await stage.send([asked(f"{upstream.url}/doc/{number}", number) for number in range(COUNT)])
    await stage.results_of({f"r{number}" for number in range(COUNT)})
    return workers


async def test_any_worker_answers_for_all(stage, upstream, two):
    """Both tell all rows, of every table, the same; and both know both, and every partition's owner."""
    for worker in two:
        await until(worker, "/api/tables/answers?limit=100", whole(COUNT))
    pages = [(await get(worker, "/api/tables/answers?limit=100&sort=key"))[1] for worker in two]
    assert pages[0] == pages[1]
    assert [row["key"] for row in pages[0]["rows"]] == sorted(str(number) for number in range(COUNT))
    assert {row["partition"] for row in pages[0]["rows"]} == set(range(stage.partitions))
    held = [(await get(worker, "/api/workers"))[1]["workers"] for worker in two]
    assert [{each["id"] for each in workers} for workers in held] == [{"w0", "w1"}] * 2
    assert all(each["answering"] and each["tables"]["partitions"] for each in held[0]), "each has some of them"
    host = upstream.url.removeprefix("http://")
    for worker in two:
        for number in (0, COUNT - 1):
            _, row, _ = await get(worker, f"/api/tables/answers/{number}")
            assert row["result"]["document"] == {"n": number}
        assert (await get(worker, "/api/tables/answers/none"))[0] == 404
        _, row, _ = await get(worker, f"/api/tables/hosts/{host}")
        assert row["answers"] == {"ok": COUNT}
        await until(worker, "/api/hosts", lambda _, told: {"w0", "w1"} == {
            each["worker"] for each in told["rows"][0]["workers"]})  # fmt: skip
    told = await until(two[0], "/api/partitions", lambda _, told: len(told["partitions"]) == 2 * stage.partitions and
                       all(each["lag"] == 0 for each in told["partitions"]))  # fmt: skip
    assert {each["owner"] for each in told["partitions"] if each["topic"] == stage.requests} == {"w0", "w1"}
    told = await until(two[1], "/api/overview", lambda _, told: sum(told["outcomes"].values()) == COUNT)
    assert (told["workers"], told["lag"], sum(each["total"] for each in told["minutes"])) == (2, 0, COUNT)
    assert told["p50"] is not None


async def test_bound_everywhere_they_find_each_other(stage, upstream):
    """Without a URL of its own a worker is asked by its machine's name, with one also by a pod's IPv6 address."""
    port = str(free_port())
    by_name = await stage.start(MILLRACE_ROLE="all", MILLRACE_WEB_HOST="0.0.0.0", MILLRACE_WEB_TOKEN="t")
    six = {"MILLRACE_WEB_PORT": port, "MILLRACE_WEB_URL": f"http://::1:{port}"} if socket.has_dualstack_ipv6() else {}
    by_address = await stage.start(MILLRACE_ROLE="all", MILLRACE_WEB_HOST="*", MILLRACE_WEB_TOKEN="t", **six)
    await stage.send([asked(f"{upstream.url}/doc/{number}", number) for number in range(COUNT)])
    by_name.url = by_name.url.replace("0.0.0.0", "127.0.0.1")
    by_address.url = by_address.url.replace("*", "[::1]" if six else "127.0.0.1")
    for worker in (by_name, by_address):
        await until(worker, "/api/tables/answers?limit=100", whole(COUNT))


async def test_one_killed_the_other_says_so_and_goes_on(two):
    """After a kill -9 what was the dead one's is told as missing, by name; once it has moved, all is there again."""
    for worker in two:
        await until(worker, "/api/tables/answers?limit=100", whole(COUNT))
    two[1].kill()
    await two[1].ended()
    status, told, _ = await get(two[0], "/api/tables/answers?limit=100")
    assert status == 200
    [missing] = told["partial"]["missing"]
    assert (missing["worker"], missing["reason"]) == ("w1", "cannot be reached")
    assert {row["partition"] for row in told["rows"]}.isdisjoint(missing["partitions"])
    gone = next(number for number in range(COUNT) if str(number) not in {row["key"] for row in told["rows"]})
    status, told, headers = await get(two[0], f"/api/tables/answers/{gone}")
    assert (status, headers["Retry-After"]) == (503, "2"), "it is there, only not to be had: never a 404"
    told = await until(two[0], "/api/workers", lambda _, told: not all(each["answering"] for each in told["workers"]))
    assert [each["id"] for each in told["workers"] if not each["answering"]] == ["w1"]
    await until(two[0], "/api/tables/answers?limit=100", whole(COUNT))
    assert (await get(two[0], f"/api/tables/answers/{gone}"))[0] == 200


async def test_until_recovered_it_is_503(stage, two):
    """A worker that starts answers 503 with Retry-After or the whole of it: nothing else, never a wrong 'not found'."""
    await until(two[0], "/api/tables/answers?limit=100", whole(COUNT))
    for worker in two:
        worker.terminate()
    for worker in two:
        assert await worker.ended() == 0
    third = await stage.start(ready=False, MILLRACE_ROLE="all", MILLRACE_WORKER_ID="w2")
    third.url = (await third.logged(r"web on (http://\S+)"))[1]
    seen = set()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status, told, headers = await get(third, "/api/tables/answers/7")
        seen.add(status)
        if status == 200:
            break
        assert (status, headers["Retry-After"]) in {(503, "1"), (503, "2")}, told
        page, told, _ = await get(third, "/api/tables/answers")
        assert page == 503 or told["total"] == COUNT
    assert seen == {503, 200}


async def test_what_is_posted_is_seen_in_the_tables(two, upstream):
    """Sent to one worker and waited for, a request's answer is in the table that the other tells."""
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer t"}) as session:
        body = {"url": upstream.url + "/doc/99"}
        async with session.post(two[0].url + "/api/requests?wait=30&key=mine", json=body) as response:
            assert response.status == 200
            told = await response.json()
            place = response.headers["Content-Location"]
    assert told["document"] == {"n": 99}
    row = await until(two[1], place, lambda status, _: status == 200)
    assert (row["id"], row["key"]) == (told["id"], "mine")


async def test_a_failure_is_told_and_put_back(stage, two, upstream):
    """What was not answered ok is among the errors; put back with the token it is answered again, and only once."""
    await stage.send([asked("http://127.0.0.1:1/", 500)])
    await stage.results_of({"r500"})
    told = await until(two[0], "/api/errors", lambda _, told: told["errors"])
    [letter] = told["errors"]
    assert (letter["id"], letter["outcome"], letter["redriven"]) == ("r500", "unreachable", False)
    place = {"partition": letter["partition"], "offset": letter["offset"]}
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer t"}) as session:
        for redriven in (1, 0):
            async with session.post(two[1].url + "/api/redrive", json={"letters": [place]}) as response:
                assert (response.status, (await response.json())["redriven"]) == (200, redriven)
    await until(
        two[0], "/api/errors", lambda _, told: sorted(each["redriven"] for each in told["errors"]) == [False, True]
    )


async def test_a_worker_that_only_answers_says_what_it_has_not(stage):
    """Without the role of tables there are none: 404 and why, not an empty table; requests can be sent all the same."""
    worker = await stage.start(MILLRACE_ROLE="answer")
    for path in ("/api/tables", "/api/workers", "/api/overview"):
        status, told, _ = await get(worker, path)
        assert status == 404
        assert "has the role answer" in told["detail"]


async def test_fausts_own_views_are_closed(two):
    """Neither its tables nor its router, which would be open to everybody, are anywhere."""
    for path in ("/table/", "/table/answers/", "/router/", "/router/answers/", "/graph/", "/stats/", "/_status"):
        assert (await get(two[0], path))[0] == 404


async def test_bound_elsewhere_it_needs_a_token(stage):
    """On an address that others reach, without a token, the process ends at once with the setting's name."""
    worker = await stage.start(ready=False, MILLRACE_WEB_HOST="0.0.0.0")
    assert await worker.ended() == 2
    assert "MILLRACE_WEB_TOKEN" in "\n".join(worker.log)


SEARCHES = {
    "?prefix=k0042": (50, 100),
    "?limit=50": (50, 10_000),
    "?sort=-at": (50, 10_000),
    "?where=outcome:timeout&sort=-elapsed_ms": (50, 1_429),
}
"""Each with how many rows are on its page and in all."""


async def test_ten_thousand_rows_are_searched(stage):
    """On a real worker, each way of searching finds what is there; `pytest -s` shows what it takes."""
    rows = 10_000
    for number in range(rows):
        outcome = "timeout" if number % 7 == 0 else "ok"
        asked_for = {"method": "GET", "url": f"http://a.example/{number}"}
        result = {"id": f"r{number}", "outcome": outcome, "request": asked_for,
                  "document": {"n": number, "text": "x" * 200}, "elapsed_ms": number % 97 + 0.5}  # fmt: skip
        await stage.producer.send(stage.results, json.dumps(result).encode(), key=b"k%06d" % number)
    await stage.producer.flush()
    worker = await stage.start(MILLRACE_ROLE="tables")
    await until(worker, "/api/tables/answers?limit=1", whole(rows))
    process = psutil.Process(worker.process.pid)
    async with aiohttp.ClientSession() as session:
        for query, expected in SEARCHES.items():
            used, took = sum(process.cpu_times()[:2]), []
            for _ in range(10):
                began = time.perf_counter()
                async with session.get(worker.url + "/api/tables/answers" + query) as response:
                    found = await response.json()
                took.append(time.perf_counter() - began)
            assert (len(found["rows"]), found["total"]) == expected, query
            used = (sum(process.cpu_times()[:2]) - used) / 10
            print(f"{query}: {used * 1000:.0f} ms of CPU, {min(took) * 1000:.0f} ms at best")
