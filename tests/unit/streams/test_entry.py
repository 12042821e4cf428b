"""Entries as they are kept and written: what comes back is what was written, and nothing else is taken for one."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import strictjson
from models.checks import Call, CheckOutcome
from models.errors import CheckError, UpstreamError
from models.request import Request
from models.result import (
    Answer,
    encode_answer,
    encode_check_result,
    read_result,
    restamp,
    splice,
    with_check_results,
)
from models.result_schema import ResultSchema
from streams.cache.check_results import CheckResult, CheckResults
from streams.cache.entry import (
    MAX_SKEW,
    REFRESH_SHARE,
    REVALIDATE_WITHIN,
    VERSION,
    Entry,
    decode_entry,
    encode_entry,
    failed_entry,
    fresh_entry,
)
from streams.cache.freshness import Freshness

NOW = 1_800_000_000.0
KEY = b"00000000-4a6965d8262a22b0-6e6afc0a1b25d888fe66ebcb4e164395f168fc1e"
TAIL = b',"attempts":1,"fetched_at":"2023-11-14T22:13:20.250Z"'
SHARED = encode_answer(
    Request(url="http://a/"), Answer("ok", 200, {"n": 7}, has_document=True, attempts=1, fetched_at=NOW)
)
ENTRY = fresh_entry(SHARED, NOW, Freshness(60.0, 30.0, 300.0), headers={"ETag": '"1"', "Last-Modified": "then"})
SAID = CheckResult(encode_check_result(Call("is_prime", "n"), CheckOutcome(True, elapsed=0.1)))
TIMES = ("as_of", "refresh_at", "fresh_until", "revalidate_until", "usable_until")


def written(shared=SHARED, **changes):
    """Write an entry with another head, or other bytes."""
    head = json.loads(encode_entry(KEY, ENTRY).partition(b"\n")[0]) | changes
    return json.dumps({name: value for name, value in head.items() if value is not ...}).encode() + b"\n" + shared


def test_times_follow_from_the_fetch():
    """An answer is fresh, then served while it is fetched anew, then instead of a failure; each from its freshness."""
    assert (ENTRY.as_of, ENTRY.fresh_until) == (NOW, NOW + 60)
    assert ENTRY.refresh_at == NOW + 60 - 60 * REFRESH_SHARE
    assert (ENTRY.revalidate_until, ENTRY.usable_until) == (NOW + 90, NOW + 360)
    assert fresh_entry(SHARED, NOW, Freshness(60.0, 0.0, 0.0), refresh_ahead=False).refresh_at == NOW + 60


@pytest.mark.parametrize(
    ("freshness", "last"), [((60.0, 0.0, 0.0), 60), ((60.0, 30.0, 5.0), 90), ((60.0, 30.0, 300.0), 360)]
)
def test_an_entry_is_kept_as_long_as_it_is_of_use(freshness, last):
    """With a validator it is of use for another hour."""
    assert fresh_entry(SHARED, NOW, Freshness(*freshness)).keep_until == NOW + last
    for validator in ({"ETag": '"1"'}, {"Last-Modified": "then"}):
        entry = fresh_entry(SHARED, NOW, Freshness(*freshness), headers=validator)
        assert entry.keep_until == NOW + last + REVALIDATE_WITHIN


def test_a_failure_lasts_as_long_as_it_is_told_and_is_never_asked_about():
    """It is a hit until then, has no last part in which it is fetched anew, and stands in for nothing."""
    error = UpstreamError("no", 503)
    entry = failed_entry(b'"outcome":"x"', NOW, 5.0, error)
    assert entry == Entry(b'"outcome":"x"', NOW, NOW + 5, error, NOW + 5, asked_at=NOW)
    assert (entry.keep_until, entry.validators()) == (NOW + 5, {})


def test_validators_are_the_headers_that_ask():
    """RFC 9110, section 13.1; a validator that is not there asks nothing."""
    assert ENTRY.validators() == {"If-None-Match": '"1"', "If-Modified-Since": "then"}
    assert ENTRY._replace(etag=None).validators() == {"If-Modified-Since": "then"}
    assert ENTRY._replace(etag="", last_modified=None).validators() == {}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
MEMBER_NAMES = st.sampled_from(["attempts", "fetched_at", "id", "a\nb"]) | st.text(max_size=5)
DOCUMENTS = st.recursive(
    SCALARS | st.sampled_from([TAIL.decode(), "\n", '","attempts":1']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBER_NAMES, inner, max_size=3),
    max_leaves=6,
)
VALIDATORS = st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


VERDICTS = st.dictionaries(
    st.text("0123456789abcdef", max_size=40),
    st.builds(
        lambda field, value, elapsed: CheckResult(
            encode_check_result(Call("x", field), CheckOutcome(value, elapsed=elapsed))
        ),
        st.none() | st.text(max_size=5), DOCUMENTS, st.floats(0, 10),
    ),
    max_size=4,
)  # fmt: skip


@settings(deadline=None)
@given(
    DOCUMENTS,
    st.floats(1e9, 4e9),
    st.tuples(*[st.floats(0, 1e6)] * 3),
    st.booleans(),
    VALIDATORS,
    VALIDATORS,
    VERDICTS,
)
def test_what_was_written_is_read(  # noqa: PLR0917  what an entry is made of
    document, fetched_at, windows, ahead, etag, last_modified, said
):
    """Whatever document and verdicts hold, the entry comes back as it was, but for what one worker alone knows."""
    answer = Answer("ok", 200, document, has_document=True, attempts=3, fetched_at=fetched_at)
    shared = encode_answer(Request(url="http://a/"), answer)
    given = {"ETag": etag, "Last-Modified": last_modified, "Cache-Control": "max-age=5", "Expires": "0"}
    entry = fresh_entry(
        shared, fetched_at, Freshness(*windows), refresh_ahead=ahead, asked_at=fetched_at - 1,
        verdicts=CheckResults(said),
        headers={name: value for name, value in given.items() if value is not None},
    )  # fmt: skip
    failed = CheckResult(b'{"name":"x","error":"boom","elapsed_ms":0.0}', CheckError("boom"), fetched_at + 5)
    known = entry._replace(ask_after=9.0, check_results=CheckResults({**said, "failed": failed}))
    assert decode_entry(KEY, encode_entry(KEY, known), fetched_at) == entry


def test_an_entry_goes_to_no_other_key():
    """Bytes that lie under another key, or say so, are not read."""
    other = KEY[:-1] + b"0"
    assert decode_entry(KEY, encode_entry(KEY, ENTRY), NOW) == ENTRY
    assert decode_entry(other, encode_entry(KEY, ENTRY), NOW) is None
    assert decode_entry(KEY, encode_entry(other, ENTRY), NOW) is None


ODD_VERDICTS = (
    ..., None, [], {"a": None}, {"a": [1]}, {"a": {"name": "x", "value": 1}},
    {"a": {"name": "x", "error": "boom", "elapsed_ms": 1}}, {"a": {"name": "x", "value": 1, "elapsed_ms": 1, "id": 2}},
    {"a": {"name": "x", "value": math.nan, "elapsed_ms": 1}}, {"a": {"name": "x", "value": 1, "elapsed_ms": math.inf}},
)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"version": VERSION + 1},
        {"version": str(VERSION)},
        {"version": ...},
        {"key": ...},
        {"key": None},
        {"key": KEY.decode().upper()},
        {"etag": 7},
        {"etag": ["x"]},
        {"etag": 'a"\r\nHost: evil'},
        {"etag": "\u00e4"},
        {"etag": ...},
        {"last_modified": "\x00"},
        {"last_modified": True},
        {"as_of": NOW + MAX_SKEW + 1},
        *({"verdicts": verdicts} for verdicts in ODD_VERDICTS),
        *({name: value} for name in TIMES for value in (math.nan, math.inf, -math.inf, None, [], "soon", ...)),
    ],
    ids=str,
)
def test_a_head_that_is_none_is_not_read(changes):
    """Another version or key, what cannot be a header, times that are none, and verdicts that no result takes."""
    assert decode_entry(KEY, written(**changes), NOW) is None


@pytest.mark.parametrize("name", TIMES)
def test_a_time_too_large_for_a_float_is_not_read(name):
    """Whatever a lower tier holds, reading it raises nothing."""
    assert decode_entry(KEY, written(**{name: 10**400}), NOW) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"refresh_at": NOW + 61},
        {"refresh_at": NOW - 1},
        {"fresh_until": NOW + 1e300},
        {"revalidate_until": NOW + 59},
        {"usable_until": NOW + 59},
        {"as_of": NOW + 50},
    ],
)
def test_times_that_no_entry_has_are_not_read(changes):
    """They follow each other: an entry that would be a hit beyond its freshness is none of ours."""
    assert decode_entry(KEY, written(**changes), NOW) is None


def test_a_clock_that_is_a_little_ahead_is_believed():
    """Workers' clocks differ."""
    ahead = fresh_entry(SHARED, NOW + MAX_SKEW, Freshness(60.0, 0.0, 0.0))
    assert decode_entry(KEY, encode_entry(KEY, ahead), NOW) == ahead


