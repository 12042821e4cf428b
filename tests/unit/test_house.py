"""The house rules that a test can hold: which way imports go, and what a pool child loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINTER = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"


def python(*arguments):
    """Run a fresh interpreter in the project's folder."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.slow
def test_imports_go_one_way_and_in_no_circles():
    """import-linter finds both contracts of pyproject.toml kept."""
    done = python("-c", LINTER, "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "imports go one way KEPT" in done.stdout
    assert "no cycles between siblings KEPT" in done.stdout
    assert "5 kept, 0 broken" in done.stdout


LOADED = "import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["models.checks", "models.request", "models.result", "models.documents"])
def test_a_pool_child_loads_the_models_alone(module):
    """What a pool child imports pulls in neither Kafka nor HTTP nor the packages above, and no JSON Schema yet."""
    done = python("-c", LOADED.format(module=module))
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"models", "marshmallow"} <= loaded
    heavy = {"faust", "mode", "aiokafka", "aiohttp", "aiocache", "yarl", "pebble", "asyncio", "jsonschema", "rich"}
    assert loaded & (heavy | {"streams", "agents"}) == set()


STARTS = {"create_task", "ensure_future", "run_coroutine_threadsafe", "Thread", "Timer"}
"""What starts a task or a thread."""
STARTED_ELSEWHERE = {
    "streams/kafka/thread.py": "run_coroutine_threadsafe: awaited where it is called",
    "streams/pool/workers.py": "create_task of a TaskGroup: awaited by it",
    "streams/app.py": "Timer: ends a process that does not stop in time",
    "agents/commands/worker.py": "Timer: ends a process that does not end in time",
    "streams/telemetry/logs.py": "Timer: nothing but a line of the log hangs on it",
}


@pytest.mark.slow
@pytest.mark.parametrize("package", ["agents", "streams", "models", "millrace"])
def test_what_runs_in_the_background_is_started_in_one_place(package):
    """A task or thread that nobody awaits would end in silence: streams/tasks.py starts them and notices their end."""
    for path in sorted((ROOT / package).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        calls = [
            node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
        ]
        found = {getattr(call, "attr", getattr(call, "id", "")) for call in calls} & STARTS
        if name in STARTED_ELSEWHERE:
            assert found == {STARTED_ELSEWHERE[name].partition(" ")[0].rstrip(":")}, name
        elif name != "streams/tasks.py":
            assert found == set(), f"{name}: use streams.tasks"


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/unit/**/test_*.py")), ids=lambda path: path.name)
def test_every_test_says_what_it_proves(path):
    """Each test has a docstring, as the house style asks; a test without one is named."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    silent = [node.name for node in tests if node.name.startswith("test_") and not ast.get_docstring(node)]
    assert silent == []


PACKAGES = [
    path.parent for name in ("agents", "models", "streams") for path in sorted((ROOT / name).rglob("__init__.py"))
    if path.parent.name != "commands"  # a command a module: `millrace --help` lists them
]  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_s_docstring_is_its_table_of_contents(package):
    """Each module and each package in it has a line there, and each line is for one that exists."""
    contents = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    there = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    there -= {"__init__", "__main__"}
    assert there - set(re.findall(r"^(\w+)/? +\S", contents, re.MULTILINE)) == set(), "has no line"
    assert set(re.findall(r"^(\w+)/?  +\S", contents, re.MULTILINE)) - there == set(), "is not there"


def test_the_packages_say_it_in_the_trades_words():
    """`told`, `asked` and `said` stood 815 times for report, request, return and value."""
    words = re.compile("told|asked|said")
    found = [(path.name, len(words.findall(path.read_text()))) for name in ("agents", "millrace", "models", "streams")
             for path in (ROOT / name).rglob("*.py")]  # fmt: skip
    assert sum(count for _, count in found) < 40, sorted(each for each in found if each[1])
