"""What the API tells of the tables: whole rows of all workers' partitions, in order, page by page."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import time
from urllib.parse import quote

import pytest
from aiohttp import web

from tests.unit.agents.web.fleet import Fleet, answer_row, counted

pytestmark = pytest.mark.slow


@pytest.fixture
async def two():
    """Two workers with two partitions each, 40 answers spread over them."""
    async with Fleet({0, 1}, {2, 3}) as fleet:
        for number in range(40):
            row = answer_row(number, number % 4, outcome="timeout" if number % 5 == 0 else "ok")
            fleet.put("answers", number % 4, row["key"].encode(), row)
        yield fleet


async def pages(fleet, path, number=0):
    """Follow the cursors; returns all pages' rows."""
    rows, cursor = [], ""
    while True:
        status, told, _ = await fleet.get(path + (f"&cursor={cursor}" if cursor else ""), number)
        assert status == 200
        rows += told["rows"]
        cursor = told.get("cursor")
        if not cursor:
            return rows


@pytest.mark.parametrize("number", [0, 1])
async def test_any_worker_answers_for_all(two, number):
    """Whichever worker is asked, the rows of all partitions come, in order, and are counted."""
    status, told, _ = await two.get("/api/tables/answers?limit=100", number)
    assert status == 200
    assert [row["key"] for row in told["rows"]] == [f"k{each:06d}" for each in range(40)]
    assert (told["total"], "partial" in told, "cursor" in told) == (40, False, False)
    assert all("result" not in row for row in told["rows"])


@pytest.mark.parametrize("sort", ["key", "-key", "elapsed_ms", "-at", "outcome", "-error", "source", "keyed"])
async def test_pages_have_every_row_once_in_order(two, sort):
    """Following the cursor gives each row exactly once, whichever field orders them, also one that none has."""
    rows = await pages(two, f"/api/tables/answers?sort={sort}&limit=7")
    assert sorted(row["key"] for row in rows) == [f"k{each:06d}" for each in range(40)]
    field = sort.removeprefix("-")
    values = [row[field] for row in rows if field in row]
    assert values == sorted(values, reverse=sort.startswith("-"))


@pytest.mark.parametrize("number", [0, 1])
async def test_a_result_has_the_digits_that_came(two, number):
    """Whichever worker has the row: a document's numbers are not made doubles on their way."""
    text = '{"id":"r","document":{"price":1.10,"n":9007199254740993,"x":0.29999999999999998,"e":1e2,"z":-0}}'
    row = json.dumps(answer_row(1, 1) | {"result": "HERE"}).replace('"HERE"', text)
    [holder] = [member for member in two.members if 1 in member.shelves.partitions]
    holder.shelves.rows["answers", 1][b"digits"] = row.encode()
    async with two.session.get(two.members[number].url + "/api/tables/answers/digits") as response:
        assert text in await response.text()


async def test_partitions_that_another_worker_was_given_count_too():
    """Of partitions that were added, who was assigned none does not know; whoever holds them is asked all the same."""
    async with Fleet({0, 1}, {2}) as fleet:
        fleet.members[0].query.table_query.partitions = 2
        fleet.put("answers", 2, b"k", answer_row(7, 2))
        fleet.put("hosts", 2, b"a.example:80", counted("host", "a.example:80"))
        status, row, _ = await fleet.get("/api/tables/answers/k")
        assert (status, row["id"]) == (200, "r7")
        assert (await fleet.get("/api/tables/hosts"))[1]["total"] == 1


@pytest.mark.parametrize("sort", ["error", "-error"])
async def test_what_has_no_value_comes_last(two, sort):
    """Rows without the field that orders them come behind those that have it, whichever way the order goes."""
    for number in (5, 15):
        two.put(
            "answers", number % 4, b"k%06d" % number, answer_row(number, number % 4, error={"message": str(number)})
        )
    rows = await pages(two, f"/api/tables/answers?sort={sort}.message&limit=9")
    assert [row["id"] for row in rows[:2]] == (["r15", "r5"] if sort == "error" else ["r5", "r15"])
    assert len(rows) == 40


async def test_a_cursor_is_stable_under_changes(two):
    """Rows that come and go before the next page neither repeat a row nor skip one."""
    _, first, _ = await two.get("/api/tables/answers?limit=10")
    for member in two.members:
        for rows in member.shelves.rows.values():
            rows.pop(b"k000003", None)
    two.put("answers", 0, b"k000000a", answer_row(0, key="k000000a"))
    _, second, _ = await two.get(f"/api/tables/answers?limit=10&cursor={first['cursor']}")
    assert [row["key"] for row in second["rows"]] == [f"k{each:06d}" for each in range(10, 20)]


