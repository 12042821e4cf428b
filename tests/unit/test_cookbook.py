"""The cookbook: its page shows the files, the files work, and installed they are found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COOKBOOK = ROOT / "docs" / "cookbook"
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def run(*arguments, path=(COOKBOOK,), **environment):
    """Run a module in a fresh interpreter, with the cookbook's module to be found."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", *arguments],
        cwd=COOKBOOK,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "name", sorted(path.name for path in COOKBOOK.iterdir() if path.is_file() and path.suffix != ".pyc")
)
def test_the_page_shows_each_file_as_it_is(name):
    """What a reader copies from the page is what is tested."""
    assert SHOWN[name] == (COOKBOOK / name).read_text(encoding="utf-8")


def test_the_page_shows_no_other_files():
    """A block with a file's name is a file of the cookbook."""
    assert {name for name in SHOWN if not (COOKBOOK / name).is_file()} == set()


def test_the_example_s_tests_pass_without_sockets():
    """The plugin's own tests pass as the page has them run, with every socket forbidden."""
    done = run("pytest", "-q", "-p", "no:cacheprovider", "--disable-socket", "-o", "addopts=")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout


def test_the_example_named_in_the_settings_is_loaded():
    """MILLRACE_PLUGINS and a folder on PYTHONPATH are all it takes; the children of the pool find it too."""
    done = run("agents", "check", "price_between", '"12.50"', "--args", '{"low": 13}', MILLRACE_PLUGINS="quotes")
    assert (done.returncode, done.stdout) == (0, '"12.50" price_between: False\n'), done.stderr


def test_the_example_installed_is_loaded(tmp_path):
    """Its entry points, as an installer writes them from its pyproject.toml, are found and told with the version."""
    project = tomllib.loads((COOKBOOK / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = tmp_path / "millrace_quotes-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (
        [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
        for group, points in project["entry-points"].items()
    )
    (folder / "entry_points.txt").write_text("\n".join(line for group in groups for line in group))
    done = run("agents", "plugins", path=(tmp_path, COOKBOOK))
    assert done.returncode == 0, done.stderr
    lines = {tuple(line.split()[:2]): line for line in done.stdout.splitlines()}
    assert "quotes (millrace-quotes 1.0)" in lines["check", "price_between"]
    assert "low: number = 0.0, high: number = 1000000.0" in lines["check", "price_between"]
    assert "quotes (millrace-quotes 1.0)" in lines["schema", "quote"]
    done = run("agents", "check", "price_between", '"12.50"', path=(tmp_path, COOKBOOK))
    assert done.returncode == 0, "the processes that run checks have not what is installed: " + done.stderr
    assert "price_between: True" in done.stdout
