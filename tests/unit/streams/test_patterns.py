"""Topics that patterns match, and when they are read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from streams.kafka import patterns
from streams.kafka.cluster import READ, WRITE, Partition, Topic
from streams.kafka.patterns import PatternTopics


def topic(name: str, partitions: int = 1, granted: frozenset[int] | None = None) -> Topic:
    return Topic(name, True, True, tuple(Partition(number, 0, 1, 1) for number in range(partitions)), granted)


def there(*names: str) -> dict[str, Topic]:
    return {name: topic(name) for name in names}


class App:
    """What a Faust app is here: channels, and a thread that lists topics and subscribes to them."""

    def __init__(self) -> None:
        self.topics = [SimpleNamespace(topics=[])]
        self.agents: dict[str, Any] = {}
        self.existing = there()
        self.free = True
        self.subscribed: list[list[str]] = []
        self.holder = SimpleNamespace(_thread=self, watch=SimpleNamespace(may_go=frozenset()))

    def _ensure_consumer(self) -> App:
        return self

    async def call(self, coroutine: Any) -> Any:
        return await coroutine

    async def subscribe(self, names: set[str]) -> None:
        self.subscribed.append(sorted(names))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    async def topics_of(consumer: App) -> dict[str, Topic]:
        return consumer.existing

    async def change(consumer: App, names: set[str]) -> bool:
        if consumer.free:
            consumer.subscribed.append(sorted(names))
        return consumer.free

    monkeypatch.setattr(patterns, "_topics_of", topics_of)
    monkeypatch.setattr(patterns, "_change", change)
    return App()


def watched(app: App, *named: str) -> PatternTopics:
    return PatternTopics(app, "route r", lambda name: name.startswith("o"), named)


async def test_a_new_topic_is_subscribed_to_once(app: App) -> None:
    """With all the others; the channels take it before it comes."""
    found = watched(app, "named")
    found.begin(there("o1", "x"))
    assert (found.names, app.topics[0].topics) == (["named", "o1"], ["named", "o1"])
    app.existing = there("o1", "o2", "x", "named")
    await found.look()
    await found.look()
    assert app.subscribed == [["named", "o1", "o2"]]
    assert (found.names, app.topics[0].topics) == (["named", "o1", "o2"], ["named", "o1", "o2"])


async def test_a_rebalance_in_progress_puts_it_off(app: App) -> None:
    """The next look does it."""
    found = watched(app)
    found.begin(there("o1"))
    app.existing, app.free = there("o1", "o2"), False
    await found.look()
    assert (found.names, app.subscribed) == (["o1"], [])
    app.free = True
    await found.look()
    assert (found.names, app.subscribed) == (["o1", "o2"], [["o1", "o2"]])


async def test_a_topic_is_gone_when_two_looks_do_not_find_it(app: App) -> None:
    """A broker that has just started may not know all topics."""
    found = watched(app)
    found.begin(there("o1", "o2"))
    app.existing = there("o1")
    await found.look()
    app.existing = there("o1", "o2")
    await found.look()
    assert app.subscribed == []
    app.existing = there("o1")
    await found.look()
    await found.look()
    assert (found.names, app.subscribed) == (["o1"], [["o1"]])


async def test_the_first_topic_of_all_is_a_first_subscription(app: App) -> None:
    """There is no group to join without a topic."""
    found = watched(app)
    found.begin({})
    app.existing, app.free = there("o1"), False
    await found.look()
    assert app.subscribed == [["o1"]]


async def test_what_may_not_be_read_is_named_once_and_left_out(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Until it is granted: reading it would end the worker."""
    found = watched(app)
    app.existing = {"o1": topic("o1", 3, frozenset({READ})), "o2": topic("o2", 1, frozenset({WRITE}))}
    found.begin(app.existing)
    await found.look()
    assert (found.names, found.partitions) == (["o1"], {"o1": 3})
    assert [record.message for record in caplog.records if "Read is not granted" in record.message] == [
        "route r: not read, as Read is not granted: o2"
    ]
