from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


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
