"""docs/cache.md says what the code does: its tables are read, and what they claim is tried."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from multidict import CIMultiDict

from agents.answer.enrich import UNSHARED
from models.source import MAX_STALE, NEGATIVE_TTL, CachePolicy
from streams.cache.changes import CLOCK_SLACK
from streams.cache.entry import REVALIDATE_WITHIN
from streams.cache.freshness import HEURISTIC, MAX_SECONDS, UNDERSTOOD, UNKEYED, Head, freshness

PAGE = (Path(__file__).parents[2] / "docs" / "cache.md").read_text()
ROWS = {
    row[0]: row[1:] for line in PAGE.splitlines() if (row := [cell.strip() for cell in line.strip("|").split("|")])[1:]
}
NOW = 1_800_000_000.0
STALE = (0.0, MAX_STALE)


def seen(*lines: str, status: int = 200) -> tuple[float, float] | None:
    """Return for how long an answer with these header lines is fresh and may stand in for a failure."""
    headers = CIMultiDict(tuple(line.split(": ", 1)) for line in lines)  # type: ignore[misc]  # pairs, all of them
    found = freshness([Head(status, headers)], CachePolicy(), NOW)
    return found and (found.fresh, found.if_error)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("`max-age=-1`", STALE),
        ('`max-age="60"`', (60.0, MAX_STALE)),
        ("`no-store`", None),
        ("`private`", None),
        ("`no-cache`", (0.0, 0.0)),
        ("`must-revalidate`", (60.0, 0.0)),
        ("`immutable`", (60.0, MAX_STALE)),
        ("`Vary: *`", None),
    ],
)
def test_what_an_answer_says_means_what_the_page_says(row: str, expected: tuple[float, float] | None) -> None:
    """Every example of a row is tried; words that are none in code marks are passed over."""
    (cell,) = [each for each in ROWS if each == row or each.startswith(f"{row},")]
    tried = 0
    for example in re.findall(r"`([^`]+)`", cell):
        if example == "Expires":
            continue
        line = example if ": " in example else f"Cache-Control: {example}"
        assert seen(line) == expected, example
        tried += 1
    assert tried


def test_numbers_and_names_of_the_page_are_those_of_the_code() -> None:
    """Statuses, keys left out, and every time that has a name."""
    by_default = next(cell for cell in ROWS if cell.startswith("200, "))
    assert {int(status) for status in by_default.split(", ")} == HEURISTIC
    understood = next(said[0] for cell, said in ROWS.items() if "must-understand" in cell)
    assert {int(status) for status in re.findall(r"\d{3}", understood)} == UNDERSTOOD - HEURISTIC
    unkeyed = re.search(r"but for (.*?)\. Only", PAGE, re.DOTALL)
    assert unkeyed is not None
    assert {name.lower() for name in re.findall(r"`([^`]+)`", unkeyed[1])} == UNKEYED
    policy = CachePolicy()
    assert ROWS["nothing"][0].startswith(f"fresh for {policy.ttl:g} s")
    assert f"then {MAX_STALE:g} s instead of a failure" in ROWS["nothing"][0]
    assert f"a number beyond {MAX_SECONDS}" in ROWS
    assert f"({NEGATIVE_TTL:g} s; 0: not at all)" in ROWS["a failure that says nothing"][0]
    assert f"less than {CLOCK_SLACK:g} s after it" in PAGE
    assert f"for the next {UNSHARED:g} s nobody waits" in PAGE
    assert (REVALIDATE_WITHIN, "kept an hour longer" in PAGE) == (3600.0, True)


def test_the_page_is_found() -> None:
    """From where requests are described, and every setting and option that it names is one."""
    docs = Path(__file__).parents[2] / "docs"
    assert "(cache.md)" in (docs / "requests.md").read_text()
    settings = (docs / "configuration.md").read_text()
    assert all(name in settings for name in re.findall(r"MILLRACE_\w+", PAGE))