@pytest.mark.parametrize("cursor", ["x", "e30", "bnVsbA", "W10", "é", "WzEsMiwzLDQsNV0", "A" * 5000])
async def test_a_cursor_of_nobodys_is_refused(two, cursor):
    """Whatever is no cursor of ours gets 400, naming the parameter."""
    status, told, headers = await two.get(f"/api/tables/answers?cursor={quote(cursor)}")
    assert (status, headers["Content-Type"]) == (400, "application/problem+json")
    assert told["errors"][0]["field"] == "cursor"


async def test_a_cursor_belongs_to_its_question(two):
    """With another order or condition a cursor is refused instead of going on somewhere."""
    _, first, _ = await two.get("/api/tables/answers?limit=10&sort=-at")
    status, told, _ = await two.get(f"/api/tables/answers?limit=10&sort=at&cursor={first['cursor']}")
    assert (status, told["errors"][0]["field"]) == (400, "cursor")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((f"limit={text}", "limit") for text in ("0", "1001", "x", "-1", "9" * 999)),
        *((f"sort={text}", "sort") for text in ("nope", "result")),
        *((f"where={text}", "where") for text in ("ok", ":ok", "nope:1", "&where=".join(["outcome:ok"] * 9))),
        *((f"begins={text}", "begins") for text in ("ok", "nope:1", "&begins=".join(["outcome:o"] * 9))),
        ("format=xml", "format"),
        ("prefix=" + "x" * 4097, "prefix"),
    ],
)
async def test_a_wrong_parameter_is_named(two, query, field):
    """What is wrong in the query gets 400 with the parameter's name, whichever it is."""
    status, told, _ = await two.get(f"/api/tables/answers?{query}")
    assert (status, told["errors"][0]["field"]) == (400, field)


async def test_conditions_and_prefix_choose_rows(two):
    """`where` compares a field's text, several all at once, and `prefix` the key's beginning; the total follows."""
    _, told, _ = await two.get("/api/tables/answers?where=outcome:timeout&where=status:200&prefix=k00000&limit=1")
    assert ([row["key"] for row in told["rows"]], told["total"]) == (["k000000"], 2)
    for begins, most in (("url:http://a.example/1", None), ("host:a.&begins=outcome:time", 2), ("host:example", 0)):
        counts = {(await two.get(f"/api/tables/answers?prefix=k00000&limit=1&begins={begins}", number))[1]["total"]
                  for number in (0, 1)}  # fmt: skip
        assert counts == {most} if most is not None else len(counts) == 1
    _, told, _ = await two.get("/api/tables/answers?prefix=nothing")
    assert (told["rows"], told["total"]) == ([], 0)


async def test_a_row_is_found_wherever_it_is(two):
    """By its key, with the result itself; one that nobody has is a 404 once all were asked."""
    for number in (0, 1):
        status, told, _ = await two.get("/api/tables/answers/k000007", number)
        assert (status, told["id"], told["result"]["id"], told["partition"]) == (200, "r7", "r7", 3)
    status, told, _ = await two.get("/api/tables/answers/k7")
    assert (status, told["status"]) == (404, 404)


async def test_of_two_answers_with_one_key_the_latest_counts(two):
    """The same key in partitions of two workers is one row, the later one, in a page and by itself."""
    two.put("answers", 3, b"k000000", answer_row(0, 3, at="2026-11-23T00:00:00Z", id="newer"))
    _, told, _ = await two.get("/api/tables/answers?limit=1")
    assert told["rows"][0]["id"] == "newer"
    _, told, _ = await two.get("/api/tables/answers/k000000")
    assert told["id"] == "newer"


KEYS = [b"\xff\x00\x80", b"", b"a/b?c#d", "ключ €".encode(), b"=1+1", b"%41", b"a b+c"]


@pytest.mark.parametrize("key", KEYS)
async def test_keys_may_be_any_bytes(two, key):
    """A row is found by the base64 of its key, whatever the bytes, and by its text if it is one."""
    named = {"key": key.decode()} if key != KEYS[0] else {"key_base64": base64.b64encode(key).decode()}
    row = {name: value for name, value in answer_row(1, 2).items() if name != "key"} | named
    two.put("answers", 2, key, row)
    packed = quote(base64.urlsafe_b64encode(key).decode().rstrip("="))
    status, told, _ = await two.get(f"/api/tables/answers/{packed}?encoding=base64")
    assert (status, {name: told[name] for name in named}) == (200, named)
    if key != KEYS[0]:
        assert (await two.get(f"/api/tables/answers/{quote(key.decode(), safe='')}"))[0] == 200


