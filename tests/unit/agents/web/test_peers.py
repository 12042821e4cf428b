"""What a worker tells another: its own rows, of the partitions it is asked for, and nothing that it had to ask for."""

from __future__ import annotations

import base64
import json

import pytest

from tests.unit.agents.web.fleet import Fleet, answer_row, counted


def packed(key):
    return base64.urlsafe_b64encode(key).decode()


@pytest.fixture
async def two():
    async with Fleet({0, 1}, {2}) as fleet:
        for number in range(12):
            row = answer_row(number, number % 3)
            fleet.put("answers", number % 3, row["key"].encode(), row)
        for partition in range(3):
            fleet.put("hosts", partition, b"a.example:80", counted("host", "a.example:80"))
        yield fleet


async def held(fleet, query, number=0):
    status, body, headers = await fleet.get("/api/held/" + query, number)
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
    head, *rows, end = [json.loads(line) for line in body.splitlines()]
    assert end == {"end": len(rows)}
    return head, [(base64.b64decode(key), row) for key, row in rows]


async def test_only_its_own_rows_are_told(two):
    """Of the partitions asked for those that it holds: the others are not fetched from elsewhere, and it says so."""
    head, rows = await held(two, "answers?partitions=0,2&limit=50")
    assert head == {"worker": "w0", "partitions": [0], "total": 4}
    assert {row["partition"] for _, row in rows} == {0}


async def test_partial_rows_are_told_as_they_are(two):
    """Sums are not made: each partition's row by itself, by prefix or by key; or keys alone, each once."""
    _, rows = await held(two, f"hosts?partitions=0,1&prefix={packed(b'a')}")
    assert [row["answers"] for _, row in rows] == [{"ok": 1}, {"ok": 1}]
    assert (await held(two, f"hosts?partitions=0,1&prefix={packed(b'b')}"))[1] == []
    _, rows = await held(two, f"hosts?partitions=1&key={packed(b'a.example:80')}&key={packed(b'x')}")
    assert [key for key, _ in rows] == [b"a.example:80"]
    assert (await held(two, "hosts?partitions=0,1&only=keys"))[1] == [(b"a.example:80", {})]


async def test_much_is_told_in_pieces(two):
    """More rows than go in one piece arrive whole."""
    for number in range(500):
        two.put("hosts", 0, b"h%d" % number, counted("host", f"h{number}"))
    _, rows = await held(two, "hosts?partitions=0")
    assert len(rows) == 501


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("answers?partitions=x", 400), ("answers?partitions=" + "1," * 2000, 400), ("answers?partitions=9999999", 400),
        ("answers?key=!", 400), ("answers?" + "&".join(["key=YQ"] * 129), 400), ("answers?prefix=%25", 400),
        ("answers?limit=x", 400), ("answers?limit=5&cursor=x", 400), ("nope?partitions=0", 404),
        ("answers?partitions=0", 400), (f"answers?partitions=0&prefix={packed(b'k')}", 400),
    ],
)  # fmt: skip
async def test_what_cannot_be_read_is_refused(two, query, status):
    """A question that is none gets its problem, naming the parameter."""
    assert (await two.get("/api/held/" + query))[0] == status


async def test_a_worker_that_has_nothing_yet_says_so():
    """503 with Retry-After, which the other tells as the reason."""
    async with Fleet((), partitions=1) as fleet:
        status, _, headers = await fleet.get("/api/held/answers?partitions=0&only=keys")
        assert (status, headers["Retry-After"]) == (503, "2")
