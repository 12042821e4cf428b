from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime

import pytest

from agents import commands
from agents.commands import DONE, FAILED, MISUSED, doctor, redrive, run
from agents.doctor import ok, problem
from agents.redrive.dead_letters import DeadLetters, Report
from models.dead_letter import DLQ, read_dead_letter


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T14:00Z", datetime(2026, 11, 22, 14, tzinfo=UTC).timestamp()),
        ("2026-11-22T14:00+01:00", datetime(2026, 11, 22, 13, tzinfo=UTC).timestamp()),
    ],
)
def test_a_moment_is_a_date(text, moment):
    """A date with its zone is that moment."""
    assert commands.moment(text) == moment


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604_800)])
def test_a_moment_may_be_so_long_ago(text, seconds):
    """A number with a unit is that long before now."""
    assert abs(time.time() - seconds - commands.moment(text)) < 5


@pytest.mark.parametrize("text", ["999999999d", "1914-07-28"])
def test_no_moment_is_before_kafkas_first(text):
    """What Kafka counts from is the earliest there is: it is asked for nothing before, and no calendar ends."""
    assert commands.moment(text) == 0.0


@pytest.mark.parametrize("read", [commands.moment, redrive._partition_offset, commands.positive, commands.non_negative])
@pytest.mark.parametrize("text", ["", "x", "1:", "-1", "inf", "nan", "2026-99-99"])
def test_what_is_none_is_refused_with_an_example(read, text):
    """Each kind of option says what it takes."""
    with pytest.raises(argparse.ArgumentTypeError, match="invalid "):
        read(text)


@pytest.mark.parametrize("options", [[], ["--all", "--outcome", "timeout"], ["--limit", "3"], ["--dry-run"]])
def test_a_choice_must_be_made(options, capsys):
    """Neither nothing nor everything by mistake: either a choice, or --all."""
    assert run(["redrive", *options]) == MISUSED
    assert "filter by --outcome" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--all"], "no dead letter in dead-letters\n"),
        (["--outcome", "timeout", "--host", "h:80", "--host", "i", "--until", "2026-11-22T14:00Z"],
         "no dead letter matches --outcome timeout --host h:80 --host i --until 2026-11-2"),
    ],
)  # fmt: skip
def test_nothing_found_is_said_with_the_choice(options, told, monkeypatch, capsys):
    """Whoever mistyped a host sees it: nothing was there to be redriven."""

    async def none(*_, **__):
        return Report()

    monkeypatch.setattr(DeadLetters, "redrive", none)
    assert run(["redrive", *options]) == DONE
    assert capsys.readouterr().err.startswith(told)


def test_a_letter_is_a_line_and_what_does_not_fit_is_seen_to_be_left_out():
    """The number is that of the delivery; a long message ends with an ellipsis."""
    headers = [(DLQ + "delivery.count", b"3"), (DLQ + "message", b"word " * 40)]
    line = redrive._line(read_dead_letter((1, 2), 0, None, b"{}", headers), "redriven")
    assert "  delivery 3  redriven  word word" in line
    assert line.endswith("word…")
    assert len(line.rpartition("  ")[2]) <= redrive.WIDTH


def test_a_finding_is_a_line_and_its_advice_another():
    """State, what and how it is; what to do is below; what a terminal would obey is not passed on."""
    assert doctor._line(ok("a", "fine")) == "ok       a: fine"
    assert doctor._line(problem("a", "b\x1bc", "do it")) == "problem  a: b�c\n         → do it"
    assert doctor._json(ok("a", "fine")) == '{"subject":"a","state":"ok","seen":"fine"}'


def many(count, refused=0):
    """Return a redrive that reports so many dead letters."""

    async def redriven(*_, on_result, **__):
        for offset in range(count + refused):
            headers = [(DLQ + name, b"x") for name in ("host", "source")] + [(DLQ + "outcome", b"timeout")]
            letter = read_dead_letter((0, offset), 0, None, b"{}", headers)
            on_result(letter, None if offset < count else "redriven before")
        return Report(redriven=count)

    return redriven


@pytest.mark.parametrize(("count", "lines"), [(20, 20), (21, 21), (500, 21)])
def test_many_letters_are_summed_up(count, lines, monkeypatch, capsys):
    """The first have a line each, the rest are counted by outcome, source and host; as JSON, each has its line."""
    monkeypatch.setattr(DeadLetters, "redrive", many(count))
    assert run(["redrive", "--all"]) == DONE
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == lines
    assert f"{count} redriven\n" in err
    assert (f"  {count} timeout, source x, host x\n" in err) is (count > 20)
    assert (
        run(["redrive", "--retryable", "--max-deliveries", "3", "--source", "x", "--status", "503", "--json"]) == DONE
    )
    assert len(capsys.readouterr().out.splitlines()) == count


@pytest.mark.parametrize("text", ["", "x", "99", "600", "5xx", "0503"])
def test_what_is_no_status_is_refused(text):
    """A class is none: dead letters have the status that came."""
    with pytest.raises(argparse.ArgumentTypeError, match="invalid status"):
        redrive._status(text)


def letters_of(*found):
    """Return a redrive that reports a dead letter for each id and refusal."""

    async def redriven(*_, on_result, limit, **__):
        report = Report()
        for offset, (name, refusal) in enumerate(found):
            on_result(read_dead_letter((0, offset), 0, None, b"{}", [(DLQ + "id", name.encode())]), refusal)
            report.redriven += refusal is None
            report.refused.update([refusal] if refusal else [])
        return report

    return redriven


@pytest.mark.parametrize(
    ("found", "options", "ended"),
    [
        ([("a", "redriven before"), ("a", None)], ["--id", "a"], (DONE, "1 not redriven: redriven before")),
        ([("a", "redriven before")], ["--id", "a"], (FAILED, "0 redriven")),
        ([("a", None)], ["--id", "a", "--id", "b"], (FAILED, "no dead letter of b redriven")),
        ([("a", None)], ["--id", "a", "--id", "b", "--limit", "1"], (DONE, "1 redriven")),
        ([], ["--id", "a"], (FAILED, "no dead letter matches --id a")),
    ],
)
def test_an_id_counts_as_redriven_by_any_of_its_letters(found, options, ended, monkeypatch, capsys):
    """One that failed again has a former letter, redriven before; an id of which nothing goes back fails by name."""
    monkeypatch.setattr(DeadLetters, "redrive", letters_of(*found))
    assert run(["redrive", *options]) == ended[0]
    assert ended[1] in capsys.readouterr().err


@pytest.mark.parametrize("command", ["redrive", "tail"])
def test_a_range_that_ends_before_it_begins_is_refused(command, capsys):
    """Of two ages the larger one is the earlier: mixed up, the command would report that nothing failed."""
    assert run([command, "--since", "1h", "--until", "2h"]) == MISUSED
    assert "of two ages the larger one is --since" in capsys.readouterr().err


def test_all_with_a_filter_says_what_to_leave_out(capsys):
    """Both are given: which of them was meant decides how much is redriven."""
    assert run(["redrive", "--all", "--source", "prices"]) == MISUSED
    assert "--all goes with no filter: leave it out to filter by --source prices" in capsys.readouterr().err