@pytest.mark.parametrize("path", ["answers/!?encoding=base64", "answers/a?encoding=hex"])
async def test_a_key_that_cannot_be_read_is_refused(two, path):
    """No base64, or an encoding that there is not, gets 400."""
    assert (await two.get(f"/api/tables/{path}"))[0] == 400


async def test_sums_are_added_over_workers():
    """A host whose answers are in partitions of both workers has one row with all of them, latency included."""
    async with Fleet({0, 1}, {2}) as fleet:
        for partition, answers in enumerate((1, 2, 4)):
            fleet.put("hosts", partition, b"a.example:80", counted("host", "a.example:80", answers))
        fleet.put("hosts", 0, b"b.example:80", counted("host", "b.example:80", 9))
        _, told, _ = await fleet.get("/api/tables/hosts?sort=-answers.ok")
        assert [(row["host"], row["answers"]["ok"], sum(row["latency"]["counts"])) for row in told["rows"]] == [
            ("b.example:80", 9, 9), ("a.example:80", 7, 7)]  # fmt: skip
        _, told, _ = await fleet.get("/api/tables/hosts/a.example:80", 1)
        assert told["answers"] == {"ok": 7}


async def test_a_partition_that_two_claim_is_counted_once():
    """While a partition changes hands two workers may have it: its rows are added once."""
    async with Fleet({0, 1}, {1, 2}, {1}, partitions=3) as fleet:
        for partition in range(3):
            fleet.put("hosts", partition, b"a.example:80", counted("host", "a.example:80"))
        for number in range(3):
            _, told, _ = await fleet.get("/api/tables/hosts/a.example:80", number)
            assert told["answers"] == {"ok": 3}


class Moving:
    """The other workers, and what happens while they are asked."""

    def __init__(self, member, then):
        self._peers, self._then = member.query.table_query.peers, then
        member.query.table_query.peers = self

    def known(self, partitions):
        return self._peers.known(partitions)

    async def fetch(self, table, query, held, waiting):
        found = await self._peers.fetch(table, query, held, waiting)
        self._then()
        return found


@pytest.fixture
async def moving():
    """Two workers; partition 1, whose rows both have stored, moves while the second one's are asked for."""
    async with Fleet({0, 1}, {2}) as fleet:
        for table, row in (("hosts", counted("host", "x")), ("answers", answer_row(1, 1, key="x"))):
            for member in fleet.members:
                member.shelves.put(table, 1, b"x", row)
        await fleet.get("/api/tables")
        yield fleet


ASKED = ["hosts", "hosts/x", "hosts?sort=-answers.ok", "answers", "answers/x", "answers?sort=-at", ""]


@pytest.mark.parametrize("path", ASKED)
async def test_a_partition_that_goes_meanwhile_is_missing(moving, path):
    """Lost while others are asked for theirs: it is told as missing, and that a row is not there is not."""
    first = moving.members[0]
    Moving(first, lambda: setattr(first.shelves, "partitions", frozenset({0})))
    status, told, _ = await moving.get("/api/tables/" + path if path else "/api/tables")
    assert status == (503 if "/" in path else 200)
    assert told["partial"]["missing"] == [{"worker": "w0", "partitions": [1], "reason": "it no longer holds them"}]


@pytest.mark.parametrize("path", ASKED)
async def test_a_partition_that_comes_meanwhile_is_not_counted_twice(moving, path):
    """Gained while the former owner is asked for it: its rows are those that the owner told, once."""
    first, second = moving.members
    first.shelves.partitions, second.shelves.partitions = frozenset({0}), frozenset({1, 2})
    moving.tell()
    Moving(first, lambda: setattr(first.shelves, "partitions", frozenset({0, 1})))
    status, told, _ = await moving.get("/api/tables/" + path if path else "/api/tables")
    assert (status, "partial" in told) == (200, False)
    if path.startswith("hosts"):
        assert [row["answers"] for row in told.get("rows", [told])] == [{"ok": 1}]
    if path.startswith("answers") and "/" not in path:
        assert ([row["key"] for row in told["rows"]], told["total"]) == (["x"], 1)


