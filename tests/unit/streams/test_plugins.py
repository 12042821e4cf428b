"""Plugins: who names them, what they register, and how each way in which one fails is told."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from models import checks, documents
from models.errors import SettingsError
from models.plugins import Plugin, PluginError, load_all
from streams.config.plugins import load_plugins, plugin_specs, try_plugins
from streams.config.settings import Settings

PLUGIN = """
from marshmallow import fields
from models.checks import check
from models.documents import schema
from models.schema import StrictSchema

@check("of_{name}")
def _check(value):
    return True

@schema("of_{name}")
class Document(StrictSchema):
    name = fields.String()

def plain(value: int, least: int = 0) -> bool:
    return value > least

class Plain(StrictSchema):
    name = fields.String()

number = 7
async def awaited(value): ...
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a module that can be imported for one test; what it registers is forgotten after it."""
    monkeypatch.syspath_prepend(tmp_path)
    known = [set(registry) for registry in _REGISTRIES]
    names = []

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)
    for registry, kept in zip(_REGISTRIES, known, strict=True):
        for name in set(registry) - kept:
            del registry[name]


_REGISTRIES = (checks.registry._REGISTRY, documents._REGISTRY, documents._INSTANCES)


@pytest.fixture
def distribution(tmp_path):
    """Install a distribution that has nothing but entry points: lines of its entry_points.txt."""

    def install(name, *lines, version="1.2"):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        return folder

    return install


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
    assert plugin_specs(Settings(plugins=(name, name))) == (name,)
    load_plugins(Settings(plugins=(name,)))
    assert plugin_specs(Settings(plugins=(name,))) == (name,)
    assert "of_millrace_one" in checks.names()


@pytest.mark.parametrize(
    ("code", "reason", "line"),
    [
        ("\n1 / 0", "ZeroDivisionError: division by zero", 2),
        ("import json\n\njson.loads('{')", "json.decoder.JSONDecodeError: ", 3),
        ("import millrace_nowhere", "ModuleNotFoundError: No module named 'millrace_nowhere'", 1),
        ("def fail():\n    1 / 0\n\nfail()", "ZeroDivisionError: division by zero", 2),
        ("def", "SyntaxError: ", 1),
        ("import sys\nsys.exit('enough')", "SystemExit: enough", 2),
        ("class Odd(BaseException): ...\nraise Odd", "Odd", 2),
        ("class Mute(Exception):\n  def __str__(self): 1 / 0\nraise Mute", "Mute: (its message cannot be read)", 3),
        ("raise ValueError('two\\nlines')", "ValueError: two lines", 1),
        (
            "from models.checks import check\n@check\ndef is_prime(x): ...",
            "ValueError: the check name 'is_prime' is taken",
            2,
        ),
    ],
)
def test_a_plugin_that_fails_is_told_by_name_and_line(plugin, tmp_path, code, reason, line):
    """Whatever a plugin raises stops the start with its name, the reason and the plugin's own line, on one line."""
    told = refusal(plugin("millrace_bad", code))
    assert told.startswith(
        f"MILLRACE_PLUGINS: 'millrace_bad' cannot be imported: {reason.removeprefix('json.decoder.')}"
    )
    assert told.endswith(f"({tmp_path / 'millrace_bad.py'}, line {line})")
    assert "\n" not in told


@pytest.mark.parametrize("name", [".relative", "a..b", "no name", "a:", ":b", "a:b:c"])
def test_what_is_no_module_is_told_by_name(name):
    """A name that no module can have is a wrong setting."""
    assert refusal("json", name) == f"MILLRACE_PLUGINS: {name!r} cannot be imported: must be module or module:object"


@pytest.mark.parametrize("name", ["millrace_nowhere", "millrace_nowhere.inside"])
def test_a_module_that_is_not_found_is_told_with_what_to_do(name):
    """Whoever forgot PYTHONPATH, which console scripts need, is told of it."""
    assert refusal(name).endswith("'millrace_nowhere': install it, or put its folder on PYTHONPATH")


