"""A tally is the same however its results are cut into batches, and whatever of them is read again."""

from __future__ import annotations

import json

import pytest
from aiokafka import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from agents.tables.aggregate import OUTCOMES_AGE, Aggregator
from agents.tables.result_parser import ResultParser
from agents.tables.rows import decode, merge
from models import strictjson
from streams.tables.changelogs import TABLES
from tests.turns import allowed, least

NOW = 1_764_000_000.0
WEEK = 7 * 86_400.0


def record(offset, value, key=b"k", at=NOW):
    return ConsumerRecord("results", 0, offset, int(at * 1000), 0, key, value, None, 0, 0, ())


def result(number, outcome="ok", host="a.test", *, cache="miss", ms=1.5, checks=(), **more):
    value = {"id": f"r{number}", "outcome": outcome, "request": {"url": f"https://{host}/{number}"}}
    if outcome != "ok":
        value["error"] = {"type": "T", "message": f"m{number}", "retryable": True}
    if checks:
        value["checks"] = list(checks)
    return json.dumps(value | more | {"cache": cache, "elapsed_ms": ms}, separators=(",", ":")).encode()


class Shelf:
    """Rows in a dictionary, and a tally over them."""

    def __init__(self, limit=1 << 20):
        self.rows = {}
        self.tally = Aggregator(
            ResultParser(), lambda table, key: self.rows.get((table, key)), lambda _, size: size <= limit, WEEK
        )

    def take(self, records, now=NOW):
        self.tally.add(records, now)
        changes = list(self.tally.changes(now))
        self.rows |= {(table, key): row for table, key, row in changes}
        return changes

    def table(self, name):
        return {key: json.loads(row) for (table, key), row in self.rows.items() if table == name}


CHECKS = [
    {"name": name, **verdict}
    for name in ("p", "q")
    for verdict in ({"value": True, "elapsed_ms": 0.5}, {"error": "no", "elapsed_ms": 2.25})
]
NONSENSE = [None, b"", b"\xff", b"[]", b"{}", b'{"id":"x","elapsed_ms":1.0}', b"[" * 100_000]
good = st.builds(
    result,
    st.integers(0, 9),
    st.sampled_from(["ok", "timeout"]),
    st.sampled_from(["a.test", "b.test"]),
    cache=st.sampled_from(["hit", "miss"]),
    ms=st.sampled_from([0.1, 1.0, 2.6, 99_999.9]),
    checks=st.lists(st.sampled_from(CHECKS), max_size=3),
)
values = st.one_of(good, st.sampled_from(NONSENSE))
logs = st.lists(st.tuples(values, st.sampled_from([b"k1", b"k2", None]), st.integers(0, 100_000)), max_size=12).map(
    lambda made: [record(3 * n, value, key, NOW - ago) for n, (value, key, ago) in enumerate(made)]
)


@given(log=logs, data=st.data())
def test_a_tally_does_not_depend_on_batches_or_on_what_is_read_again(log, data):
    """Cut anywhere, with any earlier stretch read again, rows come out byte by byte as from one reading."""
    whole, cut = Shelf(), Shelf()
    whole.take(log)
    done = 0
    while done < len(log):
        again = data.draw(st.integers(0, done))
        done = data.draw(st.integers(done + 1, len(log)))
        cut.take(log[again:done])
    assert cut.rows == whole.rows
    assert cut.take(log) == []


@given(log=logs, data=st.data())
def test_rows_that_arrived_in_part_are_made_whole_by_reading_again(log, data):
    """After a crash in which some rows of a batch had arrived and others not, reading it again gives the same rows."""
    whole, half = Shelf(), Shelf()
    whole.take(log)
    changes = half.take(log)
    lost = data.draw(st.sets(st.sampled_from(range(len(changes))))) if changes else set()
    for number in lost:
        del half.rows[changes[number][:2]]
    half.take(log)
    assert half.rows == whole.rows


