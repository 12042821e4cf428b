"""What the API tells of workers, partitions, sources, caches and hosts: what the workers' records say, and no more."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from agents.cluster.route_status import RouteRates
from agents.web.api.query import Query
from agents.web.pages import About, Pages
from streams.web.problems import Problem
from tests.unit.agents.web.fleet import Fleet, counted

UNKNOWN = {"end": None, "lag": None, "in_flight": None, "unfinished": None, "oldest_unfinished_s": None}


def partition(number, **more):
    return {"topic": "requests", "partition": number, "committed": 5, "end": 7, "lag": 2, "in_flight": 1,
            "unfinished": 2, "oldest_unfinished_s": 0.5} | more  # fmt: skip


@pytest.fixture
async def fleet():
    async with Fleet({0}, {1}) as opened:
        opened.tell(
            w0={"partitions": [partition(0), partition(1, committed=None, **UNKNOWN)], "in_flight": 3,
                "sources": [{"name": "b", "url": "http://b/"}], "cache": {"tiers": [{"tier": "memory"}]},
                "hosts": [{"host": "a:80", "breaker": "open", "in_flight": 1}]},
            w1={"partitions": [partition(2), partition(0, committed=4)], "silent_s": 7.0, "in_flight": 4,
                "sources": [{"name": "a", "call": "m:f", "method": "GET"}, {"name": "b", "url": "http://b/"}],
                "hosts": [{"host": "a:80", "breaker": "closed"}]},
        )  # fmt: skip
        yield opened


async def test_workers_are_told_as_they_tell_themselves(fleet):
    """Each record as it is, with the seconds since it was heard, and whether that counts as answering."""
    _, told, _ = await fleet.get("/api/workers", 1)
    assert [(each["id"], each["answering"], each["silent_s"]) for each in told["workers"]] == [
        ("w0", True, 0.2), ("w1", False, 7.0)]  # fmt: skip


async def test_a_partition_has_one_owner(fleet):
    """Of two that claim it the one that answers; what its record does not know is null; a silent owner is told."""
    _, told, _ = await fleet.get("/api/partitions")
    fields = "partition", "owner", "owner_answers", "committed"
    assert [tuple(each[name] for name in fields) for each in told["partitions"]] == [
        (0, "w0", True, 5), (1, "w0", True, None), (2, "w1", False, 5)]  # fmt: skip
    assert {name: told["partitions"][1][name] for name in UNKNOWN} == UNKNOWN


async def test_sources_have_their_workers(fleet):
    """Each named source once, with the workers that have it."""
    _, told, _ = await fleet.get("/api/sources")
    assert [(each["name"], each["workers"]) for each in told["sources"]] == [("a", ["w1"]), ("b", ["w0", "w1"])]


def route(outcomes, **more):
    """What a worker reports about the route `orders`."""
    return {"name": "orders", "topics": ["orders"], "lookups": [{"name": "risk", "source": "scores"}],
            "results": "enriched", "failures": "failed", "group": "g-orders", "partitions": 2, "outcomes": outcomes,
            "in_progress": 3, "waiting": {}, "lag": 10, "patterns": [], "oldest_unfinished_s": None} | more  # fmt: skip


async def test_partitions_of_routes_are_listed_behind_the_others(fleet):
    """Two routes may read one topic, and a route the requests: neither hides another's."""
    read = [{"route": name, **partition(0, topic=topic)} for name, topic in (("b", "requests"), ("a", "orders"))]
    fleet.tell(w0={"partitions": [partition(0)], "route_partitions": read})
    _, told, _ = await fleet.get("/api/partitions")
    assert [(each["topic"], each.get("route")) for each in told["partitions"]] == [
        ("requests", None), ("orders", "a"), ("requests", "b")]  # fmt: skip


SAMPLE = {
    "at": "2026-11-22T14:00:00Z", "outcome": "ok", "lookups": [], "published": {"topic": "enriched", "value": "{}"},
    "read": {"topic": "orders", "partition": 0, "offset": 1, "timestamp": 1, "key": None, "value": "{}", "headers": {}},
}  # fmt: skip