def test_all_that_is_wrong_is_told_at_once(plugin):
    """The second wrong plugin is told with the first, and the right one is loaded all the same."""
    names = plugin("millrace_a", "1 / 0"), plugin("millrace_b", PLUGIN.format(name="b")), plugin("millrace_c", "def")
    lines = refusal(*names).splitlines()
    assert [line.split("'")[1] for line in lines] == ["millrace_a", "millrace_c"]
    assert "of_b" in checks.names()


def test_what_a_plugin_prints_is_no_data_of_ours(plugin, capsys):
    """A module that prints on import prints to stderr: stdout is a command's own."""
    load_plugins(Settings(plugins=(plugin("millrace_loud", "print('here I am')"),)))
    assert capsys.readouterr() == ("", "here I am\n")


def test_ctrl_c_during_an_import_is_no_failing_plugin(plugin):
    """Who presses Ctrl-C wants to leave, not to read of a bad plugin."""
    name = plugin("millrace_slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins(Settings(plugins=(name,)))


def test_no_plugins_are_fine():
    """Without plugins nothing is loaded and nothing is wrong."""
    before = checks.names(), documents.names()
    load_plugins(Settings())
    assert plugin_specs(Settings()) == ()
    assert before == (checks.names(), documents.names())


def test_an_installed_distribution_s_modules_are_imported(plugin, distribution):
    """An entry point that names a module has it imported, once for both groups."""
    name = plugin("millrace_one", PLUGIN.format(name="one"))
    distribution("one", "[millrace.checks]", f"all = {name}", "[millrace.schemas]", f"all = {name}")
    load_plugins(Settings())
    assert plugin_specs(Settings()) == (name,)
    assert "of_one" in checks.names()
    assert "of_one" in documents.names()


def test_an_installed_distribution_s_objects_are_registered(plugin, distribution):
    """An entry point's function is a check of its name, its class a schema; with the arguments that its hints say."""
    name = plugin("millrace_one", PLUGIN.format(name="one"))
    distribution("one", "[millrace.checks]", f"above = {name}:plain", "[millrace.schemas]", f"plain = {name}:Plain")
    load_plugins(Settings())
    assert checks.find("above").signature.arguments.keys() == {"least"}
    assert "plain" in documents.names()


def test_what_a_decorator_has_registered_is_not_registered_again(plugin, distribution):
    """An entry point that names a decorated function or class leaves it the name that it has."""
    name = plugin("millrace_one", PLUGIN.format(name="one"))
    distribution("one", "[millrace.checks]", f"c = {name}:_check", "[millrace.schemas]", f"d = {name}:Document")
    load_plugins(Settings())
    assert ("c" in checks.names(), "of_one" in checks.names()) == (False, True)
    assert ("d" in documents.names(), "of_one" in documents.names()) == (False, True)


@pytest.mark.parametrize(
    ("group", "target", "reason"),
    [
        ("checks", "millrace_nowhere", "ModuleNotFoundError: "),
        ("checks", "millrace_one:nothing", "the module millrace_one was imported, but has no 'nothing'"),
        ("checks", "millrace_one:number", "a check is a function, and this is of type int"),
        ("checks", "millrace_one:Plain", "a check is a function, and this is the class Plain (a schema belongs to"),
        (
            "checks",
            "millrace_one:awaited",
            "ValueError: check 'it' (millrace_one.awaited): a check is a plain function",
        ),
        ("schemas", "millrace_one:plain", "a schema is a marshmallow Schema class, and this is of type function"),
        ("schemas", "not a module", "must be module or module:object"),
        ("schemas", "millrace_one:", "must be module or module:object"),
    ],
)
def test_an_entry_point_that_fails_is_told_with_its_distribution(plugin, distribution, group, target, reason):
    """The start stops, and says whose entry point it was, why, and how to be rid of it."""
    plugin("millrace_one", PLUGIN.format(name="one"))
    distribution("bad-one", f"[millrace.{group}]", f"it = {target}")
    told = refusal()
    assert told.startswith(f"entry point 'it' in millrace.{group}, of bad-one 1.2: ")
    assert f"cannot be imported: {reason}" in told
    assert told.endswith("; uninstall bad-one or fix it")


@pytest.mark.parametrize("targets", [("millrace_a", "millrace_b"), ("millrace_a:twice", "millrace_b:twice")])
def test_two_distributions_with_a_check_of_one_name_are_both_told(plugin, distribution, targets):
    """Whose check is to go is the operator's to say, who must know of both."""
    by = "" if ":" in targets[0] else "from models.checks import check\n@check\n"
    for name, target in zip("ab", targets, strict=True):
        plugin(f"millrace_{name}", f"{by}def twice(value): ...")
        distribution(f"dist-{name}", "[millrace.checks]", f"twice = {target}")
    told = refusal()
    assert "of dist-b 1.2" in told
    assert f"it is that of {targets[0]!r} (entry point 'twice' in millrace.checks, of dist-a 1.2)" in told
    assert "uninstall dist-b" in told


def test_entry_points_that_cannot_be_read_are_told(plugin, distribution):
    """A distribution whose file is no such file stops the start with a reason, not with a traceback."""
    (distribution("odd") / "entry_points.txt").write_bytes(b"\xff\xfe")
    assert refusal().startswith("the entry points of installed distributions cannot be read: UnicodeDecodeError: ")


@pytest.mark.slow
def test_a_child_registers_the_same_from_what_it_is_told(plugin, distribution, tmp_path):
    """Plain strings are all that another process needs, which looks for no entry points of its own."""
    name = plugin("millrace_one", PLUGIN.format(name="one"))
    points = f"above = {name}:plain", "[millrace.schemas]", f"plain = {name}:Plain"
    distribution("one", "[millrace.checks]", *points)
    code = (
        "import sys, json; sys.path[:] = json.loads(sys.argv[1])\n"
        "from models import checks, documents, plugins\n"
        "plugins.load_all(json.loads(sys.argv[2]))\n"
        "print(json.dumps([checks.names(), documents.names()]))\n"
    )
    load_plugins(Settings(plugins=(name,)))
    specs = plugin_specs(Settings(plugins=(name,)))
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([str(tmp_path), *sys.path]), json.dumps(specs)],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [checks.names(), documents.names()]


