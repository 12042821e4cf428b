"""`millrace plugins`: what it lists for people and for programs, and its exit codes; each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
PLUGIN = '''
from marshmallow import Schema
from models.checks import check
from models.documents import schema

print("imported")

@check("near", inline=True)
def is_near(value: float, to: float, within: float = 0.5, *, unit: object = ...) -> bool:
    """Whether a number is near another.

    And more.
    """
    return True

@check
def loose(value, **anything): ...

@schema("place")
class PlaceSchema(Schema):
    """A place\twith a tab."""

@schema("bare")
class BareSchema(Schema): ...
'''


@pytest.fixture
def listed(tmp_path):
    """Run the command with these modules to be found."""

    def run(*arguments, modules=(), points="", **environment):
        for name, code in modules:
            (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        if points:
            folder = tmp_path / "places-2.0.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: places\nVersion: 2.0\n", encoding="utf-8")
            (folder / "entry_points.txt").write_text(points, encoding="utf-8")
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "agents", "plugins", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(tmp_path)} | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def test_the_built_in_ones_are_listed_without_any_plugin(listed):
    """Nothing is needed, neither Kafka nor a setting, to see what requests may name."""
    done = listed(KAFKA_BOOTSTRAP_SERVERS="192.0.2.1:9")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["kind", "name", "from", "runs", "arguments", "about"]
    assert {tuple(row.split()[:4]) for row in rows} >= {
        ("check", "is_prime", "built", "in"),
        ("schema", "page", "built", "in"),
    }


def test_json_tells_a_check_with_its_arguments(listed):
    """A program reads types, defaults and origin; what a plugin prints is not among the data."""
    done = listed("--json", modules=[("places", PLUGIN)], MILLRACE_PLUGINS="places")
    assert (done.returncode, done.stderr) == (0, "imported\n")
    told = {(each["kind"], each["name"]): each for each in map(json.loads, done.stdout.splitlines())}
    assert told["check", "near"] == {
        "kind": "check",
        "name": "near",
        "module": "places",
        "built_in": False,
        "value": "a number",
        "arguments": [
            {"name": "to", "type": "a number", "required": True},
            {"name": "within", "type": "a number", "required": False, "default": 0.5},
            {"name": "unit", "type": "anything", "required": False, "default": "Ellipsis"},
        ],
        "others": False,
        "inline": True,
        "about": "Whether a number is near another.",
    }
    assert told["check", "loose"]["others"] is True
    assert told["schema", "place"]["module"] == "places"
    assert told["schema", "bare"]["about"] == "", "a base class's words are not its own"
    assert told["check", "is_prime"]["built_in"] is True


def test_columns_are_aligned_for_people(listed):
    """Each column begins where its head does; what cannot be printed is shown as such."""
    done = listed(modules=[("places", PLUGIN)], points="[millrace.checks]\nall = places")
    head, *rows = done.stdout.splitlines()
    start = head.index("from")
    near = next(row for row in rows if row.startswith("check   near"))
    assert near[start:].startswith("places (places 2.0)  ")
    assert near[head.index("arguments") :].startswith("to: number, within: number = 0.5, unit: anything = ")
    assert near[head.index("runs") :].startswith("inline ")
    assert all(row[start - 1] == " " != row[start] for row in rows)
    # Python 3.13 makes the docstring's tab a blank itself.
    assert ("A place with a tab." if sys.version_info >= (3, 13) else "A place�with a tab.") in done.stdout


def test_what_was_refused_is_listed_and_the_rest_too(listed):
    """Exit code 1, the reasons, every other plugin, and nothing that a refused one left behind."""
    bad = PLUGIN.replace("near", "far").replace("place", "afar") + "\n1 / 0"
    modules = [("places", PLUGIN), ("bad", bad)]
    done = listed("--json", modules=modules, points="[millrace.checks]\nworse = nowhere", MILLRACE_PLUGINS="bad,places")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    names = {each["name"] for each in lines if each["kind"] != "refused"}
    assert ("near" in names, "far" in names, "afar" in names) == (True, False, False)
    first, second = [each for each in lines if each["kind"] == "refused"]
    assert (first["name"], first["module"]) == ("bad", "bad")
    assert first["reason"].startswith("ZeroDivisionError: division by zero (")
    assert {"name": "worse", "module": "nowhere", "distribution": "places", "version": "2.0"}.items() <= second.items()


def test_people_read_on_stderr_what_was_refused(listed):
    """The table is data, the refusals are talk."""
    done = listed(MILLRACE_PLUGINS="nowhere")
    assert done.returncode == 1
    assert "nowhere" not in done.stdout
    assert done.stderr.startswith("refused: MILLRACE_PLUGINS: 'nowhere' cannot be imported: ModuleNotFoundError")


def test_other_wrong_settings_end_it_with_2(listed):
    """What is wrong with the settings themselves is not a refused plugin."""
    done = listed(MILLRACE_TIMEOUT="never")
    assert done.returncode == 2
    assert "MILLRACE_TIMEOUT" in done.stderr