@pytest.mark.parametrize(("other", "shown"), [(SAMPLE, SAMPLE), (None, None), ({"at": 1}, None)])
async def test_a_route_comes_with_its_latest_record_of_any_worker(fleet, other, shown):
    """This worker's own, else one of a worker that has the route; what is no sample is not passed on."""
    reported = {"routes": [route({"ok": 5})]}
    fleet.tell(w0=reported, w1=reported)
    fleet.members[1].query._samples = {"orders": lambda: other}
    status, told, _ = await fleet.get("/api/routes/orders")
    assert (status, told["name"], told["outcomes"], told["sample"]) == (200, "orders", {"ok": 10}, shown)
    assert (await fleet.get("/api/routes/orders/sample", 1))[:2] == (200, {"sample": other})
    fleet.members[0].query._samples = {"orders": lambda: SAMPLE | {"outcome": "own"}}
    assert (await fleet.get("/api/routes/orders"))[1]["sample"]["outcome"] == "own"
    assert (await fleet.get("/api/routes/none"))[0] == 404
    assert (await fleet.get("/api/routes/none/sample"))[0] == 404


async def test_routes_are_added_up_over_the_workers_that_answer(fleet):
    """Counts and lag of all workers; one that does not answer is not counted, one without routes changes nothing."""
    fleet.tell(
        w0={"routes": [route({"ok": 5, "timeout": 1}, waiting={"source scores": 2}), route({}, name="clicks")]},
        w1={"routes": [route({"ok": 7}, waiting={"source scores": 1}, lag=0, oldest_unfinished_s=7)]},
    )
    _, told, _ = await fleet.get("/api/routes")
    assert [each["name"] for each in told["routes"]] == ["clicks", "orders"]
    assert told["routes"][1] == route({"ok": 12, "timeout": 1}, partitions=4, in_progress=6, oldest_unfinished_s=7,
                                      waiting={"source scores": 3}, rate=None, workers=["w0", "w1"])  # fmt: skip
    fleet.tell(w0={"routes": [route({"ok": 5})]}, w1={"routes": [route({"ok": 7})], "silent_s": 9.0})
    [told] = (await fleet.get("/api/routes"))[1]["routes"]
    assert (told["outcomes"], told["workers"]) == ({"ok": 5}, ["w0"])
    fleet.tell(w0={"routes": [route({"ok": 5})]})
    [told] = (await fleet.get("/api/routes"))[1]["routes"]
    assert (told["lag"], told["workers"]) == (10, ["w0"])


@pytest.mark.parametrize("unknown", [{"lag": None}, {"partitions": None, "lag": None}, {"silent_s": 9.0}])
async def test_the_lag_of_a_route_is_unknown_where_a_worker_does_not_know_its_own(fleet, unknown):
    """Also while no worker that answers has partitions of it; the route is listed all the same."""
    silent = {"silent_s": unknown.pop("silent_s")} if "silent_s" in unknown else {}
    other = route({}, partitions=0, lag=0)
    fleet.tell(w0={"routes": [other]}, w1={"routes": [route({"ok": 7}, **unknown)], **silent})
    [told] = (await fleet.get("/api/routes"))[1]["routes"]
    assert (told["name"], told["lag"]) == ("orders", None)


async def test_the_rate_of_a_route_is_of_ten_seconds(fleet):
    """Of every worker what it has counted since; one that was restarted meanwhile counts from 0."""
    rates = RouteRates()
    for second, (one, two) in {0: (100, 500), 5: (150, 600), 10: (300, 40)}.items():
        started = "2026-11-22T13:00:00Z" if second < 10 else "2026-11-22T14:00:06Z"
        rates.note([
            {"id": name, "silent_s": 0.2, "started_at": begun, "at": f"2026-11-22T14:00:{second:02}Z",
             "routes": [route({"ok": count - 10, "timeout": 10})]}
            for name, count, begun in (("w0", one, "2026-11-22T13:00:00Z"), ("w1", two, started))
        ])  # fmt: skip
    assert rates.rate("orders") == 200 / 10 + 40 / 4
    assert rates.rate("clicks") is RouteRates().rate("orders") is None


async def test_everybodys_cache_is_told(fleet):
    """One's own, of which a worker that only keeps tables has none, and all workers'."""
    _, told, _ = await fleet.get("/api/cache")
    assert told == {"tiers": [], "counts": {}, "workers": [{"worker": "w0", "tiers": [{"tier": "memory"}]}]}


async def test_workers_name_hosts_without_the_scheme_s_own_port(fleet):
    """Rows name it always: what workers report about a host, or about a source of it, belongs to that row."""
    hosts = ["a.example", "a.example (prices)", "source words"]
    fleet.tell(w0={"hosts": [{"host": host, "breaker": "open", "rate": 5} for host in hosts]})
    for row in ("a.example:443", "a.example:443 (prices)", "source words", "other.example:80"):
        fleet.put("hosts", 0, row.encode(), counted("host", row))
    fleet.members[0].query.table_query._was_complete = True
    _, told, _ = await fleet.get("/api/hosts?sort=host")
    assert [(each["host"], each.get("source"), len(each["workers"])) for each in told["rows"]] == [
        ("a.example:443", None, 1), ("a.example:443 (prices)", "prices", 1), ("other.example:80", None, 0),
        ("source words", "words", 1),
    ]  # fmt: skip


