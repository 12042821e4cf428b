"""The largest rows that there can be, and many of them, leave the event loop its turns."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from aiohttp.test_utils import make_mocked_request

from agents.tables.rows import encode_key
from agents.web.api.local_rows import LocalRows
from agents.web.api.peers import _read, lines
from agents.web.pages import About, Pages
from models import strictjson
from streams.web.responses import answer, answer_rows
from tests.turns import FOLLOWED, allowed, longest_turn
from tests.unit.agents.web.fleet import Fleet, Shelves

pytestmark = pytest.mark.slow

ROWS, KEY, DOCUMENT = 500, 64 << 10, 900 << 10


def stored_row():
    """Return an answer as it is stored, with a document of 900 KiB."""
    document = [{"id": number, "name": f"item {number}", "price": 1.5, "tags": ["a", "b"]} for number in range(15_300)]
    result = json.dumps({"id": "r", "outcome": "ok", "document": document}, separators=(",", ":"))
    assert len(result) > DOCUMENT
    head = '{"offset":1,"at":1795000000123,"keyed":true,"id":"r","outcome":"ok","host":"a.example:443","elapsed_ms":1.5'
    return f'{head},"bytes":{len(result)},"result":{result}}}'.encode()


@pytest.fixture
async def fleet():
    shelves, row = Shelves({0}), stored_row()
    shelves.rows["answers", 0] = {b"%06d" % number + b"k" * (KEY - 6): row for number in range(ROWS)}
    async with Fleet({0}) as fleet:
        fleet.members[0].query.set_local_rows(LocalRows(shelves), 1)
        yield fleet


@pytest.mark.parametrize("query", ["", "&sort=-at", "&sort=-elapsed_ms", "&where=outcome:ok", "&format=csv"])
async def test_a_page_of_the_largest_rows_leaves_the_loop_its_turns(fleet, query):
    """500 rows with keys of 64 KiB and documents of 900 KiB are selected and written in slices."""
    request = make_mocked_request("GET", f"/api/tables/answers?limit={ROWS}{query}", match_info={"name": "answers"})
    response, longest = await longest_turn(fleet.apis[0]._table(request))
    assert (response.status, len(response.body) > ROWS * KEY) == (200, True)
    assert longest < FOLLOWED * allowed()


async def test_the_list_of_tables_leaves_the_loop_its_turns(fleet):
    """Counting the largest rows reads no more than their keys."""
    tables, longest = await longest_turn(fleet.members[0].query.tables())
    assert tables["tables"][0]["rows"] == ROWS
    assert longest < FOLLOWED * allowed()


@pytest.mark.parametrize("name", ["table", "live", "row"])
async def test_pages_of_the_largest_rows_leave_the_loop_its_turns(fleet, name):
    """Pages are rendered elsewhere, also the one with a whole document."""
    pages = Pages(fleet.members[0].query, About("w0", "1", "requests", token_set=False))
    pages.compile()
    key = b"%06d" % 7 + b"k" * (KEY - 6)
    request = make_mocked_request("GET", "/x?encoding=base64", match_info={"name": "answers", "key": encode_key(key)})
    response, longest = await longest_turn(pages._page(name, getattr(pages, f"_{name}"))(request))
    assert response.status == 200
    assert longest < FOLLOWED * allowed()


async def test_a_whole_row_leaves_the_loop_its_turns(fleet):
    """The API decodes and encodes its document in a thread."""
    key = encode_key(b"%06d" % 7 + b"k" * (KEY - 6))
    request = make_mocked_request("GET", "/x?encoding=base64", match_info={"name": "answers", "key": key})
    response, longest = await longest_turn(fleet.apis[0]._row(request))
    assert (response.status, len(response.body) > DOCUMENT) == (200, True)
    assert longest < allowed()


async def test_whole_rows_for_another_worker_leave_the_loop_its_turns(fleet):
    """One is decoded after the other, however many keys it wants."""
    keys = [b"%06d" % number + b"k" * (KEY - 6) for number in range(10)]
    query = fleet.members[0].query.table_query.local_rows("answers", frozenset({0}), {"key": keys})
    (_, found), longest = await longest_turn(query)
    assert found.total == len(found.rows) == 10
    assert longest < allowed()


async def test_the_row_of_another_worker_leaves_the_loop_its_turns(fleet):
    """A line with a whole document is decoded in a thread."""
    written = lines("w1", [0], 1, [(b"k", json.loads(stored_row()))])
    response = SimpleNamespace(content=_given([*written]))
    found, longest = await longest_turn(_read(response, "w1", frozenset({0})))
    assert found.rows[0][1]["outcome"] == "ok"
    assert longest < allowed()


async def _given(items):
    for each in items:
        yield each


@pytest.mark.parametrize("value", [{"rows": [], "total": 0}, {"rows": [{"a": 1}], "total": 1}, {
    "rows": [{"a": "\u2028", "b": None}, {}], "cursor": "x", "total": 2, "partial": {"missing": []}}])  # fmt: skip
async def test_rows_are_written_as_any_value(value):
    """Written row by row, the bytes and the ETag are those of the whole."""
    request = make_mocked_request("GET", "/api/tables/answers")
    by_row, whole = await answer_rows(request, value, ("a",)), answer(request, value)
    assert by_row.body == whole.body == strictjson.dumps(value) + b"\n"
    assert by_row.etag == whole.etag