@pytest.mark.parametrize(
    "plugin_of",
    [Plugin("module", "a.b", "a.b"), Plugin("module", "a.b:c", "a.b:c"), Plugin("check", "a:b c", "m.n:o.p")],
)
def test_a_plugin_is_the_same_after_travelling(plugin_of):
    """Whatever is in an entry point's name, its text says what it was."""
    assert Plugin.of(plugin_of.spec) == plugin_of


def test_a_child_is_told_why_a_plugin_fails():
    """What a child raises is the text that a worker would tell."""
    with pytest.raises(PluginError, match="PYTHONPATH"):
        load_all(["json", "millrace_nowhere"])


def test_what_each_plugin_brought_is_known(plugin):
    """Who brought a name can be told; what was there before is nobody's."""
    name = plugin("millrace_one", PLUGIN.format(name="one"))
    brought = try_plugins(Settings(plugins=(name,))).brought
    assert {key: named.plugin.target for key, named in brought.items()} == {
        ("check", "of_one"): name,
        ("schema", "of_one"): name,
    }


def test_what_a_failed_import_registered_is_taken_back(plugin):
    """A plugin that fails half-way stands in nobody's way, and what it imported that is right stays."""
    good = plugin("millrace_good", PLUGIN.format(name="good"))
    bad = plugin("millrace_bad", f"import {good}\n" + PLUGIN.format(name="bad") + "\n1 / 0")
    refusal(bad, good)
    assert ("of_bad" in checks.names(), "of_good" in checks.names()) == (False, True)
    assert ("of_bad" in documents.names(), "of_good" in documents.names()) == (False, True)
