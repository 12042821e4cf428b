"""All that `python -m` runs, and every command: it has help, refuses unknown options, and says first what it does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agents.commands import COMMANDS
from agents.entry import EntryPoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOLDERS = ("agents", "bench", "millrace", "models", "streams", "tests")
MAIN = 'if __name__ == "__main__":'
COMMAND_LINE = {"agents", "millrace"}
"""Both are the command line, which says what it does by its commands."""
WALK = """
import contextlib, io, json, runpy, sys

def run(module, *arguments):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [module, *arguments]
    for name in (module, module + ".__main__"):
        sys.modules.pop(name, None)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = "it ran"
        except SystemExit as exc:
            code = exc.code
        except BaseException as exc:
            code = repr(exc)
    return code, out.getvalue(), err.getvalue()

for module, *arguments in json.loads(sys.argv[1]):
    print(json.dumps(run(module, *arguments)), flush=True)
"""
"""Runs modules one after the other, in a process that imports what they share once."""


def entry_points():
    """Return the modules that may be run, by name."""
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    found = [path.relative_to(ROOT) for path in paths if f"\n{MAIN}" in path.read_text(encoding="utf-8")]
    return sorted(".".join(path.with_suffix("").parts).removesuffix(".__main__") for path in found)


MODULES = entry_points()
CALLS = [[module, option] for module in MODULES for option in ("--help", "--no-such-option")] + [
    ["millrace", command, option] for command in COMMANDS for option in ("--help", "--no-such-option")
]


@pytest.fixture(scope="module")
def walked():
    """What each call ended with and printed, by its words."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("KAFKA_", "MILLRACE_"))}
    environment["COLUMNS"] = "200"
    done = subprocess.run([sys.executable, "-c", WALK, json.dumps(CALLS)], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=False, timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(map(tuple, CALLS), map(json.loads, done.stdout.splitlines()), strict=True))


def test_all_are_found():
    """Those of the service, the bench, its peers and the tests."""
    assert {"agents", "agents.testing.broker", "agents.metrics", "bench", "bench.peers", "bench.peers.with_quix",
            "bench.upstream", "millrace", "tests.audit", "tests.integration.faulty"} <= set(MODULES)  # fmt: skip


@pytest.mark.parametrize("call", [call for call in CALLS if call[-1] == "--help"], ids=" ".join)
def test_help_describes_it(walked, call):
    """It ends with 0, prints the usage and a description, and nothing else is done."""
    code, out, err = walked[tuple(call)]
    assert (code, err) == (0, "")
    assert out.startswith("usage: ")
    usage, description = out.split("\n\n")[:2]
    assert description[0].isupper(), usage
    assert not description.startswith("options:")


@pytest.mark.parametrize("call", [call for call in CALLS if call[-1] != "--help"], ids=" ".join)
def test_unknown_options_are_refused(walked, call):
    """It ends with 2 before anything is done, and the message names the option, or what is missing beside it."""
    code, out, err = walked[tuple(call)]
    assert (code, out) == (2, "")
    assert "unrecognized arguments: --no-such-option" in err or "the following arguments are required" in err


@pytest.mark.parametrize("module", sorted(set(MODULES) - COMMAND_LINE))
def test_each_says_first_what_it_does(module):
    """By the one class that does so."""
    path = ROOT.joinpath(*module.split("."))
    text = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    assert re.search(rf'EntryPoint\(\s*"{re.escape(module)}", ', text)
    assert ".begin(" in text


def test_what_it_does_is_the_first_sentence(capsys):
    """On stderr, without what follows; options may not be shortened."""
    entry = EntryPoint("x.y", "Counts what\nthere is: all of it.\n\nAnd more.")
    entry.add_argument("--quick", action="store_true")
    assert entry.begin(["--quick"]).quick
    assert capsys.readouterr() == ("", "python -m x.y: Counts what there is\n")
    with pytest.raises(SystemExit, match="2"):
        entry.begin(["--qu"])
