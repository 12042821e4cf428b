from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import pytest

from agents.commands import tail

RESULT = {"id": "a", "outcome": "ok", "request": {"method": "GET", "url": "http://h/x", "source": "s"},
          "document": {"text": "x" * 200}, "elapsed_ms": 1}  # fmt: skip


def test_what_programs_read_is_one_object_a_line(capsys):
    """A result of the next release, which may have more, passes as it is; a tombstone and a foreign record do not stand
    between, in whatever form Python has for them: they are named beside.
    """
    newer = json.dumps({**RESULT, "outcome": "postponed", "more": {"new": 1.10}}, indent=1).encode()
    assert json.loads(shown("--json", value=newer)) == json.loads(newer)
    assert len(shown("--json", value=newer).splitlines()) == 1
    assert "postponed" in shown(value=newer)
    for value in (b"", b"[1]", b"\xff", b"text"):
        assert shown("--json", value=value) is None
        assert "results-0, offset 7: left out, it is no JSON object" in capsys.readouterr().err
        assert shown(value=value) == repr(value)
    assert shown(value=b'{"id":"a","outcome":"ok","checks":7}') == repr(b'{"id":"a","outcome":"ok","checks":7}')


def shown(*arguments, key=b"k", value=None, at=1_764_000_000_000, headers=()):
    parser = argparse.ArgumentParser()
    tail.add_arguments(parser)
    value = json.dumps(RESULT).encode() if value is None else value
    record = SimpleNamespace(
        key=key, value=value, timestamp=at, headers=headers, topic="results", partition=0, offset=7
    )
    options = parser.parse_args(arguments)
    return tail._shown(record, options) if tail._may_match(record, options) else None


@pytest.mark.parametrize(
    ("arguments", "asked_for"),
    [
        ([], True),
        (["--id", "b", "--id", "a"], True),
        (["--id", "b"], False),
        (["--source", "s", "--host", "h"], True),
        (["--source", "t"], False),
        (["--host", "h:80"], True),
        (["--host", "h:81"], False),
        (["--id", "a", "--outcome", "timeout"], False),
    ],
)
def test_only_what_was_asked_for_is_shown(arguments, asked_for):
    """Each kind of option narrows; of one kind, any will do."""
    assert (shown(*arguments) is not None) is asked_for
    assert (shown(*arguments, value=b"no result") is not None) is (not arguments)


def test_a_line_tells_when_and_under_which_key():
    """The record's time, its key or a dash, the id; what of the document does not fit is seen to be left out."""
    line = shown()
    assert "T" in line.split("  ")[0]
    assert line.split("  ")[1:4] == ["k", "a", "ok"]
    assert line.endswith("…")
    assert shown(key=None).split("  ")[1] == "-"
    for at in (1 << 62, -1, 1_764_000_000):  # a producer may write any time
        assert shown(at=at).startswith("unknown  k")


@pytest.mark.parametrize(
    ("arguments", "there"),
    [
        (["--since", "2025-11-24T16:00Z"], True),
        (["--since", "2025-11-24T16:00:01Z"], False),
        (["--until", "2025-11-24T16:00Z"], False),
        (["--until", "2025-11-24T16:00:01+00:00", "--since", "36500d"], True),
        (["--since", "1d"], False),
    ],
)
def test_times_choose_by_the_records_time(arguments, there):
    """From --since on, before --until; ISO 8601, or how long ago."""
    assert (shown(*arguments, at=1_764_000_000_000) is not None) is there


def test_a_result_of_another_id_is_not_even_parsed(monkeypatch):
    """Its header says whose it is: a search among many must not take a parse of each."""
    parsed = []
    monkeypatch.setattr(tail, "read_result", lambda value: parsed.append(value) or RESULT)
    assert shown("--id", "a", headers=[("ce_id", b"b")]) is None
    assert parsed == []
    assert shown("--id", "a", headers=[("ce_id", b"a")]) is not None
    assert shown("--id", "a", headers=[("other", b"b")]) is not None
    assert len(parsed) == 2


def test_a_key_may_be_any_bytes():
    """Bytes that are no UTF-8 come as Python has them in arguments, and mean themselves."""
    assert shown("--key", "\udcff", key=b"\xff") is not None
    assert shown("--key", "\udcff", key=b"\xfe") is None
