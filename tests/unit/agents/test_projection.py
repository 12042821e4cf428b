"""A glimpse of a stored answer says of its fields what decoding it says, or leaves it to that."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.tables.projection import Projection, projection
from agents.tables.rows import decode

FIELDS = ("at", "id", "outcome", "cache", "status", "url", "source", "host", "fetched_at", "elapsed_ms", "attempts",
          "bytes", "partition")  # fmt: skip
SAID = ',"outcome":"denied","status":7,"result":'
ODD = [SAID, "\\", '"', ',"status":', "é", "\\u0041", "{", SAID + '"']
texts = st.one_of(st.text(max_size=20), st.sampled_from(ODD))
numbers = st.one_of(st.integers(-(10**17), 10**17), st.floats())
values = st.one_of(texts, numbers, st.booleans(), st.none(), st.lists(texts, max_size=2))
heads = st.fixed_dictionaries({}, optional={"source": texts, **dict.fromkeys(FIELDS[1:-1], values)})


@given(head=heads, ascii_only=st.booleans(), field=st.sampled_from(FIELDS))
def test_what_is_glimpsed_is_what_is_decoded(head, ascii_only, field):
    """Whatever is in the head and in the result: each field is the one that decoding gives, or absent as there."""
    stored = {"offset": 5, "at": 1_795_000_000_123, **head, "error": {"type": "X", "message": SAID},
              "result": {"status": 1, "text": SAID}}  # fmt: skip
    packed = json.dumps(stored, separators=(",", ":"), ensure_ascii=ascii_only).encode()
    decoded = decode("answers", 3, b"k", packed, heads=True)
    found = projection("answers", [field])(3, b"k", packed)
    if found is not None:
        assert isinstance(found, Projection)
        assert (found.get(field), type(found.get(field))) == (decoded.get(field), type(decoded.get(field)))
        assert found.whole() == decoded


def test_what_is_plain_is_glimpsed():
    """A row as they are stored is not decoded for any of these fields."""
    packed = b'{"offset":5,"at":1795000000123,"id":"r","outcome":"ok","status":200,"elapsed_ms":1.500,"result":{}}'
    found = projection("answers", FIELDS)(3, b"k", packed)
    assert found == {"at": "2026-11-18T11:06:40.123Z", "id": "r", "outcome": "ok", "status": 200, "elapsed_ms": 1.5,
                     "partition": 3}  # fmt: skip


@pytest.mark.parametrize("stored", [b"", b"{}", b'{"at":1,"offset":5,"result":1}', b'{"offset":5,"at":x,"result":1}'])
def test_what_somebody_else_wrote_is_decoded(stored):
    """A row that does not begin as ours do, or has no result, is left to decoding, which says what it is."""
    assert projection("answers", ["at"])(0, b"k", stored) is None


@pytest.mark.parametrize(("table", "fields"), [("hosts", ["bytes"]), ("answers", ["error.type"]), ("answers", ["key"])])
def test_other_fields_are_decoded(table, fields):
    """Sums, and what is not stored as it is told, cannot be glimpsed."""
    assert projection(table, fields) is None
