"""What README.md and docs/ show besides blocks of commands, which tests/integration/test_docs.py runs: a request and
its result, sources, code, and commands within a sentence.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from agents import commands
from agents.testing import answer
from streams.sources import parse

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
IN_SENTENCES = sorted({(text, page) for page, whole in PAGES.items()
                       for text in re.findall(r"`millrace( [^`]+)`", whole.replace("\n", " "))})  # fmt: skip
TIMES = ("age", "elapsed_ms", "fetched_at")
EXAMPLE_TOKEN = "a-token-of-an-example"


def blocks(page, language):
    """Return the blocks of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def test_the_first_request_has_the_result_below_it():
    """The README's request, asked of an upstream with the document shown, ends as shown but for the times."""
    request, result = map(json.loads, blocks("README.md", "json"))
    found = answer(request, {request["url"]: result["document"]})
    for each in (found, result, *found["checks"], *result["checks"]):
        for name in TIMES:
            each.pop(name, None)
    assert found == result


def test_the_sources_shown_are_valid(monkeypatch):
    """What a reader copies from the page is read without a problem."""
    monkeypatch.setenv("QUOTES_TOKEN", EXAMPLE_TOKEN)
    [text] = blocks("requests.md", "toml")
    sources, problems = parse(text.encode())
    assert (list(sources.by_name), problems) == (["quotes"], [])


def test_the_code_shown_runs():
    """The functions of the page are measured as it says."""
    [text] = blocks("telemetry.md", "python")
    names = {}
    exec(compile(f"import logging\n{text}", "telemetry.md", "exec"), names)
    assert names["load"].__wrapped__
    assert names["reindex"].__wrapped__


@pytest.mark.parametrize(("text", "page"), IN_SENTENCES)
def test_a_command_in_a_sentence_has_options_that_exist(text, page, monkeypatch):
    """It is parsed, with words in capitals in the places of values; what it does is tested elsewhere."""
    name, *arguments = shlex.split(text.partition(" > ")[0])
    if name.startswith("-"):
        return
    module = importlib.import_module(f"agents.commands.{name}")
    parsed = []
    monkeypatch.setattr(module, "run", lambda options: parsed.append(options) or commands.DONE)
    assert commands.run([name, *arguments]) == commands.DONE, page
    assert parsed


def test_the_routes_shown_are_valid_and_do_what_the_page_says(monkeypatch, tmp_path):
    """Each block of sources.toml, also all in one file; and the test at the end of the page passes as it stands."""
    monkeypatch.setenv("HOOK_TOKEN", EXAMPLE_TOKEN)
    texts = blocks("routes.md", "toml")
    sources, problems = parse("\n".join(texts).encode())
    assert (list(sources.routes), problems) == (["orders", "customers", "webhook"], [])
    (tmp_path / "sources.toml").write_text(texts[0])
    monkeypatch.chdir(tmp_path)
    [code] = blocks("routes.md", "python")
    names = {}
    exec(compile(code, "routes.md", "exec"), names)
    names["test_an_order_gets_its_risk"]()


def test_the_route_shown_can_be_tried(monkeypatch, tmp_path, capsys):
    """`millrace routes try` says what it would request for the page's record."""
    (tmp_path / "sources.toml").write_text(blocks("routes.md", "toml")[0])
    (tmp_path / "order.json").write_text(re.findall(r"An order `([^`]+)`", PAGES["routes.md"])[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILLRACE_SOURCES", "sources.toml")
    assert commands.run(["routes", "try", "orders", "order.json", "--dry-run"]) == commands.DONE
    asked = re.findall(r"url=(\S+)", capsys.readouterr().out)
    assert asked == [
        "https://risk.example.com/customers/c7",
        "https://prices.example.com/a",
        "https://prices.example.com/b",
    ]


async def test_the_batch_shown_takes_one_call(monkeypatch, tmp_path):
    """The source of the page is read without a problem, and the test below it passes as it stands."""
    (tmp_path / "sources.toml").write_text(blocks("sources.md", "toml")[0])
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(blocks("sources.md", "python")[0], "sources.md", "exec"), names)
    await names["test_two_prices_take_one_call"]()


def test_the_pages_shown_are_valid():
    """Each of the four ways is read without a problem, and is what its comment says."""
    sources, problems = parse(blocks("sources.md", "toml")[1].encode())
    assert problems == []
    assert [each.pages.counts for each in sources.by_name.values()] == [False, False, False, True]
