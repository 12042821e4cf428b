from __future__ import annotations

import sys

import pytest

from models import checks, documents
from models.errors import SettingsError
from streams.plugins import load_plugins
from streams.settings import Settings

PLUGIN = """
from marshmallow import fields
from models.checks import check
from models.documents import schema
from models.schema import StrictSchema

@check("of_{name}")
def _check(value):
    return True

@schema("of_{name}")
class _Schema(StrictSchema):
    name = fields.String()
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a module that can be imported for one test; what it registers is forgotten after it."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)
        for registry in (checks.registry._REGISTRY, documents._REGISTRY):
            registry.pop(f"of_{name}", None)


def refusal(*names):
    with pytest.raises(SettingsError) as caught:
        load_plugins(Settings(plugins=names))
    return str(caught.value)


def test_a_plugin_s_checks_and_schemas_are_known_once_it_is_loaded(plugin):
    """Requests and sources can name what the decorators of a plugin registered."""
    names = [plugin(name, PLUGIN.format(name=name)) for name in ("millrace_one", "millrace_two")]
    load_plugins(Settings(plugins=tuple(names)))
    for name in names:
        checks.check_known(f"of_{name}")
        documents.check_known(f"of_{name}")


def test_a_plugin_that_is_loaded_twice_is_loaded_once(plugin):
    """Naming a plugin again is no mistake."""
    name = plugin("millrace_one", PLUGIN.format(name="millrace_one"))
    load_plugins(Settings(plugins=(name, name)))
    load_plugins(Settings(plugins=(name,)))
    assert "of_millrace_one" in checks.names()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import millrace_nowhere", "ModuleNotFoundError: No module named 'millrace_nowhere'"),
        ("def", "SyntaxError: "),
        (
            "from models.checks import check\n@check\ndef is_prime(x): ...",
            "ValueError: the check name 'is_prime' is taken",
        ),
    ],
)
def test_a_plugin_that_fails_is_told_by_name(plugin, code, reason):
    """Whatever a plugin raises stops the start with its name and the reason."""
    name = plugin("millrace_bad", code)
    assert refusal(name).startswith(f"MILLRACE_PLUGINS: 'millrace_bad' cannot be imported: {reason}")


@pytest.mark.parametrize("name", ["millrace_nowhere", ".relative", "a..b", "no name"])
def test_a_plugin_that_is_not_there_is_told_by_name(name):
    """A name that is no module's is a wrong setting."""
    assert refusal("json", name).startswith(f"MILLRACE_PLUGINS: {name!r} cannot be imported: ")


def test_a_plugin_that_exits_is_told_by_name(plugin):
    """A module that ends the process when it is imported is a bad plugin, not a finished command."""
    assert "millrace_bad" in refusal(plugin("millrace_bad", "import sys; sys.exit(0)"))


def test_no_plugins_are_fine():
    """Without plugins nothing is loaded and nothing is wrong."""
    before = set(sys.modules)
    load_plugins(Settings())
    assert set(sys.modules) == before
