"""What the packages import is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGES = ("agents", "millrace", "models", "streams")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEVELOPERS_ONLY = {"testcontainers"}
"""Imported where it is found, by the broker for demo and tests."""
PULLED_IN = {"snappy", "cramjam"}
"""Declared as an extra of another distribution."""
UNIMPORTED = {"opentelemetry-exporter-otlp-proto-http"}
"""Declared for whoever sets an endpoint, and found by OpenTelemetry's own entry points or by a name at run time."""


def name_of(requirement):
    """Return the distribution that a requirement names, as an index writes it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def imported():
    """Return the top-level modules that our packages import, wherever they do."""
    trees = (ast.parse(path.read_text()) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names} - set(PACKAGES) - sys.stdlib_module_names


def test_every_import_is_a_declared_dependency():
    """No import works only because another distribution happens to bring it along."""
    extras = [requirement for several in PROJECT["optional-dependencies"].values() for requirement in several]
    declared = {name_of(requirement) for requirement in [*PROJECT["dependencies"], *extras]}
    owners = packages_distributions()
    undeclared = {
        module: owners.get(module)
        for module in imported() - DEVELOPERS_ONLY - PULLED_IN
        if not declared & {name_of(owner) for owner in owners.get(module, ())}
    }
    assert undeclared == {}


def test_every_core_dependency_is_imported():
    """Nothing is installed by everybody that nobody imports."""
    owners = packages_distributions()
    used = {name_of(owner) for module in imported() for owner in owners.get(module, ())}
    assert {name_of(requirement) for requirement in PROJECT["dependencies"]} - used == set()


def test_types_are_shipped():
    """Each package has its `py.typed` (PEP 561), so that plugins are checked against our hints."""
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()] == []
