"""What the log says of hosts that fail, on a clock of the test's."""

from __future__ import annotations

import pytest

from models.errors import Overloaded
from models.source import Retries
from streams.http.breaker import MIN_REQUESTS, OPEN_FOR
from streams.http.client import Client
from streams.http.limits import Host
from streams.http.outage import IN_A_ROW, MAX_LINES, QUIET, Ledger, Outage
from tests.fakes import Clock
from tests.unit.streams.test_client import LIMIT, LOOPBACK, at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def said(caplog):
    caplog.set_level("INFO", "streams.http")
    return lambda: [record.getMessage() for record in caplog.records]


def fail(outage, times=1):
    for _ in range(times):
        outage.record(ok=False, result="unreachable")


def test_an_outage_has_two_lines(clock, said):
    """One when it begins, whatever fails after that, and one when it ends, with how many failed and were not sent."""
    outage = Outage("h", clock, Ledger())
    fail(outage, 100)
    for _ in range(7):
        outage.refuse()
    clock.now += 40
    outage.record(ok=True, result="2xx")
    outage.record(ok=True, result="2xx")
    assert said() == [
        f"h fails: {IN_A_ROW} requests in a row within 0.0 s, the last with unreachable; they are retried",
        "h is back after 40 s: 100 requests failed, 7 more were not sent",
    ]


def test_failures_among_successes_are_none(clock, said):
    """A host that answers in between has no outage; the breaker sees to it."""
    outage = Outage("h", clock, Ledger())
    for _ in range(50):
        fail(outage, IN_A_ROW - 1)
        outage.record(ok=True, result="2xx")
    assert said() == []


def test_a_host_that_comes_and_goes_is_told_of_once_a_minute(clock, said):
    """Its next outages are told when the time has passed, also of one that goes on."""
    outage = Outage("h", clock, Ledger())
    for _ in range(20):
        fail(outage, IN_A_ROW)
        outage.record(ok=True, result="2xx")
        clock.now += 1
    assert len(said()) == 2
    clock.now += QUIET
    fail(outage, IN_A_ROW)
    assert len(said()) == 3


def test_when_all_hosts_fail_the_log_stays_readable(clock, said):
    """Of a thousand hosts twenty are named, and the others counted."""
    ledger = Ledger()
    outages = [Outage(str(number), clock, ledger) for number in range(1000)]
    for outage in outages:
        fail(outage, IN_A_ROW)
    assert len(said()) == MAX_LINES
    clock.now += QUIET
    fail(Outage("last", clock, ledger), IN_A_ROW)
    assert said()[MAX_LINES:][0] == f"{1000 - MAX_LINES} more hosts fail and are not listed: check the worker's network"


async def test_a_breaker_that_opens_without_failures_in_a_row_is_an_outage_too(clock, said):
    """Half of the requests fail: one line when the breaker opens, one with counts when a probe succeeds, and none for a
    straggler that succeeds while it is open.
    """
    host = Host("h", clock=clock)

    async def ask(*, ok):
        host.release(await host.acquire(None), ok=ok, result="2xx" if ok else "5xx")

    straggler = await host.acquire(None)
    for number in range(MIN_REQUESTS):
        await ask(ok=number % 2 == 0)
    for _ in range(3):
        with pytest.raises(Overloaded):
            await host.acquire(None)
    host.release(straggler, ok=True)
    assert said() == ["h fails too often: its requests are refused, but for one every 5 s until it is back"]
    clock.now += OPEN_FOR
    await ask(ok=True)
    assert said()[1:] == [f"h is back after 5 s: {MIN_REQUESTS // 2} requests failed, 3 more were not sent"]


async def test_a_real_outage_is_told(serve, said):
    """A host that goes away and comes back, with fewer requests than the breaker judges by."""
    upstream = await serve()
    async with Client(LIMIT, LOOPBACK, retry=Retries(attempts=3, first_pause=0.0)) as client:
        upstream.answers["/"] = {"status": 503}
        for _ in range(2):
            with pytest.raises(Exception, match="503"):
                await client.fetch("GET", at(upstream), {})
        del upstream.answers["/"]
        await client.fetch("GET", at(upstream), {})
    host = f"127.0.0.1:{upstream.url.port}"
    first, last = said()
    assert first.startswith(f"{host} fails: 4 requests in a row within ")
    assert first.endswith("the last with 5xx; they are retried")
    assert last == f"{host} is back after 0 s: 6 requests failed, 0 more were not sent"
