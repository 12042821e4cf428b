"""What the files of deploy/ and beside it are judged by: this version's settings, routes and deadlines."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from aiohttp import web

from streams.config import settings
from streams.config.docs import unknown_names
from streams.web.probes import Probes

ROOT = Path(__file__).parents[3]
FILE = "_FILE"


@pytest.fixture
def root():
    """The project's folder."""
    return ROOT


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Load the settings as a worker would with these variables; a secret's file is put there, no file is read."""

    def load_from(variables):
        for name in list(os.environ):
            if name.startswith(("KAFKA_", "MILLRACE_")):
                monkeypatch.delenv(name)
        secret = tmp_path / "secret"
        secret.write_text("of no use")
        for name, value in variables.items():
            monkeypatch.setenv(name, str(secret) if name.endswith(FILE) else value)
        loaded = settings.load()
        assert list(unknown_names()) == []
        shown = {name for name, _ in settings.names(loaded)}
        ours = {name.removesuffix(FILE) for name in variables if re.match("KAFKA_|MILLRACE_", name)}
        assert ours <= shown
        return loaded

    return load_from


@pytest.fixture
def probed():
    """The paths that the server has for probes."""
    app = web.Application()
    app.router.add_routes(Probes(dict).routes())
    return {route.resource.canonical for route in app.router.routes()}
