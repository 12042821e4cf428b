"""Whose packages Python finds, and what a user is told where they are not Millrace's."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import millrace
from millrace import installation

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def python(*arguments, path="", cwd=None):
    """Run a fresh interpreter with folders before all else on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd or ROOT, env=environment | {"PYTHONPATH": str(path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def package(folder, name, content=""):
    """Make a package of a name in a folder."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(content)


def test_our_own_packages_are_known():
    """Where all is as it should be, nothing is reported."""
    assert list(installation.foreign_packages()) == []


@pytest.mark.parametrize("name", installation.PACKAGES)
@pytest.mark.parametrize("content", ["", "from openai import nothing", "DISTRIBUTION = 'another'", "not python ("])
def test_another_package_of_the_same_name_is_reported_before_it_is_imported(tmp_path, name, content):
    """An application's own folder that comes first ends the command with 2, and says where it is and what to do."""
    package(tmp_path, name, content)
    done = python("-P", "-m", "millrace", "--version", path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"the package `{name}` is not Millrace's: Python finds {tmp_path / name / '__init__.py'}" in done.stderr
    assert "PYTHONPATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_init_is_no_package(tmp_path):
    """A namespace package hides nothing of ours: Python prefers the real one behind it."""
    (tmp_path / "models").mkdir()
    assert python("-P", "-m", "millrace", "--version", path=tmp_path).returncode == 0


def test_the_folder_that_a_command_is_started_from_counts(tmp_path):
    """`python -m millrace` beside an application's `models/` is told so; the console script does not look there."""
    package(tmp_path, "models")
    done = python("-m", "millrace", "--version", cwd=tmp_path)
    assert done.returncode == 2
    assert "start from another folder" in done.stderr


def test_files_written_over_ours_are_reported_with_a_way_out(tmp_path):
    """Another distribution's `agents/__init__.py` on top of ours is not taken for a matter of the path."""
    for name in ("millrace", *installation.PACKAGES):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "static"))
    (tmp_path / "agents" / "__init__.py").write_text("from agents import tools")
    done = python("-P", "-c", "from millrace.__main__ import main; main()", path=tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "Another distribution has overwritten it: install millrace-kafka in its own environment" in done.stderr


def test_a_plugin_learns_why_it_cannot_import(tmp_path):
    """`from millrace import check` beside a foreign `models` names that, not a module that is missing."""
    package(tmp_path, "models")
    done = python("-P", "-c", "from millrace import check", path=tmp_path)
    assert "ImportError: the package `models` is not Millrace's" in done.stderr


@pytest.mark.parametrize("name", millrace.__all__)
def test_each_public_name_is_the_one_that_the_service_uses(name):
    """What `millrace` hands out is the very object of the old import, which goes on working."""
    homes = ("models.checks", "models.documents", "models.schema", "models.errors", "models.raised")
    found = [getattr(module, name) for home in homes if hasattr(module := importlib.import_module(home), name)]
    assert getattr(millrace, name) in found


def test_a_name_that_it_has_not_is_an_attribute_error():
    """A misspelt import fails as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'chekc'"):
        _ = millrace.chekc


def test_a_plugin_in_a_pool_child_loads_the_models_alone():
    """`from millrace import check` pulls in neither Kafka nor HTTP."""
    done = python("-c", "import sys, millrace; millrace.check; print(*sorted(sys.modules))")
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded & {"faust", "aiokafka", "aiohttp", "streams", "agents", "asyncio"} == set()
