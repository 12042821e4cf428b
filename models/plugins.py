"""Loads a plugin, in a worker and in the processes of its pool alike, so that both have the same checks and schemas.
Only the worker looks for plugins (`streams/config/plugins.py`).
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
"""Characters of a failed plugin's error message."""

_TARGET = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*(?::[^\W\d]\w*(?:\.[^\W\d]\w*)*)?")


class PluginError(ValueError):
    """A plugin cannot be loaded; the message has the reason and the line."""


class Plugin(NamedTuple):
    """A module to import, whose decorators register its checks and schemas; or an object in it, to register as `name`.

    `kind` is "module", "check" or "schema"; `target` is `package.module` or `package.module:object`.
    """

    kind: str
    name: str
    target: str

    @property
    def spec(self) -> str:
        """Return it as text, to be sent to a process of the pool."""
        return self.target if self.kind == "module" else f"{self.kind}:{self.name}={self.target}"

    @classmethod
    def of(cls, spec: str) -> Self:
        """Parse such a text."""
        kind, _, rest = spec.partition(":")
        name, equals, target = rest.rpartition("=")
        return cls(kind, name, target) if equals else cls("module", spec, spec)


def load_all(specs: Iterable[str]) -> None:
    """Load plugins, each given as `Plugin.spec`, in order. Raises PluginError for the first that fails."""
    for spec in specs:
        load(Plugin.of(spec))


def load(plugin: Plugin) -> None:
    """Import a plugin and register its object, if any; idempotent. Raises PluginError, whatever the plugin raises."""
    if not _TARGET.fullmatch(plugin.target):
        msg = "must be module or module:object"
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
    except BaseException as exc:  # a plugin may raise anything, even SystemExit
        _forget_the_unimported()
        raise PluginError(_reason(exc, module)) from exc


def _member(thing: Any, step: str, module: str) -> Any:
    try:
        return getattr(thing, step)
    except AttributeError:
        msg = f"the module {module} was imported, but has no {step!r}"
        raise PluginError(msg) from None


def _register(plugin: Plugin, thing: Any) -> None:
    """Register an object, unless a decorator in its module did so."""
    is_schema = inspect.isclass(thing) and issubclass(thing, Schema)
    if plugin.kind == "schema" and is_schema:
        if all(each is not thing for each in documents._REGISTRY.values()):
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
    """Remove what modules registered before their import failed: it would block the names for others."""
    for name in checks.names():
        if checks.find(name).function.__module__ not in sys.modules:
            del checks.registry._REGISTRY[name]
    for name, schema in list(documents._REGISTRY.items()):
        if schema.__module__ not in sys.modules:
            del documents._REGISTRY[name], documents._INSTANCES[name]


def _reason(exc: BaseException, module: str) -> str:
    try:
        text = exc.msg if isinstance(exc, SyntaxError) else str(exc)  # the line is added below
        message = " ".join(text.split())[:MAX_REASON]
    except BaseException:  # noqa: BLE001  __str__ may raise anything too
        message = "(its message cannot be read)"
    reason = f"{type(exc).__name__}: {message}" if message else type(exc).__name__
    if isinstance(exc, ModuleNotFoundError) and f"{module}.".startswith(f"{exc.name}."):
        return f"{reason}: install it, or put its folder on PYTHONPATH"
    where = _line(exc, module)
    return f"{reason} ({where})" if where else reason


def _line(exc: BaseException, module: str) -> str:
    """Return the plugin's line that failed: the innermost frame of its own in the traceback."""
    if isinstance(exc, SyntaxError) and exc.filename and not exc.filename.startswith("<"):
        return f"{exc.filename}, line {exc.lineno}"
    package = module.partition(".")[0]
    own = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(exc.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return own[-1] if own else ""
