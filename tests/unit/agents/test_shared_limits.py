"""What a worker makes of the records of shares, and of a topic that stands still, without a broker."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError

from agents.answer.app import shared_bulkheads
from agents.cluster import shared_limits as module
from agents.cluster.registry import WorkerRegistry
from agents.cluster.shared_limits import ALONE, STALE, TICK, SharedLimits
from models.source import Limits, Source, Sources
from models.template import UrlTemplate
from streams.config.settings import Settings
from streams.functions import FunctionCaller
from streams.http.client import Client
from streams.http.guard import Guard
from streams.http.limits import MAX_HOSTS, Bulkhead
from streams.http.policy import policy_of
from streams.tasks import end_tasks, keep
from tests.fakes import Clock

SETTINGS = Settings(worker_id="me", group="g")
NAME = "source prices"


class Topic:
    """The shares of a worker, and the records that it has written."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bulkhead = Bulkhead(Limits(rate=50.0, shared=True), self.clock)
        self.shared = SharedLimits(SETTINGS, {NAME: self.bulkhead}, self.clock)
        self.shared._changed(NAME)

    def comes(self, record: dict[str, Any], group: str = "g") -> None:
        self.shared.receive(record_of(record | {"group": group}))

    def run(self, seconds: float, *, readable: bool = True) -> None:
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += TICK
            self.shared._look()
            if readable:
                self.comes(self.shared._shares.write(self.clock.now))

    @property
    def share(self) -> float:
        assert self.bulkhead.bucket is not None
        return self.bulkhead.bucket.rate


def record_of(value: dict[str, Any]) -> Any:
    return raw(json.dumps(value, separators=(",", ":")).encode())


def test_a_number_that_no_float_holds_is_passed_over() -> None:
    """Whoever may write to the topic must not be able to end what reads it."""
    Topic().shared.receive(raw(b'{"limits":{},"run":"x","group":"g","at":' + b"9" * 400 + b"}"))


async def test_a_topic_that_may_not_be_read_is_tried_again_and_named(monkeypatch, caplog) -> None:
    """One line says so once, and why; no fault of ours is logged each time."""
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.0)
    shared, tries = Topic().shared, []

    async def follow() -> None:
        tries.append(1)
        if len(tries) == 3:
            await asyncio.Event().wait()
        raise TopicAuthorizationFailedError("millrace-workers")

    shared._follow = follow  # type: ignore[method-assign]
    task = keep(shared._read, "reading", means="-", again=0.0)
    while len(tries) < 3:
        await asyncio.sleep(0)
    await end_tasks(task)
    assert (caplog.messages, "millrace-workers" in shared._reason) == ([], True)


def raw(value: bytes | None) -> Any:
    return SimpleNamespace(key=b"w", value=value, timestamp=0)


@pytest.fixture
def topic() -> Topic:
    return Topic()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "agents.cluster")
    return lambda: [each.getMessage() for each in caplog.records]


def test_a_worker_begins_with_nothing_and_says_what_it_has_then(topic: Topic, lines: Any) -> None:
    """Alone it has the whole rate once nobody else has written for long enough; its record has its shares."""
    assert topic.share == 0.0
    topic.run(2)
    assert topic.share == 50.0
    assert lines() == ["workers that share limits: 1; here source prices 50 of 50 a second"]
    assert topic.shared.report() == [{"name": NAME, "rate": 50.0, "share": 50.0, "want": 0.0, "workers": 1}]


def test_other_groups_and_other_records_of_the_topic_take_no_part(topic: Topic) -> None:
    """A heartbeat, another group's share of the same name, and what is no record at all change nothing."""
    other = {"limits": {NAME: [50, 50]}, "run": "other", "number": 1, "at": 1.0}
    topic.comes(other, group="another")
    for value in (b'{"id":"w","hosts":[]}', b'{"limits":', b'{"limits":7}', None):
        topic.shared.receive(raw(value))
    topic.run(2)
    assert topic.share == 50.0
    topic.comes(other)
    topic.run(TICK)
    assert topic.share < 50.0


def test_a_topic_that_stands_still_leaves_each_its_share_and_the_log_says_so_once(topic: Topic, lines: Any) -> None:
    """The share stays whatever is wanted; a line when it begins and when it is over."""
    topic.run(2)
    topic.comes({"limits": {NAME: [0, 50]}, "run": "other", "number": 1, "at": 1.0})
    topic.run(0.3)
    before = topic.share
    assert 0 < before < 50
    topic.run(STALE + 10, readable=False)
    assert topic.share == before
    [line] = [line for line in lines() if "keeps its shares of limits" in line]
    assert line.startswith(
        f"millrace-workers: cannot be read or written, so this worker keeps its shares of limits: {NAME}"
    )
    topic.run(1)
    assert lines()[-1].startswith("workers that share limits: ")


def test_a_worker_that_can_never_use_the_topic_uses_the_whole_rate_and_says_so(topic: Topic, lines: Any) -> None:
    """Nothing answered for ever would be worse than an upstream's 429s; with the topic it begins with nothing again."""
    topic.run(ALONE - 1, readable=False)
    assert (topic.share, lines()) == (0.0, [])
    topic.run(2, readable=False)
    assert topic.share == 50.0
    [line] = lines()
    assert "shares no limits and uses all of each: source prices 50 of 50 a second" in line
    for _ in range(2):
        topic.comes({"limits": {NAME: [50, 50]}, "run": "other", "number": 1, "at": topic.clock.now})
        topic.run(0.6)
    assert topic.share == 0.0, "another has it all as yet"


async def test_rates_of_sources_functions_and_hosts_are_shared_by_name() -> None:
    """Each bulkhead is the one that requests pass; what is not shared is left out, and no host that is gets dropped."""
    shared, url = Limits(rate=5.0, shared=True), UrlTemplate("https://h.example/")
    sources = Sources(
        {"prices": Source("prices", url=url, limits=shared), "stock": Source("stock", url=url, limits=Limits(rate=5.0)),
         "words": Source("words", call="os:getcwd", limits=shared)},
        {"h.example": shared, "other.example": Limits(rate=5.0)},
    )  # fmt: skip
    async with Client(1 << 20, Guard(), limits=sources.hosts) as client, FunctionCaller(1 << 20) as caller:
        policies = {name: policy_of(sources.by_name[name], client.policy, client.post) for name in ("prices", "stock")}
        found = shared_bulkheads(sources, client, caller, policies)
        assert found == {"source prices": policies["prices"].bulkhead, "source words": caller.hosts["words"].bulkhead,
                         "h.example": client.hosts.of("h.example").bulkhead}  # fmt: skip
        for number in range(MAX_HOSTS + 5):
            client.hosts.of(f"h{number}")
        assert client.hosts.of("h.example").bulkhead is found["h.example"]


def test_shares_are_no_workers(topic: Topic) -> None:
    """Pages list workers by their heartbeats alone."""
    registry = WorkerRegistry(SETTINGS)
    registry.receive(record_of(topic.shared._shares.write(1.0)), live=True)
    assert (registry.all(), registry.unreadable) == ([], 0)
