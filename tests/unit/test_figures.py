"""What two pages of the documentation say of the same thing, or one page twice."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows(path: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table after a heading, without its head."""
    text = (ROOT / path).read_text(encoding="utf-8").partition(heading)[2]
    table = re.search(r"^\|.*?(?=^(?!\|))", text, re.MULTILINE | re.DOTALL)
    assert table is not None, f"{path} has no table after {heading}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def test_sizing_plans_with_the_figures_that_the_readme_reports():
    """Hit, checked hit and miss: CPU, and what a core answers at most is not more than was measured."""
    measured = [re.match(r"(\d+) \(([\d,]+)\)", row[1]) for row in rows("README.md", "## How fast")]
    planned = [re.findall(r"[\d,]+", " ".join(row[1:])) for row in rows("docs/howto/sizing.md", "## CPU")]
    assert [found[1] for found in measured] == [cpu for cpu, _ in planned[:3]]
    for found, (_, rate) in zip(measured, planned, strict=False):
        assert int(rate.replace(",", "")) <= int(found[2].replace(",", ""))


def test_no_access_is_listed_twice():
    """An operator grants each row: two of the same kind, in other words, look as if they were two accesses."""
    listed = Counter(
        (who.partition(" ")[0], *sorted(re.findall("`([a-z-]+)`", resource)), operations)
        for who, resource, operations in rows("docs/security.md", "### ACLs")
        if "each route" in resource or "a route" in resource or "topic" in resource
    )
    assert [each for each, number in listed.items() if number > 1] == []
