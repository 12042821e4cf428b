from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.commands import DONE, MISUSED, run
from models import checks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
GOOD = """\
[sources.a]
url = "http://h/{n}?x={x}"
method = "POST"
schema = "text"
headers.X-Key = { env = "SOURCES_TEST_TOKEN" }
checks = ["sha256"]
auth = { type = "bearer", token = { env = "SOURCES_TEST_TOKEN" } }
cache.ttl = 5
[sources.b]
call = "posixpath:basename"
"""
BAD = """\
[sources.a]
url = "http://h/{"
timeout = 0

[sources.b]
url = "http://h/"
auth = { type = "bearer", token = "hunter2" }
[sources.c]
url = "http://h/"
auth = { type = "bearer", token = { env = "SOURCES_TEST_TOKEN" } }
method = "nope"
"""
TOLD = [
    (2, "sources.a.url: '{' at character 10 is not a parameter: write {name}, or {{"),
    (3, "sources.a.timeout: Must be greater than 0 and less than or equal to 300.0"),
    (7, 'sources.b.auth.token: a secret must not be written here: give {env = "NAME"} or {file = "/path"}'),
    (11, "sources.c.method: must be one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """Let no setting of the machine reach a test."""
    for name in list(os.environ):
        if name.startswith(("KAFKA_", "MILLRACE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SOURCES_TEST_TOKEN", "hunter2")


@pytest.fixture
def config(capsys):
    """Run the command; returns its exit code, stdout and stderr, which never hold the secret."""

    def command(*arguments):
        code = run(["config", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "hunter2" not in out + err
        return code, out, err

    return command


@pytest.fixture
def file(tmp_path):
    """Write a file of sources."""

    def write(text):
        path = tmp_path / "sources.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_settings_are_printed_one_a_line_or_as_json(config, monkeypatch):
    """Both forms have every setting with its value in effect."""
    monkeypatch.setenv("MILLRACE_GROUP", "mine")
    code, out, err = config()
    lines = dict(line.split("=", 1) for line in out.splitlines())
    assert (code, err, lines["MILLRACE_GROUP"], lines["MILLRACE_SOURCES"]) == (DONE, "", "mine", "")
    members = json.loads(config("--json")[1])
    assert members["MILLRACE_GROUP"] == "mine"
    assert members.keys() == lines.keys()


def test_good_sources_are_listed(config, file):
    """A line each says what there is to tell of a source; of its credentials the kind."""
    path = file(GOOD)
    code, out, err = config("--sources", path)
    assert (code, err) == (DONE, f"{path}: 2 sources, all valid\n")
    assert out.splitlines() == [
        "source=a  method=POST  url=http://h/{n}?x={x}  params=n,x  schema=text  checks=sha256  auth=Bearer  ttl=5",
        "source=b  call=posixpath:basename  params=p  schema=json  checks=-  auth=none  ttl=60",
    ]


def test_good_sources_are_listed_as_json(config, file):
    """The same as one JSON object a line."""
    code, out, _ = config("--sources", file(GOOD), "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == DONE
    assert first == {"source": "a", "method": "POST", "url": "http://h/{n}?x={x}", "params": ["n", "x"],
                     "schema": "text", "checks": ["sha256"], "auth": "Bearer", "ttl": 5.0}  # fmt: skip
    assert second["call"] == "posixpath:basename"


def test_bad_sources_are_told_all_at_once(config, file):
    """Every problem is on stderr with file and line, nothing is on stdout, and the exit code is 2."""
    path = file(BAD)
    told = [f"  {path}: line {line}: {reason}" for line, reason in TOLD]
    assert config("--sources", path) == (MISUSED, "", "\n".join(["millrace: invalid settings:", *told, ""]))


def test_the_file_of_the_settings_is_the_default(config, file, monkeypatch):
    """Without a file of its own the command looks at the worker's, and a file named comes first."""
    monkeypatch.setenv("MILLRACE_SOURCES", str(file(GOOD)))
    assert config("--sources")[0] == DONE
    assert config("--sources", "nowhere.toml") == (
        MISUSED,
        "",
        "millrace: invalid settings:\n  MILLRACE_SOURCES: 'nowhere.toml' cannot be read: No such file or directory\n",
    )


def test_no_file_at_all_is_misuse(config):
    """There is nothing to validate, which is told, not taken for fine."""
    code, out, err = config("--sources")
    assert (code, out) == (MISUSED, "")
    assert "MILLRACE_SOURCES: not set; name a file: millrace config --sources FILE" in err


def test_wrong_settings_come_first(config, file, monkeypatch):
    """Sources are looked at under settings that hold."""
    monkeypatch.setenv("MILLRACE_TIMEOUT", "never")
    code, out, err = config("--sources", file(GOOD))
    assert (code, out) == (MISUSED, "")
    assert "MILLRACE_TIMEOUT" in err


def test_a_plugin_s_names_are_known(config, file, monkeypatch, tmp_path):
    """Sources may name the checks of plugins, which are loaded first."""
    (tmp_path / "millrace_named.py").write_text("from models.checks import check\n@check\ndef named(value): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("models.checks.registry._REGISTRY", dict(checks.registry._REGISTRY))
    path = file("[sources.a]\nurl = 'http://h/'\nchecks = ['named']\n")
    assert config("--sources", path)[0] == MISUSED
    monkeypatch.setenv("MILLRACE_PLUGINS", "millrace_named")
    assert config("--sources", path)[0] == DONE
    sys.modules.pop("millrace_named")


def test_a_bad_file_stops_the_start(file):
    """A worker ends with exit code 2 and every problem before it looks for a broker."""
    path = file(BAD)
    done = subprocess.run([sys.executable, "-m", "agents", "worker"], cwd=ROOT, env={**os.environ, "MILLRACE_SOURCES":
                          str(path)}, capture_output=True, text=True, check=False, timeout=60)  # fmt: skip
    assert done.returncode == MISUSED
    assert [line.strip() for line in done.stderr.splitlines() if "line " in line] == [
        f"{path}: line {line}: {reason}" for line, reason in TOLD
    ]
    assert "hunter2" not in done.stdout + done.stderr
