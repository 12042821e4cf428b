"""The operator's own code: which plugins there are, and loading them.

They are named by `MILLRACE_PLUGINS`, and by the entry points of installed distributions in the groups `millrace.checks`
and `millrace.schemas`. One that fails stops a worker: without its checks, requests that name them would be refused.
"""

from __future__ import annotations

import contextlib
import re
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

from models import checks, documents
from models.errors import SettingsError
from models.plugins import Plugin, PluginError, load
from streams.config.settings import Settings
from streams.telemetry.timed import timed

GROUPS = {"millrace.checks": "check", "millrace.schemas": "schema"}
"""The groups of entry points, and what an object named there is."""

_TAKEN = re.compile(r"the (check|schema) name '([^']*)' is taken")


class Named(NamedTuple):
    """A plugin, and what names it: an entry point of a distribution, or (None) MILLRACE_PLUGINS."""

    plugin: Plugin
    group: str | None = None
    distribution: str | None = None
    version: str | None = None

    @property
    def label(self) -> str:
        """Return what names it, in words."""
        if self.group is None:
            return "MILLRACE_PLUGINS"
        return f"entry point {self.plugin.name!r} in {self.group}, of {self.distribution} {self.version}"


class Refused(NamedTuple):
    """A plugin that could not be loaded, and why."""

    named: Named
    reason: str

    def __str__(self) -> str:
        named = self.named
        line = f"{named.label}: {named.plugin.target!r} cannot be imported: {self.reason}"
        return line if named.group is None else f"{line}; uninstall {named.distribution} or fix it"


class Loaded(NamedTuple):
    """All plugins that are `named`, those that were `refused`, and the one that `brought` each check or schema, by kind
    ("check" or "schema") and name.
    """

    named: list[Named]
    refused: list[Refused]
    brought: dict[tuple[str, str], Named]


@timed(name="load_plugins")
def load_plugins(settings: Settings) -> None:
    """Load every plugin. Raises SettingsError naming all failures."""
    if refused := try_plugins(settings).refused:
        raise SettingsError("\n".join(map(str, refused)))


def plugin_specs(settings: Settings) -> tuple[str, ...]:
    """Return what `models.plugins.load_all` loads in another process: all plugins, in the same order."""
    return tuple(each.plugin.spec for each in find_plugins(settings))


def try_plugins(settings: Settings) -> Loaded:
    """Load all plugins that can be loaded. What one prints goes to stderr: stdout belongs to the command."""
    loaded = Loaded(find_plugins(settings), [], {})
    before = _registered()
    for named in loaded.named:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                load(named.plugin)
        except PluginError as exc:
            loaded.refused.append(Refused(named, _with_owner(str(exc), loaded)))
        now = _registered()  # also after a refusal: what it had registered stays
        loaded.brought.update(dict.fromkeys(now - before, named))
        before = now
    return loaded


def find_plugins(settings: Settings) -> list[Named]:
    """Return what the settings and then the entry points name, each once. Raises SettingsError for unreadable ones."""
    found = {name: Named(Plugin("module", name, name)) for name in settings.plugins}
    for group in GROUPS:
        for named in sorted((_named(group, each) for each in _entry_points(group)), key=_order):
            found.setdefault(f"{named.label} {named.plugin.spec}" if _is_object(named) else named.plugin.spec, named)
    return list(found.values())


def _entry_points(group: str) -> list[EntryPoint]:
    try:
        return list(entry_points(group=group))
    except Exception as exc:  # the metadata of distributions is foreign, too
        msg = f"the entry points of installed distributions cannot be read: {type(exc).__name__}: {exc}"
        raise SettingsError(msg) from exc


def _named(group: str, point: EntryPoint) -> Named:
    written = point.value.partition("[")[0]  # extras may follow, which are obsolete
    target = ":".join(part.strip() for part in written.split(":"))
    kind = GROUPS[group] if ":" in target else "module"
    distribution = point.dist
    name = distribution.name if distribution is not None else "an unknown distribution"
    return Named(Plugin(kind, point.name, target), group, name, distribution.version if distribution else "")


def _order(named: Named) -> tuple[str, str]:
    return str(named.distribution), named.plugin.name


def _is_object(named: Named) -> bool:
    return named.plugin.kind != "module"


def _registered() -> set[tuple[str, str]]:
    return {*(("check", name) for name in checks.names()), *(("schema", name) for name in documents.names())}


def _with_owner(reason: str, loaded: Loaded) -> str:
    """Add to the message that a name is taken which plugin has it."""
    taken = _TAKEN.search(reason)
    owner = loaded.brought.get((taken[1], taken[2])) if taken else None
    return f"{reason}; it is that of {owner.plugin.target!r} ({owner.label})" if owner else reason