async def test_hosts_have_what_workers_tell_of_them(fleet):
    """A host's row, and each answering worker's breaker and limits beside it; in CSV as one cell."""
    fleet.put("hosts", 0, b"a:80", counted("host", "a:80"))
    fleet.put("hosts", 0, b"b:80", counted("host", "b:80"))
    fleet.members[0].query.table_query._was_complete = True
    _, told, _ = await fleet.get("/api/hosts?sort=host")
    assert [(each["host"], each["workers"]) for each in told["rows"]] == [
        ("a:80", [{"worker": "w0", "breaker": "open", "in_flight": 1}]), ("b:80", [])]  # fmt: skip
    _, body, _ = await fleet.get("/api/hosts?sort=host&format=csv")
    assert b'""worker"":""w0""' in body.splitlines()[1]


@pytest.mark.parametrize(
    "ask", ["workers", "partitions", "sources", "routes", "hosts", "overview", "tables", "cache", "pool", "errors"]
)
async def test_before_anything_is_known_it_is_said(ask):
    """A worker that starts, or has not the role, raises 503 and says so: it never tells an empty list."""
    async with Query("w") as query:
        with pytest.raises(Problem) as raised:
            await getattr(query, ask)()
    assert raised.value.status == 503
    assert raised.value.headers["Retry-After"]


NONSENSE = [
    {"partitions": 5, "hosts": {"a": 1}, "sources": "x", "cache": [1], "tables": 7, "answers": [], "pool": "p"},
    {"partitions": [1, None, {}, {"partition": "0"}], "hosts": [None, {}], "sources": [[]], "answers": {"total": "9"}},
    {
        "at": 7,
        "started_at": None,
        "url": 8,
        "answers": {"total": 1, "outcomes": {"ok": "1"}, "cache": {}, "latency": {}},
    },
    {
        "answers": {"total": 1, "outcomes": {}, "cache": {}, "latency": {"counts": [1]}},
        "partitions": [{"partition": 1}],
    },
    {"partitions": [{"topic": "requests", "partition": 0, "lag": "9"}], "in_flight": 10**400, "rss": 10**400},
    {"tables": {"partitions": 7, "recovered": True}, "started_at": "0001-01-01T00:00:00+01:00", "loop_lag_s": "x"},
    {"tables": {"partitions": [2_000_000_000, -1], "recovered": True}, "answers": {"total": 10**400}},
    {"hosts": [{"host": "a:80", "breaker": "open", "in_flight": "1", "users": [], "limit": {}, "held_seconds": "x"}]},
    {"routes": {"name": "r"}},
    {"routes": [7, {}, {"name": 3}, {"name": "r"}], "at": 7},
    {
        "routes": [
            {
                "name": "r",
                "topics": "t",
                "lookups": [1, {}],
                "outcomes": {"ok": "1"},
                "waiting": [],
                "lag": "9",
                "in_progress": True,
            }
        ]
    },
]


@pytest.mark.parametrize("record", NONSENSE)
async def test_a_record_of_nobodys_breaks_nothing(record):
    """Whatever somebody wrote to the workers' topic: no answer becomes a fault by it."""
    async with Fleet({0}, {1}) as fleet:
        fleet.tell(w1=record)
        fleet.members[0].query.table_query._was_complete = True
        for path in ("workers", "partitions", "sources", "cache", "hosts", "overview", "tables", "tables/answers",
                     "routes"):  # fmt: skip
            fleet.members[0].query._overview.note()
            status, told, _ = await fleet.get("/api/" + path)
            assert status == 200, (path, told)
        fleet.put("hosts", 0, b"a:80", counted("host", "a:80"))
        pages = Pages(fleet.members[0].query, About("w0", "1", "requests", token_set=False))
        for name in ("workers", "partitions", "hosts", "overview", "routes"):
            page = await pages._page(name, getattr(pages, f"_{name}"))(make_mocked_request("GET", f"/{name}"))
            assert page.status == 200, (name, page.text)
        told = (await fleet.get("/api/workers"))[1]["workers"][1]
        assert all(isinstance(told.get(name, {}), dict) for name in ("tables", "answers", "cache", "pool"))
