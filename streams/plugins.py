"""The operator's own code: modules whose decorators register checks and schemas."""

from __future__ import annotations

import importlib

from models.errors import SettingsError
from streams.settings import Settings


def load_plugins(settings: Settings) -> None:
    """Import the plugins, whose decorators register checks and schemas. Raises SettingsError naming the bad one."""
    for name in settings.plugins:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as exc:  # a plugin is foreign code
            msg = f"MILLRACE_PLUGINS: {name!r} cannot be imported: {type(exc).__name__}: {exc}"
            raise SettingsError(msg) from exc