def test_a_source_apart_has_a_row_of_its_own_among_the_hosts():
    """What a gateway does for one API is not counted with what it does for another, and a function has a row, too."""
    shelf = Shelf()
    shelf.tally = Aggregator(
        ResultParser(frozenset({"prices", "words"})), lambda table, key: shelf.rows.get((table, key)),
        lambda *_: True, WEEK,
    )  # fmt: skip
    url = "https://a.test/prices/1"
    shelf.take([
        record(0, result(0), b"k0"),
        record(1, result(1, "timeout", request={"source": "prices", "url": url}), b"k1"),
        record(2, result(2, request={"source": "stock", "url": url}), b"k2"),
        record(3, result(3, request={"source": "words"}), b"k3"),
    ])  # fmt: skip
    rows = [decode("hosts", 0, key, shelf.rows["hosts", key], False) for key in sorted(shelf.table("hosts"))]
    assert [(row["host"], row.get("source"), row["answers"], "last_error" in row) for row in rows] == [
        ("a.test:443", None, {"ok": 2}, False),
        ("a.test:443 (prices)", "prices", {"timeout": 1}, True),
        ("source words", "words", {"ok": 1}, False),
    ]
    [whole] = {json.dumps(merge("hosts", [row, row]), sort_keys=True) for row in rows[1:2]}
    assert json.loads(whole)["source"] == "prices"
    assert json.loads(shelf.rows["answers", b"k1"])["host"] == "a.test:443"


def test_rows_say_what_was_counted():
    """Each table's row has the fields of the contract."""
    shelf = Shelf()
    check = {"name": "is_prime", "field": "n", "value": True, "elapsed_ms": 0.4}
    shelf.take([
        record(0, result(0, checks=[check, check], status=200, fetched_at="t", attempts=1, document={"n": 7}), b"\xff"),
        record(1, result(1, "timeout", cache="bypass", ms=31_000.0), None),
    ])  # fmt: skip
    rows = {(table, key): decode(table, 3, key, row, False) for (table, key), row in shelf.rows.items()}
    answer = rows["answers", b"\xff"]
    assert answer["key_base64"] == "/w=="
    assert answer["result"]["document"] == {"n": 7}
    kept = {
        name: answer[name] for name in ("keyed", "id", "outcome", "cache", "status", "host", "attempts", "partition")
    }
    assert kept == {"keyed": True, "id": "r0", "outcome": "ok", "cache": "miss", "status": 200, "host": "a.test:443",
                    "attempts": 1, "partition": 3}  # fmt: skip
    failed = rows["answers", b"r1"]
    assert (failed["key"], failed["keyed"], failed["error"]["message"]) == ("r1", False, "m1")
    host = rows["hosts", b"a.test:443"]
    assert host["answers"] == {"ok": 1, "timeout": 1}
    assert host["cache"] == {"miss": 1, "bypass": 1}
    assert host["latency"]["sum"] == 31.0015
    assert (host["latency"]["counts"][1], host["latency"]["counts"][-1]) == (1, 1)
    error = {"id": "r1", "outcome": "timeout", "message": "m1", "at": "2025-11-24T16:00:00.000Z"}
    assert host["last_error"] == error
    assert rows["outcomes", b"2025-11-24T16:00Z"]["answers"] == {"ok": 1, "timeout": 1}
    assert rows["checks", b"is_prime"] == {
        "name": "is_prime", "runs": 2, "failures": 0, "seconds": 0.0008, "slowest_ms": 0.4,
        "last_seen": "2025-11-24T16:00:00.000Z",
    }  # fmt: skip
    for table in TABLES:
        [some, *_] = [row for (name, _), row in rows.items() if name == table]
        assert merge(table, [some]) == some


def test_an_answer_too_large_keeps_its_head():
    """A row that its changelog would refuse goes without the result, and says so."""
    shelf = Shelf(limit=500)
    shelf.take([record(0, result(0, document="x" * 1000))])
    row = decode("answers", 0, b"k", shelf.rows["answers", b"k"], False)
    assert row["truncated"] is True
    assert (row["id"], row["outcome"], "result" in row) == ("r0", "ok", False)
    assert row["bytes"] > 1000


