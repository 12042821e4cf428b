from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import ClassVar

import pytest
from aiokafka.errors import InvalidPartitionsError

from models.route import Route
from streams.config.settings import Kafka, Settings
from streams.kafka.topics import SPARE, Admin, Topic, delay_differences, differences, keeps, route_differences
from streams.tables.changelogs import enlarge

SIZE = 1_048_588


def found(**changes):
    """Describe three topics as `millrace topics --create` makes them, but for the changes; None leaves one out."""
    topics = {}
    for name in ("requests", "results", "dead-letters"):
        topic = {"partitions": 8, "replication": 1, "max_bytes": SIZE, "cleanup": "delete"}
        change = changes.get(name.replace("-", "_"), {})
        if change is not None:
            topics[name] = Topic(name, **(topic | change))
    return topics


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"requests": {"cleanup": "compact"}},
        {"dead_letters": {"partitions": 1, "max_bytes": 2 * SIZE}},
        {"results": {"max_bytes": 10}},
        {"requests": {"max_bytes": None}},
        {name: {"max_bytes": None, "cleanup": None} for name in ("requests", "results", "dead_letters")},
    ],
)
def test_topics_that_work_are_not_complained_of(changes):
    """What does not matter, or what the broker does not tell, is no difference."""
    assert differences(Settings(), found(**changes)) == []


@pytest.mark.parametrize("name", ["requests", "results", "dead_letters"])
def test_a_missing_topic_is_named_and_the_others_are_judged_all_the_same(name):
    """Any of the three may be missing; that is said, and nothing that hangs on it."""
    assert differences(Settings(), found(**{name: None})) == [f"topic '{name.replace('_', '-')}' does not exist"]


def test_all_topics_may_be_missing():
    """On a fresh broker each topic has its line, in the order of the way data goes."""
    settings = Settings(requests_topic="a", results_topic="b", dead_letters_topic="c")
    assert differences(settings, found()) == [f"topic '{name}' does not exist" for name in "abc"]


@pytest.mark.parametrize("partitions", [1, 7, 9])
def test_another_number_of_result_partitions_is_told(partitions):
    """Where results have more or fewer partitions than requests, a consumer should know which go where."""
    (line,) = differences(Settings(), found(results={"partitions": partitions}))
    assert line == (
        f"topic 'results' has {partitions} partitions, 'requests' has 8: "
        "results go to the request's partition modulo theirs"
    )


def test_dead_letters_smaller_than_requests_are_told():
    """A dead letter holds the request: its topic should take what the requests' takes."""
    (line,) = differences(Settings(), found(dead_letters={"max_bytes": 1000}))
    assert line == (
        f"topic 'dead-letters' takes 1000 bytes a record, 'requests' {SIZE}: "
        "the value of larger dead letters is left out"
    )


@pytest.mark.parametrize("cleanup", ["compact", "compact,delete"])
@pytest.mark.parametrize("name", ["results", "dead_letters"])
def test_a_compacted_topic_of_answers_is_told(cleanup, name):
    """A compacted topic takes no record without a key, which requests need not have."""
    (line,) = differences(Settings(), found(**{name: {"cleanup": cleanup}}))
    assert line.startswith(f"topic '{name.replace('_', '-')}' is compacted: ")


def test_every_difference_has_its_line():
    """All that is wrong is told at once."""
    wrong = found(results={"partitions": 1, "cleanup": "compact"}, dead_letters={"max_bytes": 1, "cleanup": "compact"})
    assert [line.split()[1] for line in differences(Settings(), wrong)] == [
        "'results'",
        "'dead-letters'",
        "'results'",
        "'dead-letters'",
    ]


class Client:
    """Stands for aiokafka's admin client: its answer comes when a test wants it."""

    made: ClassVar[list[Client]] = []

    def __init__(self, **_):
        self.made[:] = [self]
        self.answer = asyncio.get_running_loop().create_future()
        self.closed = False

    async def start(self):
        await self.answer

    async def describe_topics(self):
        return await self.answer

    async def close(self):
        self.closed = True


@pytest.fixture
async def admin(monkeypatch):
    monkeypatch.setattr("streams.kafka.client.AIOKafkaAdminClient", Client)
    return Admin(Kafka())


async def test_a_stop_that_comes_with_the_answer_is_heeded(admin):
    """A worker that is told to stop while it looks for its topics does not come up all the same."""
    admin._client = Client()
    asking = asyncio.create_task(admin.describe("t"))
    await asyncio.sleep(0)
    admin._client.answer.set_result([])
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_connection_that_is_cut_short_is_closed(admin):
    """A stop while Kafka is away leaves no admin connection open."""
    opening = asyncio.create_task(admin.__aenter__())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert [client.closed for client in Client.made] == [True]


