"""The latest dead letters over HTTP, and their way back."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import pytest

from agents.commands import redrive
from agents.redrive.dead_letters import BEFORE, Report
from agents.redrive.published import Published
from agents.web.api.dead_letters import MAX_REDRIVE_BYTES, DeadLetterApi
from agents.web.api.letter_filter import NAMES
from agents.web.api.query import Query
from agents.web.pages import About, Pages
from models.dead_letter import read_dead_letter
from models.errors import BrokerError
from tests.unit.agents.web.fleet import TOKEN, Fleet, answer_row

SECRET = b'{"url": "http://a.example/", "headers": {"Authorization": "Bearer s3cret"}}'


def letter(offset, *, key=b"k", **said):
    """Return a letter as it is read from the topic."""
    defaults = {"topic": "requests", "partition": "3", "offset": "42", "timestamp": "1000", "id": f"r{offset}",
                "outcome": "timeout", "message": "no answer <b>", "host": "a.example:80",
                "delivery.count": "2"}  # fmt: skip
    said = defaults | said
    headers = [("__dlq.errors." + name, text.encode()) for name, text in said.items()]
    return read_dead_letter((1, offset), 1_700_000_000_000 + offset, key, SECRET, headers)


class Box:
    """What stands in for the topic."""

    def __init__(self, *letters, fault=None):
        self.letters, self.fault, self.asked = list(letters), fault, []
        self.results = {}

    async def latest(self, limit, selected=None):
        self.asked.append(limit)
        if self.fault:
            raise self.fault
        return [each for each in self.letters if selected is None or selected.matches(each)][:limit]

    async def whole(self, position):
        if self.fault:
            raise self.fault
        return next((each for each in self.letters if each.position == position), None)

    async def published(self, letter):
        return self.results.get(letter.position, "Kafka has deleted it")

    async def redrive(self, choice, *, rate, on_result):
        assert rate == 0.0
        if self.fault:
            raise self.fault
        report = Report(missing=sorted(choice.positions))
        for each in self.letters:
            if each.position in choice.positions:
                report.missing.remove(each.position)
                on_result(each, BEFORE if each.redriven else None)
                report.redriven += not each.redriven
        return report


@pytest.fixture
async def fleet():
    async with Fleet({0}) as opened:
        yield opened


def letters(fleet, *found, fault=None):
    box = Box(*found, fault=fault)
    errors = fleet.apis[0]._dead_letters
    errors._dead_letters = box
    assert isinstance(errors, DeadLetterApi)
    return box


async def test_the_latest_failures_are_told(fleet):
    """Each with id, outcome, message, where it came from; and nothing of what its sender sent."""
    letters(fleet, letter(9), letter(8, key=b"\xff"), letter(7, key=None)._replace(redriven=True))
    status, told, _ = await fleet.get("/api/errors")
    assert status == 200
    assert told["errors"][0] == {
        "partition": 1, "offset": 9, "at": "2023-11-14T22:13:20.009Z", "key": "k", "id": "r9", "outcome": "timeout",
        "message": "no answer <b>", "host": "a.example:80", "attempts": 2, "redriven": False,
        "origin": {"topic": "requests", "partition": 3, "offset": 42},
    }  # fmt: skip
    assert told["errors"][1]["key_base64"] == base64.b64encode(b"\xff").decode()
    assert (told["errors"][2]["redriven"], "key" in told["errors"][2]) == (True, False)
    assert "s3cret" not in str(told)


@pytest.mark.parametrize(("at", "told"), [(1 << 62, "9999-12-30T00:00:00.000Z"), (-1, "1970-01-01T00:00:00.000Z")])
async def test_a_moment_that_is_in_no_calendar_breaks_nothing(fleet, at, told):
    """A producer may give a record any time: it is told as the nearest that can be."""
    found = read_dead_letter((1, 9), at, b"k", b"", ())
    letters(fleet, found)
    assert [each["at"] for each in (await fleet.get("/api/errors"))[1]["errors"]] == [told]
    assert redrive._line(found, "put back").startswith("1:9  ")


async def test_letters_are_read_once_for_many(fleet):
    """Asked again within two seconds the topic is not read again, unless more are wanted than were read."""
    box = letters(fleet, *(letter(number) for number in range(30)))
    for limit, count in ((20, 20), (5, 5), (25, 25), (25, 25)):
        _, told, _ = await fleet.get(f"/api/errors?limit={limit}")
        assert len(told["errors"]) == count
    assert box.asked == [20, 25]


@pytest.mark.parametrize("limit", ["0", "201", "x"])
async def test_a_limit_that_is_none_is_refused(fleet, limit):
    """From 1 to 200, else 400 naming the parameter."""
    letters(fleet)
    status, told, _ = await fleet.get(f"/api/errors?limit={limit}")
    assert (status, told["errors"][0]["field"]) == (400, "limit")


async def test_kafka_may_be_away(fleet):
    """Then the answer is 503 with Retry-After and the sentence that says what to do."""
    letters(fleet, fault=BrokerError("Kafka at x cannot be reached"))
    status, told, headers = await fleet.get("/api/errors")
    assert (status, told["detail"], headers["Retry-After"]) == (503, "Kafka at x cannot be reached", "5")
    assert (await fleet.post("/api/redrive", {"letters": [{"partition": 1, "offset": 9}]}))[0] == 503


async def test_chosen_letters_go_back(fleet):
    """What is named is redriven; what was before, or is not there, is told apart."""
    letters(fleet, letter(9), letter(8)._replace(redriven=True))
    places = [{"partition": 1, "offset": offset} for offset in (9, 8, 7)]
    status, told, _ = await fleet.post("/api/redrive", {"letters": places})
    assert status == 200
    assert told == {"redriven": 1, "missing": [places[2]], "letters": [
        {**places[0], "redriven": True}, {**places[1], "redriven": False, "reason": BEFORE}]}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 422), (b"{}", 422), (b'{"letters": []}', 422), (b'{"letters": 1}', 422),
        (b'{"letters": [{"partition": 1}]}', 422), (b'{"letters": [{"partition": 1, "offset": "2"}]}', 422),
        (b'{"letters": [{"partition": -1, "offset": 2}]}', 422),
        (b'{"letters": [{"partition": true, "offset": 2}]}', 422),
        (b'{"letters": [{"partition": 1, "offset": 2, "x": 3}]}', 422), (b'{"letters": [1], "all": true}', 422),
    ],
)  # fmt: skip
async def test_what_names_no_letters_is_refused(fleet, body, status):
    """Whatever is no list of places is refused before anything is written."""
    letters(fleet, letter(9))
    assert (await fleet.post("/api/redrive", body))[0] == status


async def test_more_than_64_kib_of_letters_are_refused(fleet):
    """A body over the limit is 413, unread and with what to do; one of the limit is read."""
    box = letters(fleet, letter(9))
    body = b'{"letters": [{"partition": 1, "offset": 9}]}'
    status, problem, headers = await fleet.post("/api/redrive", body + b" " * (MAX_REDRIVE_BYTES + 1 - len(body)))
    assert (status, headers["Content-Type"], problem["status"]) == (413, "application/problem+json", 413)
    assert problem["detail"] == "a redrive takes 65536 bytes of JSON at most; redrive fewer letters at a time"
    assert [each.redriven for each in box.letters] == [False]
    assert (await fleet.post("/api/redrive", body + b" " * (MAX_REDRIVE_BYTES - len(body))))[0] == 200


async def test_redriving_needs_the_token(fleet):
    """Without it nothing goes back."""
    box = letters(fleet, letter(9))
    status, _, _ = await fleet.post("/api/redrive", {"letters": [{"partition": 1, "offset": 9}]}, token="not-" + TOKEN)
    assert (status, box.asked) == (401, [])


FOUND = [
    letter(9, source="s", status="503", outcome="upstream_error", retryable="true"),
    letter(8, source="t", status="404", outcome="upstream_error"),
    letter(7, host="b.example:443"),
]


@pytest.mark.parametrize(
    ("query", "offsets"),
    [
        ("", [9, 8, 7]),
        ("outcome=&host=", [9, 8, 7]),
        ("outcome=timeout", [7]),
        ("host=b.example", [7]),
        ("source=s", [9]),
        ("status=404", [8]),
        ("retryable=true", [9, 7]),
        ("retryable=true&outcome=upstream_error", [9]),
        ("since=2023-11-14T00:00Z&until=2023-11-15T00:00Z", [9, 8, 7]),
        ("since=2h", []),
    ],
)
async def test_letters_are_filtered(fleet, query, offsets):
    """By outcome, host, source, status, time, and whether a retry may help."""
    letters(fleet, *FOUND)
    _, told, _ = await fleet.get(f"/api/errors?{query}")
    assert [each["offset"] for each in told["errors"]] == offsets


@pytest.mark.parametrize(
    "query", ["outcome=odd", "status=5xx", "status=99", "since=noon", "until=x", "retryable=yes", "host=" + "x" * 256]
)
async def test_a_filter_that_is_none_is_refused(fleet, query):
    """With 400, naming the parameter: a misspelt one must not look as if nothing had failed."""
    letters(fleet)
    status, told, _ = await fleet.get(f"/api/errors?{query}")
    assert (status, told["errors"][0]["field"]) == (400, query.partition("=")[0])


async def test_the_page_filters_as_the_api_does_and_shows_what_waits():
    """Its form has what was chosen; without a match it does not say that nothing failed; delay topics have a table."""
    query, box = Query(), Box(*FOUND)
    query.dead_letters = DeadLetterApi(box, "requests")
    pages = Pages(query, About("w", "1", "requests", token_set=False))

    async def page(**chosen):
        values = await pages._errors(SimpleNamespace(query=chosen))
        return pages._written("errors.html", page="errors", **values).text

    text = await page(source="s", retryable="true")
    assert (text.count('name="letter"'), 'name="source" value="s"' in text, "503" in text) == (1, True, True)
    assert "No dead letter matches" in await page(status="500")
    topic = {"topic": "millrace-later-60s", "delay_s": 60, "waiting": 1234, "deferred": 5, "taken_up": 4,
             "partitions": 8, "next_due": "2026-11-30T00:00:00.000Z", "overdue_s": 7.0}  # fmt: skip
    later = {"topics": [topic, {**topic, "waiting": None, "next_due": None}], "exhausted": 6}
    values = {"found": {"errors": []}, "later": later, "view": dict.fromkeys(NAMES, "")}
    text = pages._written("errors.html", page="errors", **values).text
    assert ("1,234" in text, "6 failed at their last try" in text, "unknown" in text) == (True, True, True)


async def test_who_has_the_token_sees_a_letter_whole(fleet):
    """Key, value and headers, what is no text in base64; without the token nothing of it, and 404 for none."""
    found = letter(9, source="s")._replace(headers=(("a", b"1"), ("b", None), ("c", b"\xff")))
    letters(fleet, found)
    place = {"partition": 1, "offset": 9}
    status, told, _ = await fleet.post("/api/letter", place)
    assert (status, told["value"], told["key"], told["source"]) == (200, SECRET.decode(), "k", "s")
    assert told["headers"] == [{"name": "a", "value": "1"}, {"name": "b", "value": None},
                               {"name": "c", "value_base64": "/w=="}]  # fmt: skip
    status, told, _ = await fleet.post("/api/letter", place, token="wrong")
    assert (status, "s3cret" in str(told)) == (401, False)
    assert (await fleet.post("/api/letter", {**place, "offset": 8}))[0] == 404
    assert (await fleet.post("/api/letter", {"partition": 1}))[0] == 422


async def test_a_letter_comes_with_the_latest_result_of_its_request_by_the_tables(fleet):
    """What became of it after a redrive, too; a row that is older, of another request, or cut is not taken for it."""
    box = letters(fleet, letter(9), letter(8, key=None), letter(7))
    box.results[1, 7] = Published(0, 40, 1_700_000_000_010, b'{"id":"r7","n":1.10}')
    at = "2023-11-14T22:13:21.000Z"
    result = {"id": "r9", "outcome": "ok", "elapsed_ms": 1.0}
    fleet.put("answers", 0, b"k", answer_row(3, key="k", id="r9", at=at, offset=3, result=result))
    fleet.put("answers", 0, b"r8", answer_row(4, key="r8", id="r8", at="2023-11-14T22:13:18.000Z"))

    async def shown(offset):
        told = (await fleet.post("/api/letter", {"partition": 1, "offset": offset}))[1]
        return told.get("last_result"), told.get("no_result")

    last, reason = await shown(9)
    assert (last.pop("value"), reason) == ('{"id":"r9","outcome":"ok","elapsed_ms":1.0}', None)
    assert last == {"partition": 0, "offset": 3, "at": at, "latest": True}
    assert await shown(8) == (None, "Kafka has deleted it")
    published = {"partition": 0, "offset": 40, "at": "2023-11-14T22:13:20.010Z", "latest": False}
    assert await shown(7) == ({**published, "value": '{"id":"r7","n":1.10}'}, None)
    row = answer_row(3, key="k", id="r7", at=at, truncated=True)
    row.pop("result")
    fleet.put("answers", 0, b"k", row)
    assert (await shown(7))[0]["offset"] == 40


async def test_tables_that_are_away_keep_nobody_from_a_letter(fleet):
    """The result that was published with it is searched then."""
    box = letters(fleet, letter(9))
    box.results[1, 9] = Published(0, 40, 1_700_000_000_010, b"\xff")
    fleet.members[0].query.table_query.local = None
    told = (await fleet.post("/api/letter", {"partition": 1, "offset": 9}))[1]
    assert (told["last_result"]["offset"], told["last_result"]["value_base64"]) == (40, "/w==")
