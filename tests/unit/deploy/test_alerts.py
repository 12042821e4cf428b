"""The alert rules: what they ask for is exported, promtool takes them, and each fires when it should and not before."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.metrics import CATALOGUE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy/prometheus"
RULES = PROMETHEUS / "rules/millrace.yml"
NAME = re.compile(r"\b(?:millrace|process)_[a-z_]+\b")
SELECTED = re.compile(r"\b((?:millrace|process)_[a-z_]+)\{([^}]*)\}")
EXPORTED = {
    name: {*kind.labels, "le", "job", "instance"}
    for kind in CATALOGUE
    for name in ([kind.exposed_name] if kind.type != "histogram" else
                 [f"{kind.name}{suffix}" for suffix in ("_bucket", "_sum", "_count")])
} | {
    f"process_{name}": {"job", "instance"}
    for name in ("resident_memory_bytes", "virtual_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds",
                 "start_time_seconds")
}  # fmt: skip


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    """Return every query of every dashboard."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            found.extend(value[name] for name in ("expr", "query") if isinstance(value.get(name), str))
            value = list(value.values())
        for each in value if isinstance(value, list) else ():
            walk(each)

    for path in (ROOT / "deploy/grafana").rglob("*.json"):
        walk(json.loads(path.read_text()))
    return found


def assert_exported(query: str) -> None:
    """Fail for a query of a metric that no worker exports, or by a label that it does not have."""
    for name in NAME.findall(query):
        assert name in EXPORTED, f"{name} is not exported: {query}"
    for name, selectors in SELECTED.findall(query):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors))
        assert labels <= EXPORTED[name], f"{name} has no label {labels - EXPORTED[name]}: {query}"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alerts_ask_for_what_is_exported(rule):
    """Every metric and label in a rule is one of the catalogue; each rule says how bad it is and what it means."""
    assert_exported(rule["expr"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}


def test_dashboards_ask_for_what_is_exported():
    """Every query of the Grafana dashboards is of metrics and labels that workers export."""
    queries = dashboard_queries()
    assert len(queries) > 10
    for query in queries:
        assert_exported(query)


def test_the_runbook_knows_every_alert_and_no_other():
    """Whoever is woken by an alert finds its name in the runbook; what it names there is."""
    told = set(re.findall(r"\bMillrace[A-Z]\w+", (ROOT / "docs/runbook.md").read_text()))
    assert told == {rule["alert"] for rule in rules()}


def promtool(*arguments: str) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing: it is in Debian's package prometheus")
        pytest.skip("needs promtool, of Debian's package prometheus")
    done = subprocess.run([tool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_rules_and_configuration():
    """Prometheus' own tool finds no fault with the rules, nor with the configuration that loads them."""
    promtool("check", "rules", str(RULES))
    promtool("check", "config", "prometheus.yml")


def test_every_alert_fires_and_only_when_it_should():
    """On series made for it, each alert is silent first, then fires, and no other does with it."""
    tests = yaml.safe_load((PROMETHEUS / "tests/millrace.yml").read_text())["tests"]
    alerts = [test["name"].partition(", ")[0] for test in tests]  # a case in particular comes behind a comma
    assert list(dict.fromkeys(alerts)) == [rule["alert"] for rule in rules()]
    for alert, test in zip(alerts, tests, strict=True):
        quiet, fires = test["promql_expr_test"]
        assert quiet["exp_samples"] == []
        assert fires["exp_samples"] == [{"labels": '{alertname="%s"}' % alert, "value": 1}]
    promtool("test", "rules", "tests/millrace.yml")
