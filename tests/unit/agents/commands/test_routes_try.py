"""`millrace routes try` ends as its record would."""

from __future__ import annotations

import pytest

from agents.commands import DONE, FAILED, run

ROUTE = """
[sources.risk]
url = "https://risk.example/{id}"

[routes.r]
topics = ["orders"]
results = "enriched"

[[routes.r.lookups]]
source = "risk"
params = { id = "value.customer" }
required = REQUIRED
"""


@pytest.mark.parametrize(
    ("value", "required", "code"),
    [('{"customer": 7}', "true", DONE), ("{}", "true", FAILED), ("{}", "false", DONE)],
)
def test_a_record_that_lacks_what_a_lookup_needs_fails_if_it_is_required(tmp_path, monkeypatch, value, required, code):
    """Also where nothing is sent: the exit code is for scripts."""
    (tmp_path / "sources.toml").write_text(ROUTE.replace("REQUIRED", required))
    (tmp_path / "order.json").write_text(value)
    monkeypatch.setenv("MILLRACE_SOURCES", str(tmp_path / "sources.toml"))
    assert run(["routes", "try", "r", str(tmp_path / "order.json"), "--dry-run"]) == code
