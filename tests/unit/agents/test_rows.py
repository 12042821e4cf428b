"""Partial rows make the same whole one in whatever order they are merged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.tables.rows import decode, merge
from agents.web.formatting import pretty
from models import strictjson
from models.histogram import BOUNDS
from streams.tables.changelogs import TABLES

counts = st.integers(0, 10**9)
names = st.dictionaries(st.sampled_from(["ok", "timeout", "denied"]), counts)
times = st.integers(0, 59).map(lambda second: f"2026-11-22T14:00:{second:02d}.000Z")
seconds = st.integers(0, 10**9).map(lambda micros: micros / 1e6)
latencies = st.fixed_dictionaries(
    {
        "le": st.just(list(BOUNDS)),
        "counts": st.lists(counts, min_size=len(BOUNDS) + 1, max_size=len(BOUNDS) + 1),
        "sum": seconds,
    }
)
counted = {"answers": names, "cache": names, "latency": latencies, "bytes": counts}
errors = st.fixed_dictionaries(
    {"id": st.text(max_size=3), "outcome": st.just("timeout"), "message": st.text(max_size=3), "at": times}
)
PARTS = {
    "answers": st.fixed_dictionaries(
        {"key": st.just("k"), "at": times, "partition": st.integers(0, 9), "offset": counts}
    ),
    "hosts": st.fixed_dictionaries(
        {**counted, "host": st.just("h:80"), "last_seen": times}, optional={"last_error": errors}
    ),
    "outcomes": st.fixed_dictionaries({**counted, "minute": st.just("2026-11-22T14:00Z")}),
    "checks": st.fixed_dictionaries(
        {
            "name": st.just("c"),
            "runs": counts,
            "failures": counts,
            "seconds": seconds,
            "slowest_ms": st.floats(0, 1e6),
            "last_seen": times,
        }
    ),
}


@pytest.mark.parametrize("table", TABLES)
@given(data=st.data())
def test_merging_is_associative_and_commutative(table, data):
    """Whichever two parts are merged first, and in whichever order, the whole row is the same."""
    unique = (lambda row: (row["partition"], row["offset"])) if table == "answers" else None
    a, b, c = data.draw(st.lists(PARTS[table], min_size=3, max_size=3, unique_by=unique))
    whole = merge(table, [a, b, c])
    assert merge(table, [merge(table, [a, b]), c]) == merge(table, [a, merge(table, [b, c])]) == whole
    assert merge(table, [c, a, b]) == merge(table, [b, c, a]) == whole


@pytest.mark.parametrize("table", TABLES)
def test_nothing_to_merge_is_a_fault_of_the_caller(table):
    """No rows make no row."""
    with pytest.raises(ValueError, match="no rows"):
        merge(table, [])


def test_a_stored_result_is_read_with_its_digits():
    """What a double cannot have, such as a number that is too large, is null as before."""
    numbers = b"[1.10,0.29999999999999998,1e999,2.5,-0]"
    stored = b'{"id":"r","outcome":"ok","at":1,"offset":7,"bytes":9,"result":{"d":%b}}' % numbers
    row = decode("answers", 0, b"k", stored, heads=False)
    assert strictjson.dumps(row["result"], exact=True) == b'{"d":[1.10,0.29999999999999998,null,2.5,-0]}'
    assert pretty(row["result"]["d"]).split() == ["[", "1.10,", "0.29999999999999998,", "null,", "2.5,", "-0", "]"]
    assert "result" not in decode("answers", 0, b"k", stored, heads=True)
