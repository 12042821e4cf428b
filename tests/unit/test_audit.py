from __future__ import annotations

import json
import zipfile

import pytest

from tests.advisories import affects
from tests.audit import audit, judge

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


def advisory(name="Some.Package", **affected):
    """Return an advisory about a package, as OSV has it."""
    return {
        "id": "PYSEC-1", "modified": "2026-11-01T00:00:00Z",
        "affected": [{"package": {"ecosystem": "PyPI", "name": name}, **affected}],
    }  # fmt: skip


def ranges(*events, kind="ECOSYSTEM"):
    """Return ranges of one of these events."""
    return {"ranges": [{"type": kind, "events": list(events)}]}


@pytest.mark.parametrize(
    ("affected", "version", "hit"),
    [
        ({"versions": ["1.0", "1.1"]}, "1.1", True),
        ({"versions": ["1.0"]}, "1.1", False),
        (ranges({"introduced": "0"}, {"fixed": "1.2"}), "1.1", True),
        (ranges({"introduced": "0"}, {"fixed": "1.2"}), "1.2", False),
        (ranges({"introduced": "0"}, {"fixed": "1.10"}), "1.9", True),
        (ranges({"introduced": "1.0"}, {"last_affected": "1.2"}), "1.2", True),
        (ranges({"introduced": "1.0"}, {"last_affected": "1.2"}), "1.2.1", False),
        (ranges({"introduced": "1.0"}, {"fixed": "1.1"}, {"introduced": "2.0"}), "1.5", False),
        (ranges({"introduced": "1.0"}, {"fixed": "1.1"}, {"introduced": "2.0"}), "2.5", True),
        (ranges({"introduced": "0"}, kind="GIT"), "1.0", False),
        (ranges({"introduced": "not a version"}), "1.0", False),
    ],
)
def test_an_advisory_says_which_versions_it_affects(affected, version, hit):
    """By name or by ranges, whose ends are compared as versions and not as texts."""
    assert affects(affected, version) is hit


def packed(folder, form, advisories):
    """Write advisories as a folder, a zip, or one JSON file."""
    if form == "file":
        (folder / "all.json").write_text(json.dumps(advisories))
        return folder / "all.json"
    if form == "zip":
        with zipfile.ZipFile(folder / "all.zip", "w") as archive:
            for number, each in enumerate(advisories):
                archive.writestr(f"{number}.json", json.dumps(each))
        return folder / "all.zip"
    for number, each in enumerate(advisories):
        (folder / "all").mkdir(exist_ok=True)
        (folder / "all" / f"{number}.json").write_text(json.dumps(each))
    return folder / "all"


@pytest.mark.parametrize("form", ["folder", "zip", "file"])
def test_where_the_service_is_away_a_file_of_advisories_takes_its_place(form, tmp_path, monkeypatch, capsys):
    """Names are compared as an index does; withdrawn advisories and other ecosystems count for nothing."""
    monkeypatch.setattr("tests.audit.ask", lambda _: ([SKIPPED], ""))
    pinned = tmp_path / "pinned.txt"
    pinned.write_text("some-package[extra]==1.1 ; python_version > '3' \\\n    --hash=sha256:00\nother==2.0\n")
    old = advisory("other", versions=["2.0"]) | {"withdrawn": "2026-01-01T00:00:00Z"}
    npm = advisory("other", versions=["2.0"])
    npm["affected"][0]["package"]["ecosystem"] = "npm"
    path = packed(tmp_path, form, [advisory(**ranges({"introduced": "0"}, {"fixed": "1.2"})), old, npm])
    assert audit(pinned, path) == 1
    out = capsys.readouterr().out
    assert "advisories up to 2026-11-01" in out
    assert "some-package 1.1: PYSEC-1, mended in 1.2\n2 of 2 packages audited, 1 vulnerabilities" in out


def test_advisories_that_cannot_be_read_fail(tmp_path, monkeypatch, capsys):
    """No such file, no JSON, or nothing in it: that is no clean bill."""
    monkeypatch.setattr("tests.audit.ask", lambda _: ([], "no network"))
    (tmp_path / "pinned.txt").write_text("a==1\n")
    (tmp_path / "bad.json").write_text("<html>")
    (tmp_path / "empty.json").write_text("[]")
    for name, reason in (("none", "cannot be read"), ("bad.json", "cannot be read"), ("empty.json", "has no advisory")):
        assert audit(tmp_path / "pinned.txt", tmp_path / name) == 1
        assert reason in capsys.readouterr().out


def test_without_service_and_file_nothing_is_called_clean(tmp_path, monkeypatch, capsys):
    """It ends with 0, and says why nothing was looked at."""
    monkeypatch.setattr("tests.audit.ask", lambda _: ([], "no network"))
    assert audit(tmp_path / "pinned.txt") == 0
    assert capsys.readouterr().out.startswith("NOT AUDITED: ")


def test_the_service_is_asked_first(tmp_path, monkeypatch, capsys):
    """Where it answers, the file is not read."""
    monkeypatch.setattr("tests.audit.ask", lambda _: ([CLEAN, SKIPPED], ""))
    assert audit(tmp_path / "pinned.txt", tmp_path / "none") == 0
    assert capsys.readouterr().out == "1 of 2 packages audited, 0 vulnerabilities\n"
