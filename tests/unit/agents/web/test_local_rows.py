"""One worker's pages while its rows change: each is as long as there are rows for it, and each row is on one."""

from __future__ import annotations

import json

import pytest

from agents.web.api.local_rows import LocalRows
from agents.web.api.selection import select
from agents.web.api.tables import TABLES
from tests.unit.agents.web.fleet import Shelves

AT = 1_795_000_000_000
LIMIT = 50


@pytest.fixture
def shelves():
    return Shelves({0, 1})


def put(shelves, number, partition, at):
    row = {"offset": number, "at": at, "id": f"r{number}", "outcome": "ok", "elapsed_ms": 1.5, "result": {"n": number}}
    shelves.rows.setdefault(("answers", partition), {})[b"k%06d" % number] = json.dumps(
        row, separators=(",", ":")
    ).encode()


async def pages(shelves, sort, **more):
    """Follow the pages of this worker; returns the keys in order."""
    tables = LocalRows(shelves)
    selection, keys = select(TABLES["answers"][1], sort=sort, limit=LIMIT, **more), []
    while True:
        found = await tables.page("answers", selection, {0, 1})
        keys += [key for key, _ in found.rows[:LIMIT]]
        if len(found.rows) <= LIMIT:
            return keys
        place = selection.sort_key()(*found.rows[LIMIT - 1])
        again = select(TABLES["answers"][1], sort=sort, limit=LIMIT, cursor=selection.cursor(place), **more)
        selection = again


@pytest.mark.parametrize("sort", ["-at", "at", "-elapsed_ms"])
async def test_a_page_of_a_busy_table_is_whole(shelves, sort):
    """Every row is answered anew as soon as it was gone through: a page tells it as it was, and ends no earlier."""
    for number in range(200):
        put(shelves, number, 0, AT + number)
    scan = shelves.scan

    def busy(*asked):
        yield from scan(*asked)
        for number in range(200):
            put(shelves, number, 0, AT + 10_000 + number)

    shelves.scan = busy
    tables = LocalRows(shelves)
    found = await tables.page("answers", select(TABLES["answers"][1], sort=sort, limit=LIMIT), {0, 1})
    assert len(found.rows) > LIMIT
    assert all(row["offset"] == int(key[1:]) for key, row in found.rows)


@pytest.mark.parametrize("stay", [0, 10])
@pytest.mark.parametrize("count", [200, 1_200])
@pytest.mark.parametrize("sort", ["-at", "at", "key"])
async def test_keys_that_moved_to_another_partition_are_told_once(shelves, sort, count, stay):
    """Keys have an older row in another partition, as when there are more partitions now: each is told once, however
    many of the rows that are read first are such.
    """
    for number in range(count):
        put(shelves, number, 0, AT + number)
        if number >= stay:
            put(shelves, number, 1, AT + 10_000 + number)
    assert sorted(await pages(shelves, sort)) == [b"k%06d" % number for number in range(count)]


async def test_a_page_of_keys_goes_on_behind_those_that_went(shelves):
    """Rows that go between the look at their keys and the look at them leave their place to the next ones."""
    for number in range(200):
        put(shelves, number, 0, AT)
    scan = shelves.scan

    def going(*asked):
        yield from scan(*asked)
        for number in range(100):
            shelves.rows["answers", 0].pop(b"k%06d" % number, None)

    shelves.scan = going
    assert await pages(shelves, "key") == [b"k%06d" % number for number in range(100, 200)]