def test_heads_leave_out_the_result():
    """Asked for heads, an answer comes without its result, also where the result speaks of results."""
    shelf = Shelf()
    shelf.take([record(0, result(0, document={"result": ',"result":'}))])
    stored = shelf.rows["answers", b"k"]
    head, whole = (decode("answers", 0, b"k", stored, heads) for heads in (True, False))
    assert "result" not in head
    assert head == {name: value for name, value in whole.items() if name != "result"}


def test_what_is_too_old_is_not_counted():
    """An answer of last week is no row, and a minute of yesterday is over; hosts count on."""
    shelf = Shelf()
    shelf.take([record(0, result(0), at=NOW - WEEK - 1), record(1, result(1), b"l", at=NOW - OUTCOMES_AGE - 61)])
    assert shelf.table("outcomes") == {}
    assert list(shelf.table("answers")) == [b"l"]
    assert shelf.table("hosts")[b"a.test:443"]["answers"] == {"ok": 2}


@pytest.mark.parametrize("at", [-0.001, 0, NOW / 1000, NOW * 1000, 1 << 52])
def test_timestamps_may_be_nonsense(at):
    """A record without a time, or one in seconds or microseconds, is counted where time does not matter, as of now."""
    shelf = Shelf()
    shelf.take([record(0, result(0), at=at)])
    assert shelf.table("outcomes") == {}
    assert shelf.table("answers")[b"k"]["at"] == shelf.table("hosts")[b"a.test:443"]["at"] == NOW * 1000
    assert shelf.table("hosts")[b"a.test:443"]["answers"] == {"ok": 1}


FOREIGN = b'{"offset":9,"at":1,"answers":{"ok":"x"},"cache":{},"counts":[],"micros":0,"bytes":0}'


@pytest.mark.parametrize("stored", [b"[1]", b"\xff", b'{"offset":9}', b"[" * 100_000, FOREIGN])
def test_a_row_that_others_wrote_is_begun_anew(stored):
    """A counted row on the changelog that is none of ours does not end the worker."""
    shelf = Shelf()
    shelf.rows["hosts", b"a.test:443"] = stored
    shelf.take([record(10, result(0))])
    assert shelf.table("hosts")[b"a.test:443"]["answers"] == {"ok": 1}
    assert decode("hosts", 0, b"h", stored, False).get("unreadable") is True


HOSTILE = [
    b'{"id":"x","outcome":"ok","request":{"url":"http://[::1"},"cache":"hit","elapsed_ms":1.0}',
    b'{"id":"x","outcome":"ok","request":{"url":"http://a\\ud800/"},"elapsed_ms":1.0}',
    b'{"id":"x","outcome":"ok","request":{"url":7},"status":' + b"9" * 4000 + b',"elapsed_ms":1e400}',
    b'{"id":"x","outcome":"ok","checks":[{"name":"\\ud800","elapsed_ms":-1},{"name":[]},7],"cache":"miss","elapsed_ms":1.0}',
    b'{"id":"\\ud800","outcome":"timeout","error":"no","elapsed_ms":null}',
    b'{ "id" : "spaced" , "outcome" : "ok" , "cache" : "nonsense" , "elapsed_ms" : true }',
    b'{"id":"x","outcome":"timeout","request":{"url":"http://a/"},"error":{"message":"cut \\ud83d"},"elapsed_ms":1.0}',
    b'{"id":"x","outcome":"ok","document":"cut \\ud83d","cache":"hit","elapsed_ms":1.0}',
    b'{"id":"x","outcome":"ok","error":{"message":{}},"request":[],"checks":{},"elapsed_ms":99999999999999999999}',
]


def test_no_more_checks_are_counted_than_a_request_has():
    """Of a result that somebody else wrote, with a hundred thousand checks, the first sixty-four make rows."""
    shelf = Shelf()
    shelf.take([record(0, result(0, checks=[{"name": f"c{n}"} for n in range(1_000)]))])
    assert len([key for table, key in shelf.rows if table == "checks"]) == 64


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("key", [b"", None, b"\xff", b"k"])
def test_hostile_results_are_counted_and_hurt_nobody(value, key):
    """Results that are valid but hostile are rows like others, and every row can be read back."""
    shelf = Shelf()
    shelf.take([record(0, value, key)])
    assert shelf.tally.unreadable == 0
    for (table, row_key), row in shelf.rows.items():
        read = decode(table, 0, row_key, row, False)
        assert "unreadable" not in read
        strictjson.dumps(read, exact=True)  # as the pages and other workers will have it


