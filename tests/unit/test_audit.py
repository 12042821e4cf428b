from __future__ import annotations

from tests.audit import judge

SKIPPED = {"name": "a", "skip_reason": "Dependency not found"}
CLEAN = {"name": "b", "version": "1", "vulns": []}
FLAWED = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


def test_what_was_not_looked_at_is_not_called_clean():
    """Where the service knows no package, pip-audit reports nothing found: we say that nothing was audited."""
    code, [line] = judge([SKIPPED, SKIPPED])
    assert (code, line.startswith("NOT AUDITED: ")) == (0, True)


def test_a_vulnerability_fails_and_says_what_mends_it():
    """A known flaw ends with 1; without one, how much was looked at is said."""
    assert judge([CLEAN, SKIPPED]) == (0, ["1 of 2 packages audited, 0 vulnerabilities"])
    assert judge([CLEAN, FLAWED])[0] == 1
    assert judge([FLAWED])[1][0] == "c 2: CVE-1, mended in 3"
