from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
LOUD = {"warning", "error", "exception", "critical"}
LOUD_LEVELS = {"WARNING", "ERROR", "CRITICAL"}
PLACEHOLDER = re.compile(r"%[-0-9.]*[a-z]")
MADE_ELSEWHERE = {
    "agents/answer/app.py",  # what differs between requests and results: streams/kafka/topics.py
    "agents/commands/worker.py",  # unknown settings; the reason of the exit
    "agents/tables/app.py",  # what the tables lack
    "streams/tables/changelogs.py",  # what the broker refuses
    "streams/tasks.py",  # which task has ended
}
"""Modules with a line that is nothing but a text made elsewhere."""
SPELLED_OUT = {
    "NAME is not a setting: did you mean OTHER?",
    "NAME is not a setting and has no effect",
    "topic 'NAME': the broker refuses to create or enlarge it: REASON",
    "TASK has ended: REASON; without it MEANING; the worker ends",
}
"""Entries of such texts, which no line of the source has in this form."""


def logged(tree):
    """Yield the message of each call that logs at WARNING or above: `logger.warning(…)`, or one that gets a level."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        levels = [arg.attr for arg in call.args if isinstance(arg, ast.Attribute)]
        texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        owner = call.func.value
        by_logger = call.func.attr in LOUD and "log" in getattr(owner, "id", getattr(owner, "attr", "")).lower()
        if texts and (by_logger or LOUD_LEVELS.intersection(levels)):
            yield texts[0]


def lines_of_the_source():
    """Return module and message of every line that a worker logs at WARNING or above."""
    return [(str(path.relative_to(ROOT)), text)
            for package in ("agents", "streams") for path in sorted((ROOT / package).rglob("*.py"))
            for text in logged(ast.parse(path.read_text(encoding="utf-8")))]  # fmt: skip


def pattern_of(text):
    """Return what matches a message with words in the places of its values, whole or up to a colon or semicolon."""
    ends = [*(found.start() for found in re.finditer("[:;] ", text)), len(text)]
    begins = [text[:end] for end in ends if PLACEHOLDER.sub("", text[:end])]
    return re.compile("|".join("(.+)".join(map(re.escape, PLACEHOLDER.split(begin))) for begin in begins))


def test_every_alert_is_in_the_runbook():
    """Whoever is woken by an alert finds its name there; one that is no more is not in it."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/millrace.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    told = re.findall(r"^\*(Millrace.*)\*$", RUNBOOK, re.MULTILINE)
    assert {name for line in told for name in line.split(", ")} == alerts


def test_every_warning_of_the_log_is_in_the_runbook():
    """Each line at WARNING or above has an entry with its text, what it means and what to do; no entry is left over."""
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \| (.+) \|$", RUNBOOK, re.MULTILINE)
    entries = {text for text, _, _ in rows}
    lines = lines_of_the_source()
    assert {module for module, text in lines if not PLACEHOLDER.sub("", text)} == MADE_ELSEWHERE
    patterns = {text: (module, pattern_of(text)) for module, text in lines if PLACEHOLDER.sub("", text)}
    missing = [f"{module}: {text}" for text, (module, pattern) in patterns.items()
               if not any(pattern.fullmatch(entry) for entry in entries)]  # fmt: skip
    assert missing == [], "docs/runbook.md lacks an entry: | `text` | what it means for requests | what to do |"
    left_over = [entry for entry in entries - SPELLED_OUT
                 if not any(pattern.fullmatch(entry) for _, pattern in patterns.values())]  # fmt: skip
    assert left_over == []


def test_links_of_the_docs_lead_somewhere():
    """A link from one page to another, or to a file of ours, is there."""
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