@pytest.mark.parametrize(
    "shared",
    [
        b"",
        SHARED + b",",
        SHARED + b"}",
        b"{" + SHARED + b"}",
        SHARED[:-1],
        SHARED + b" ",
        b'"outcome":"ok"',
        b'"outcome":"upstream_error"' + TAIL,
        b'"status":200' + TAIL,
        b'"outcome":"ok","id":"other"' + TAIL,
        b'"outcome":"ok","cache":"hit"' + TAIL,
        b'"outcome":"ok","age":1.0' + TAIL,
        b'"outcome":"ok","elapsed_ms":1.0' + TAIL,
        b'"outcome":"ok","\\u0069d":"other"' + TAIL,
        b'"outcome":"ok","surprise":1' + TAIL,
        b'"outcome":"ok","outcome":"ok"' + TAIL,
        b'"outcome":"ok","document":{"a":1,"a":2}' + TAIL,
        b'"outcome":"ok","document":NaN' + TAIL,
        b'"outcome":"ok","document":1e999' + TAIL,
        b'"outcome":"ok","document":"\\ud800"' + TAIL,
        b'"outcome":"ok","document":"\xff"' + TAIL,
        b'"outcome":"ok","status":"200"' + TAIL,
        b'"outcome":"ok","request":[]' + TAIL,
        b'"outcome":"ok","checks":[]' + TAIL,
        b'"status":200,"outcome":"ok"' + TAIL,
        b'"outcome":"ok","error":{"type":"A","message":"b","retryable":true}' + TAIL,
        b'"outcome":"ok","document":1},{"outcome":"ok"' + TAIL,
        b'"outcome":"ok","document":{"a":1' + TAIL + b"}",
        b'"outcome":"ok","document":' + b"[" * 100 + b"]" * 100 + TAIL,
        b'"outcome":"ok"' + TAIL.replace(b'"2023', b'"2023\\n'),
        b'"outcome":"ok"' + TAIL.replace(b":1,", b":-1,"),
        b'"outcome":"ok"' + TAIL.replace(b":1,", b":01,"),
        TAIL,
        TAIL[1:],
    ],
)
def test_an_answer_that_would_break_a_result_is_not_read(shared):
    """Only the shared part of an `ok` result is taken: no member of a request's own, none twice, none that is odd."""
    assert decode_entry(KEY, written(shared), NOW) is None