@pytest.mark.parametrize("value", [
    b'{"id":"x","outcome":"ok","document":{"a":1,"cache":"hit","elapsed_ms":1.0}',
    b'{"id":"x","outcome":"ok","document":"\xff","elapsed_ms":1.0}',
    b'{"id":"x","outcome":"ok","document":NaN,"elapsed_ms":1.0}',
    b'{"id":"x","outcome":"bribed","elapsed_ms":1.0}',
    b'{"id":"x","elapsed_ms":1.0}', b'{"id":"","outcome":"ok"}', b'{"id":7,"outcome":"ok"}', b'{"id":"x","outcome":[]}',
    b'{"id":"' + b"x" * 600 + b'","outcome":"ok"}', b'{"id":"x","outcome":"ok","document":' + b"1" * 5000 + b"}",
    b'{"id":"x","outcome":"ok","document":' + b"[" * 90 + b"]" * 90 + b',"elapsed_ms":1.0}',
])  # fmt: skip
def test_what_is_no_result_is_counted_as_such(value):
    """Bytes that are no result make no row, nor are they taken for one because they begin and end like one."""
    shelf = Shelf()
    assert shelf.take([record(0, value)]) == []
    assert shelf.tally.unreadable == 1


def test_reading_a_memorised_part_is_the_same_as_reading_it_first():
    """The second of two results with the same shared part is read from memory, and says the same."""
    reader = ResultParser()
    first, second = reader.parse(result(1, document={"n": 1})), reader.parse(result(1, document={"n": 1}))
    assert first == second
    assert second.shared is first.shared


def test_the_memory_of_shared_parts_is_bounded(monkeypatch):
    """However many different results there are, what is remembered of them stays within its bounds."""
    monkeypatch.setattr("agents.tables.result_parser.MEMO_ENTRIES", 10)
    reader = ResultParser()
    for number in range(100):
        reader.parse(result(number))
        assert len(reader._shared) <= 10


def large_result(document, checks=b"", error=b""):
    return (
        b'{"id":"a","outcome":"ok","request":{"method":"GET","url":"http://h/"},"status":200,"document":%b%b'
        b',"attempts":2,"fetched_at":"2026-11-29T10:00:00.000Z"%b,"cache":"miss","elapsed_ms":1.5}'
        % (document, checks, error)
    )


NESTED = b'{"x":",\\"checks\\":[","y":{"z":0,"checks":[{"name":"no","elapsed_ms":1}],"attempts":9,"document":1}}'


@pytest.mark.parametrize(
    ("checks", "names"),
    [
        (b"", []),
        (b',"checks":[]', []),
        (b',"checks":[{"name":"a","value":true,"elapsed_ms":1.5},{"name":"b","error":"x","elapsed_ms":2}]', ["a", "b"]),
        (b',"checks":[{"name":"a","value":{"k":1,"checks":[1]},"elapsed_ms":1.5}]', ["a"]),
    ],
)
@pytest.mark.parametrize("tail", [b"", b',"error":{"type":"CheckError","message":"m","retryable":false}'])
def test_a_large_result_is_read_around_its_document(checks, names, tail):
    """What is counted of it is what reading all of it would give, whatever the document holds, in a moment."""
    document = b'{"a":[' + b"[]," * 300_000 + NESTED + b"]}"
    large = large_result(document, checks, tail)
    assert least(lambda: ResultParser().parse(large)) < allowed()
    found = ResultParser().parse(large)
    assert found == ResultParser().parse(large_result(NESTED, checks, tail))
    assert [run.name for run in found.shared.checks] == names
    assert (found.cache, found.micros) == ("miss", 1_500)
