"""One plugin, loaded. A worker and the processes of its pool do this in the same way, so that both know the same checks
and schemas; which plugins there are, only the worker finds out (`streams/config/plugins.py`).
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from marshmallow import Schema

from models import checks, documents

MAX_REASON = 400
"""Characters of what is told of a plugin that fails."""

_TARGET = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*(?::[^\W\d]\w*(?:\.[^\W\d]\w*)*)?")


class PluginError(ValueError):
    """A plugin cannot be loaded; the text says why, and at which of its lines."""


class Plugin(NamedTuple):
    """A module to import, whose decorators register what it has; or an object in one, to register under `name`.

    `kind` is "module", "check" or "schema"; `target` is `package.module` or `package.module:object`.
    """

    kind: str
    name: str
    target: str

    @property
    def spec(self) -> str:
        """Return it as the text in which it travels to a process of the pool."""
        return self.target if self.kind == "module" else f"{self.kind}:{self.name}={self.target}"

    @classmethod
    def of(cls, spec: str) -> Self:
        """Return what such a text says."""
        kind, colon, rest = spec.partition(":")
        if not colon:
            return cls("module", spec, spec)
        name, _, target = rest.rpartition("=")
        return cls(kind, name, target)


def load_all(specs: Iterable[str]) -> None:
    """Load plugins in their order, each told as `Plugin.spec`. Raises PluginError for the first that fails."""
    for spec in specs:
        load(Plugin.of(spec))


def load(plugin: Plugin) -> None:
    """Import a plugin and register what it names. Raises PluginError, whatever it does; once more changes nothing."""
    if not _TARGET.fullmatch(plugin.target):
        msg = "this is no module, nor module:object"
        raise PluginError(msg)
    module, _, path = plugin.target.partition(":")
    try:
        thing: Any = importlib.import_module(module)
        for step in path.split(".") if path else ():
            thing = _member(thing, step, module)
        if plugin.kind != "module":
            _register(plugin, thing)
    except (KeyboardInterrupt, PluginError):
        raise
    except BaseException as exc:  # a plugin is foreign code: it may even exit
        _forget_the_unimported()
        raise PluginError(_reason(exc, module)) from exc


def _member(thing: Any, step: str, module: str) -> Any:
    try:
        return getattr(thing, step)
    except AttributeError:
        msg = f"the module {module} was imported, but has no {step!r}"
        raise PluginError(msg) from None


def _register(plugin: Plugin, thing: Any) -> None:
    """Register an object, unless its module's decorators have done so."""
    is_schema = inspect.isclass(thing) and issubclass(thing, Schema)
    if plugin.kind == "schema" and is_schema:
        if all(known is not thing for known in documents._REGISTRY.values()):
            documents.schema(plugin.name)(thing)
    elif plugin.kind == "check" and inspect.isroutine(thing):
        if all(checks.find(name).function is not thing for name in checks.names()):
            checks.check(plugin.name)(thing)
    else:
        wanted = "a function" if plugin.kind == "check" else "a marshmallow Schema class"
        other = " (a schema belongs to the group millrace.schemas)" if is_schema else ""
        found = f"the class {thing.__qualname__}" if inspect.isclass(thing) else f"of type {type(thing).__name__}"
        msg = f"a {plugin.kind} is {wanted}, and this is {found}{other}"
        raise PluginError(msg)


def _forget_the_unimported() -> None:
    """Take back what modules registered whose import then failed: it would stand in the way of others' names."""
    for name in checks.names():
        if checks.find(name).function.__module__ not in sys.modules:
            del checks.registry._REGISTRY[name]
    for name, schema in list(documents._REGISTRY.items()):
        if schema.__module__ not in sys.modules:
            del documents._REGISTRY[name], documents._INSTANCES[name]


def _reason(exc: BaseException, module: str) -> str:
    try:
        text = exc.msg if isinstance(exc, SyntaxError) else str(exc)  # its place is told below
        said = " ".join(text.split())[:MAX_REASON]
    except BaseException:  # noqa: BLE001  its text is foreign code too
        said = "(it cannot say why)"
    reason = f"{type(exc).__name__}: {said}" if said else type(exc).__name__
    if isinstance(exc, ModuleNotFoundError) and f"{module}.".startswith(f"{exc.name}."):
        return f"{reason}: install it, or put its folder on PYTHONPATH"
    where = _line(exc, module)
    return f"{reason} ({where})" if where else reason


def _line(exc: BaseException, module: str) -> str:
    """Say at which line of the plugin it failed: the last of its own on the way to the error."""
    if isinstance(exc, SyntaxError) and exc.filename and not exc.filename.startswith("<"):
        return f"{exc.filename}, line {exc.lineno}"
    package = module.partition(".")[0]
    own = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(exc.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return own[-1] if own else ""