@pytest.mark.parametrize("member", [b'"request":{"url":1}', b'"request":{"x":1}', b'"status":true', b'"status":2.5'])
def test_an_answer_that_no_reader_takes_is_not_read(member):
    """What our own schema of results refuses does not go into a result."""
    assert decode_entry(KEY, written(b'"outcome":"ok",' + member + TAIL), NOW) is None


def taken(entry):
    """Assert that an entry makes one whole result, as it is, revalidated, and with each of its verdicts."""
    assert entry.check_results is not None
    said = [each.encoded for each in entry.check_results._results.values()]
    judged = [with_check_results(entry.shared, b"%b,%b" % (each, each), None) for each in said]
    for shared in (entry.shared, restamp(entry.shared, 2, NOW), *judged):
        members = read_result(splice(b'"mine"', shared, b"hit", 1.0, 0.001))
        assert (members["id"], members["outcome"], members["cache"], members["age"]) == ("mine", "ok", "hit", 1.0)
        assert not ResultSchema().validate(members)
    assert all(map(math.isfinite, entry[1:3] + entry[4:7]))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda junk: written() + junk) | st.binary().map(written))
def test_any_bytes_are_an_entry_or_none(content):
    """Nothing is raised, and what is read makes a whole result."""
    entry = decode_entry(KEY, content, NOW)
    if entry is not None:
        taken(entry)


@settings(deadline=None, max_examples=600)
@given(st.data())
def test_a_damaged_entry_is_an_entry_or_none(data):
    """Bytes changed, cut out or put in anywhere: nothing is raised, and what is still read makes a whole result."""
    content = bytearray(encode_entry(KEY, ENTRY._replace(check_results=CheckResults({"a": SAID, "b": SAID}))))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        piece = data.draw(st.binary(max_size=3) | st.sampled_from([b"9" * 30, b'"', b"}", b",", b"\n", b"e", TAIL]))
        content[start : start + data.draw(st.integers(0, 3))] = piece
    entry = decode_entry(KEY, bytes(content), NOW)
    if entry is not None:
        taken(entry)


MEMBERS = st.dictionaries(st.sampled_from(list(ResultSchema().fields)), DOCUMENTS, max_size=6)


@settings(deadline=None, max_examples=300)
@given(MEMBERS, st.booleans())
def test_any_members_are_an_answer_or_none(members, proper):
    """An answer of any members, with a proper tail or without, makes a whole result or is not read."""
    if proper:
        members = members | {"outcome": "ok"}
        members.pop("attempts", None), members.pop("fetched_at", None)
    entry = decode_entry(KEY, written(strictjson.dumps(members)[1:-1] + (TAIL if proper else b"")), NOW)
    if entry is not None:
        taken(entry)