async def test_a_topic_that_grew_is_settled_once_it_is_listed_so(monkeypatch):
    """A broker goes on listing the former partitions for a moment: who believed that would never count the new ones."""
    admin, listed = Admin(Kafka()), [{"t": Topic("t", count, 1)} for count in (4, 4, 6)]

    async def describe(*_):
        return listed.pop(0)

    monkeypatch.setattr(admin, "describe", describe)
    monkeypatch.setattr("streams.kafka.topics.SETTLE_PAUSE", 0)
    assert (await admin.settled("t", grown={"t": 6}))["t"].partitions == 6
    assert listed == []


class Growing:
    """An admin client whose topic has been enlarged by another worker just now."""

    async def create_partitions(self, _):
        return SimpleNamespace(topic_errors=[("t", InvalidPartitionsError.errno, "Topic already has 6 partition(s).")])


async def test_changelogs_that_another_worker_enlarged_have_grown(monkeypatch):
    """Two workers that see results grow both enlarge; the broker refuses the later one, whose changelogs have grown
    all the same.
    """
    admin = Admin(Kafka())
    admin._client = Growing()
    assert await admin.enlarge("t", 6) is False
    assert await enlarge(admin, Topic("results", 6, 1), [Topic("t", 4, 1), Topic("u", 6, 1)]) == ["t"]


def route(**changes):
    """A route of two topics that writes `enriched`."""
    return Route("orders", ("orders", "returns"), "enriched", (), **changes)


def routed(**changes):
    """Return its topics, and the worker's dead letters, alike but for the changes."""
    like = {"partitions": 8, "replication": 1, "max_bytes": SIZE, "cleanup": "delete"}
    names = ("orders", "returns", "enriched", "failed", "dead_letters")
    return {name: Topic(name, **(like | changes.get(name, {}))) for name in names}


@pytest.mark.parametrize("changes", [{}, {"orders": {"cleanup": "compact"}}, {"failed": {"partitions": 1}},
                                     {"enriched": {"max_bytes": None}}])  # fmt: skip
def test_topics_of_a_route_that_work_are_not_complained_of(changes):
    """Compacted topics may be read, and dead letters may have fewer partitions."""
    assert route_differences([route(failures="failed")], "dead_letters", routed(**changes)) == []
    assert route_differences([route()], "dead_letters", {}) == []


def test_topics_of_a_route_that_do_not_fit_are_each_a_line():
    """Other numbers of partitions, smaller limits and compaction are named, each with what comes of it."""
    small = {"partitions": 4, "max_bytes": 1000, "cleanup": "compact,delete"}
    lines = route_differences([route()], "dead_letters", routed(enriched=small, dead_letters={"max_bytes": 900}))
    assert [line.removeprefix("route orders: topic ") for line in lines if "'returns'" not in line] == [
        "'enriched' has 4 partitions, 'orders' has 8: outputs go to their key's partition",
        f"'enriched' takes 1000 bytes a record, 'orders' {SIZE}: a larger output is too_large",
        f"'dead_letters' takes 900 bytes a record, 'orders' {SIZE}: the value of larger dead letters is left out",
        "'enriched' is compacted: a record without a key is refused by the broker",
    ]
    assert sum("'returns'" in line for line in lines) == 3


@pytest.mark.parametrize(
    ("retention_ms", "cleanup", "kept"),
    [(None, None, True), (-1, "delete", True), (3_600_001, "delete", True), (3_600_000, "delete", False),
     (0, "delete", False), (-1, "compact,delete", False)],
)  # fmt: skip
def test_a_delay_topic_that_loses_what_waits_is_not_used(retention_ms, cleanup, kept):
    """Nor is one doubted of which the broker says nothing."""
    topic = Topic("g-later-3600s", 8, 1, cleanup=cleanup, retention_ms=retention_ms)
    assert keeps(topic, 3600) is kept
    lines = "".join(delay_differences({"g-later-3600s": 3600}, {"g-later-3600s": topic}))
    assert ("dead letters" in lines) is not kept


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"retention_ms": -1}, []),
        ({"retention_ms": None}, []),
        ({"retention_ms": (3_600 + SPARE) * 1000}, []),
        ({"retention_ms": 7_200_000}, ["keeps records for 7200 s, and they wait there for 3600 s"]),
        ({"cleanup": "compact,delete"}, ["is compacted"]),
    ],
)
def test_a_delay_topic_keeps_what_waits_for_longer_than_it_waits(changes, expected):
    """Workers may be away for a day beyond it; a topic that is not there is named elsewhere."""
    topic = {"partitions": 8, "replication": 1, "cleanup": "delete", "retention_ms": 604_800_000} | changes
    delays = {"g-later-3600s": 3600, "g-later-60s": 60}
    lines = list(delay_differences(delays, {"g-later-3600s": Topic("g-later-3600s", **topic)}))
    assert len(lines) == len(expected)
    assert all(part in line for part, line in zip(expected, lines, strict=True))