async def test_another_is_told_what_goes_meanwhile(moving):
    """A worker that loses a partition while it goes through it does not say that it told it."""
    first = moving.members[0]
    scan = first.shelves.scan

    def lost(*asked):
        first.shelves.partitions = frozenset({0})
        yield from scan(*asked)

    first.shelves.scan = lost
    partitions, _ = await first.query.table_query.local_rows("hosts", frozenset({0, 1}), {"prefix": b""})
    assert partitions == {0}


async def test_the_tables_are_listed_with_their_rows(two):
    """/api/tables names the tables, their fields, and how many rows all workers have together."""
    for partition in range(4):
        two.put("hosts", partition, b"a.example:80", counted("host", "a.example:80"))
    two.put("hosts", 3, b"b.example:80", counted("host", "b.example:80"))
    _, told, _ = await two.get("/api/tables")
    assert {table["name"]: table["rows"] for table in told["tables"]} == {
        "answers": 40, "hosts": 2, "outcomes": 0, "checks": 0}  # fmt: skip
    assert "key" in told["tables"][0]["fields"]


async def test_a_worker_that_does_not_answer_is_named(two):
    """With one worker gone the rows of the others come, and `partial` says who is missing and why."""
    await two.servers[1].__aexit__()
    status, told, _ = await two.get("/api/tables/answers?limit=100")
    assert status == 503, "nothing is told as whole before it was whole once"
    two.members[0].query.table_query._was_complete = True
    status, told, _ = await two.get("/api/tables/answers?limit=100")
    assert (status, told["total"]) == (200, 20)
    [missing] = told["partial"]["missing"]
    assert missing == {"worker": "w1", "partitions": [2, 3], "reason": "cannot be reached"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"silent_s": 7.2}, "no heartbeat for 7 s"),
        ({"url": None}, "its record has no valid URL"),
        ({"url": "file:///etc/passwd"}, "its record has no valid URL"),
        ({"url": "http://u:p@127.0.0.1:1/"}, "its record has no valid URL"),
        ({"url": "http://127.0.0.1:1/?a=b"}, "its record has no valid URL"),
        ({"url": "http://127.0.0.1:99999999/"}, "its record has no valid URL"),
        ({"url": "http://127.0.0.1:1"}, "cannot be reached"),
        ({"tables": None}, "no worker holds them"),
        ({"tables": {"partitions": "all"}}, "no worker holds them"),
    ],
)
async def test_the_reason_is_said(two, change, reason):
    """Silent, without a URL to ask, not listening, or holding nothing: each is told apart."""
    await two.get("/api/tables")
    two.tell(w1=change)
    _, told, _ = await two.get("/api/tables/answers")
    assert [(each["partitions"], each["reason"]) for each in told["partial"]["missing"]] == [([2, 3], reason)]


async def test_not_found_is_said_only_when_sure(two):
    """A key that is not here while another worker is missing gets 503 with Retry-After, never 404."""
    await two.get("/api/tables")
    two.tell(w1={"silent_s": 60.0})
    status, told, headers = await two.get("/api/tables/answers/k7")
    assert (status, headers["Retry-After"]) == (503, "2")
    assert told["partial"]["missing"][0]["worker"] == "w1"
    assert (await two.get("/api/tables/answers/k000004"))[0] == 200


async def test_until_recovered_the_answer_is_503():
    """Before its tables are there, alone, a worker says so with Retry-After: no empty table, no 'not found'."""
    async with Fleet((), partitions=2) as fleet:
        fleet.members[0].shelves.waiting = "recovering"
        for path in ("", "/answers", "/answers/k", "/hosts"):
            status, told, headers = await fleet.get("/api/tables" + path)
            assert (status, headers["Retry-After"]) == (503, "2")
            assert "recover" in told["detail"]
        fleet.members[0].shelves.partitions, fleet.members[0].shelves.waiting = frozenset({0, 1}), "ok"
        assert (await fleet.get("/api/tables/answers"))[0] == 200
        assert (await fleet.get("/api/tables/answers/k"))[0] == 404


async def test_a_worker_that_starts_answers_from_the_others():
    """With nothing recovered yet, what others hold is whole already."""
    async with Fleet((), {0}, partitions=1) as fleet:
        fleet.members[0].shelves.waiting = "recovering"
        fleet.put("answers", 0, b"k000001", answer_row(1))
        assert (await fleet.get("/api/tables/answers/k000001"))[0] == 200


