from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
EXPLAINED = (
    "streams/kafka", "streams/tables", "streams/web", "streams/app.py", "streams/tasks.py", "streams/tls.py",
    "agents/cluster", "agents/redrive", "agents/tables", "agents/web", "agents/web/api",
)  # fmt: skip
"""Where each line at WARNING and above stands in the runbook."""
SEVERE = ("warning", "error", "critical", "exception")
MIN_TEXT = 6
"""Characters of a message that make it found."""


def test_every_alert_is_in_the_runbook():
    """Whoever is woken by an alert finds its name there; one that is no more is not in it."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/millrace.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    told = re.findall(r"^\*(Millrace.*)\*$", (ROOT / "docs/runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for line in told for name in line.split(", ")} == alerts


def test_links_of_the_docs_lead_somewhere():
    """A link from one page to another, or to a file of ours, is there."""
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def lines_of(path: Path) -> Iterator[str]:
    """Yield the messages that a module logs at WARNING and above."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SEVERE
            and isinstance(node.func.value, ast.Name) and node.func.value.id == "logger"
            and isinstance(node.args[0], ast.Constant)
        ):  # fmt: skip
            yield str(node.args[0].value)


def test_what_a_worker_logs_is_found_in_the_runbook_by_its_text():
    """Each line has a row there whose text is in it: what it means for requests, and what to do."""
    table = (ROOT / "docs/runbook.md").read_text(encoding="utf-8").partition("## Log lines")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    texts = [text for row in rows for text in re.findall("`([^`]+)`", row)]
    assert min(map(len, texts)) >= MIN_TEXT
    paths = [
        path for each in EXPLAINED for path in ([ROOT / each] if each.endswith(".py") else (ROOT / each).glob("*.py"))
    ]
    logged = [
        line for path in paths for line in lines_of(path) if re.sub(r"%[-+.0-9]*[a-z]|; the worker ends", "", line)
    ]
    assert [line for line in logged if not any(text in line for text in texts)] == []
    assert [text for text in texts if not any(text in line for line in logged) and text != "has ended"] == []
