"""docs/checks.md: what it says of each built-in check is what the check does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agents.testing import answer
from models import checks
from models.checks import registry

PAGE = (Path(__file__).parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
BUILT_IN = [name for name in checks.names() if checks.find(name).function.__module__.startswith("models.checks")]
URL = "http://example.org/"


def section(name):
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/checks.md says nothing of {name}"
    return found[1]


def values(text):
    """Return the JSON values that follow each other in a text."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        value, place = decoder.raw_decode(text, place)
        found.append(value)
    return found


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_example_is_true(name):
    """The document, asked as the page shows, gives the result that the page shows, time aside."""
    [block] = re.findall(r"```json\n(.*?)```", section(name), re.DOTALL)
    document, request, told = values(block)
    result = answer({"url": URL} | request, {URL: document})
    for verdict in result["checks"]:
        del verdict["elapsed_ms"]
    assert {"checks": result["checks"]} == told
    assert {each["name"] for each in told["checks"]} == {name}


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_table_of_arguments_is_the_signature(name):
    """Names, types and defaults are those by which a request is judged; without a table there are none."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| `?(\w+)`? \|$", section(name), re.MULTILINE)
    arguments = checks.find(name).signature.arguments
    assert rows == [
        (key, each.shape.one, "required" if each.required else json.dumps(each.default))
        for key, each in arguments.items()
    ]
    assert ("No arguments." in " ".join(section(name).split())) is not bool(rows)


def test_the_page_names_who_may_run_in_the_worker():
    """The sentence lists just those that say so."""
    [said] = re.findall(r"runs it\nitself\. (.*?) are such checks", PAGE, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", said)) == {name for name in BUILT_IN if registry.find(name).inline}