ROWS = {"Content-Type": "application/x-ndjson"}
HEAD = b'{"worker":"w1","partitions":[1],"total":1}\n'
ROW = b'["azE=",{"key":"k1"}]\n'
NONSENSE = {
    "html": (b"<html>secret</html>", {"Content-Type": "text/html"}, "its URL does not answer like a worker"),
    "another": (b'{"worker":"w9","partitions":[1],"total":0}\n{"end":0}\n', ROWS, "another worker answers at its URL"),
    "torn": (HEAD + ROW, ROWS, "its response broke off"),
    "miscounted": (HEAD + ROW + b'{"end":2}\n', ROWS, "its response broke off"),
    "empty": (b"", ROWS, "its response broke off"),
    "no json": (HEAD + b"secret\n", ROWS, "its response is not what a worker returns"),
    "no row": (HEAD + b'["azE=",7]\n', ROWS, "its response is not what a worker returns"),
    "no key": (HEAD + b'["!",{}]\n', ROWS, "its response is not what a worker returns"),
    "no head": (b"[1]\n", ROWS, "its response is not what a worker returns"),
    "endless line": (HEAD + b"x" * (3 << 20), ROWS, "it returned a row that is too large"),
    "given up": (b'{"worker":"w1","partitions":[],"total":0}\n{"end":0}\n', ROWS, "it no longer holds them"),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_what_is_no_answer_of_a_worker_is_not_passed_on(name):
    """Whatever stands at a planted URL answers, only the fact is told: not a byte of it."""
    body, headers, reason = NONSENSE[name]
    await _beside(lambda _: web.Response(body=body, headers=headers), reason)


@pytest.mark.parametrize("status", [301, 307, 401, 500])
async def test_no_redirect_is_followed(status):
    """A redirect or an error is no answer; where it points to is not asked."""
    seen = []

    def handle(request):
        seen.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    await _beside(handle, "its URL does not answer like a worker")
    assert set(seen) == {"/api/held/answers"}


async def test_a_worker_is_asked_by_get_and_without_the_token():
    """What another is sent: GET, no Authorization, no cookie."""
    seen = []

    def handle(request):
        seen.append((request.method, request.headers.keys() & {"Authorization", "Cookie"}))
        return web.Response(status=503)

    await _beside(handle, "its tables are not there yet")
    assert seen[0] == ("GET", set())


NONSENSE_ROWS = [
    {},
    {"unreadable": True},
    {"host": 7},
    {"answers": [], "latency": None, "minute": {}},
    {"at": [1], "partition": 0},
]


@pytest.mark.parametrize("row", NONSENSE_ROWS)
@pytest.mark.parametrize("table", ["answers", "hosts", "outcomes", "checks"])
async def test_rows_of_nobodys_break_nothing(two, table, row):
    """A row that cannot be read, or that a worker of another version tells, hides no other and is no fault."""
    good = counted("host", "x") | answer_row(1, 3) | {
        "minute": "2026-11-22T14:00Z", "name": "x", "runs": 1, "failures": 0, "seconds": 0.1, "slowest_ms": 1.0,
    }  # fmt: skip
    for partition in (0, 2):
        two.put(table, partition, b"x", row)
    two.put(table, 3, b"x", good)
    two.put(table, 1, b"y", row)
    for number in (0, 1):
        for query in ("", "?sort=-key&limit=1", "/x", "/y"):
            assert (await two.get(f"/api/tables/{table}{query}", number))[0] == 200
        assert (await two.get("/api/tables/hosts?sort=-last_seen", number))[0] == 200
        assert (await two.get("/api/hosts", number))[0] == 200
        assert (await two.get("/api/overview", number))[0] == 200
    if "unreadable" in row:
        assert (await two.get(f"/api/tables/{table}/x"))[1]["bytes" if table != "checks" else "runs"] is not None


async def test_a_worker_that_hangs_costs_three_seconds_at_most(monkeypatch):
    """One that never answers is given up, and named."""
    monkeypatch.setattr("agents.web.api.peers.REQUEST_TIMEOUT", 0.2)

    async def hang(_):
        await asyncio.sleep(5)

    began = time.monotonic()
    await _beside(hang, "no answer within 0.2 s")
    assert time.monotonic() - began < 3


async def _beside(handle, reason):
    """Ask a worker beside which stands something else, that is said to hold partition 1."""

    async def asked(request):
        told = handle(request)
        return await told if asyncio.iscoroutine(told) else told

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", asked)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with Fleet({0}, partitions=2) as fleet:
        member = fleet.members[0]
        planted = member.record(id="w1", url="http://127.0.0.1:%d" % runner.addresses[0][1], tables={"partitions": [1]})
        member.heard.records = [member.record(), planted]
        member.query.table_query._was_complete = True
        status, told, _ = await fleet.get("/api/tables/answers")
    await runner.cleanup()
    assert status == 200
    assert told["partial"]["missing"] == [{"worker": "w1", "partitions": [1], "reason": reason}]
    assert "secret" not in json.dumps(told)


HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", 'a"b', "<script>alert(1)</script>", "a,b"]


async def test_a_spreadsheet_runs_nothing():
    """In CSV a text that a spreadsheet would take for a formula begins with an apostrophe; the rest is as it was."""
    async with Fleet({0}) as fleet:
        for number, text in enumerate(HOSTILE):
            row = answer_row(number, key=text, url=text, error={"type": "X", "message": text, "retryable": False})
            fleet.put("answers", 0, text.encode(), row)
        status, body, headers = await fleet.get("/api/tables/answers?limit=100", Accept="text/csv")
        assert (status, headers["Content-Type"]) == (200, "text/csv")
        read = list(csv.DictReader(io.StringIO(body.decode(), newline="")))
        assert {row["key"].removeprefix("'") for row in read} == set(HOSTILE)
        assert not [cell for row in read for cell in row.values() if cell.startswith(tuple("=+-@\t\r\n\uff1d"))]
        assert {row["offset"] for row in read} == {str(number) for number in range(len(HOSTILE))}


async def test_csv_says_where_it_goes_on_and_what_is_missing(two):
    """The next page and a missing worker stand in headers, since a spreadsheet has no place for them."""
    await two.get("/api/tables")
    two.tell(w1={"silent_s": 60.0})
    _, body, headers = await two.get("/api/tables/answers?limit=5&format=csv")
    assert len(body.splitlines()) == 6
    assert "w1" in headers["Millrace-Partial"]
    target = headers["Link"].partition("<")[2].partition(">")[0]
    _, more, _ = await two.get(target)
    assert more.splitlines()[1] != body.splitlines()[1]


async def test_an_unchanged_answer_is_not_sent_again(two):
    """With the ETag of before the answer is 304 without a body, until something changes."""
    _, _, headers = await two.get("/api/tables/answers")
    status, body, _ = await two.get("/api/tables/answers", If_None_Match=headers["ETag"])
    assert (status, body) == (304, b"")
    two.put("answers", 0, b"new", answer_row(99, key="new"))
    assert (await two.get("/api/tables/answers", If_None_Match=headers["ETag"]))[0] == 200


async def test_no_such_table(two):
    """A table that there is not gets 404 naming those that there are."""
    status, told, _ = await two.get("/api/tables/nope")
    assert status == 404
    assert "answers" in told["detail"]


async def test_no_more_than_two_searches_run_at_once():
    """However many ask: the others wait, so that the loop is left to those who answer requests."""
    async with Fleet({0}) as fleet:
        row = json.dumps(answer_row(0)).encode()
        fleet.members[0].shelves.rows["answers", 0] = {b"%d" % number: row for number in range(3_000)}
        scan, running, most = fleet.members[0].shelves.scan, 0, 0

        def watched(*asked):
            nonlocal running, most
            running += 1
            most = max(most, running)
            yield from scan(*asked)
            running -= 1

        fleet.members[0].shelves.scan = watched
        query = fleet.members[0].query
        found = await asyncio.gather(*(query.rows("answers", sort="-at") for _ in range(10)))
    assert [each["total"] for each in found] == [3_000] * 10
    assert most == 2


async def test_a_large_table_holds_nobody_up():
    """100,000 rows are searched in slices: meanwhile the loop is never held for long."""
    async with Fleet({0}) as fleet:
        row = json.dumps(answer_row(0)).encode().replace(b'"offset": 0', b'"offset": %d')
        rows = {b"k%06d" % number: row % number for number in range(100_000)}
        fleet.members[0].shelves.rows["answers", 0] = rows
        gaps, last = [], time.thread_time()  # our own time: the machine may be busy with others
        asking = asyncio.ensure_future(fleet.members[0].query.rows("answers", sort="-offset"))
        while not asking.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            gaps.append(now - last)
            last = now
        assert (await asking)["rows"][0]["offset"] == 99_999
    assert len(gaps) > 100
    assert sorted(gaps)[-3] < 0.05
