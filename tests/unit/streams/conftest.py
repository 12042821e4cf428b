"""Upstreams for the tests of what fetches; a module that needs another kind has fixtures of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import pytest

from streams.http import fit
from tests.unit.streams.test_client import served, spoken

PATHS = ("exchange", "session")
"""How a request goes out, unless it goes through a proxy: the second where aiohttp does not fit the first."""


@pytest.fixture(params=PATHS)
def way(request, monkeypatch):
    """Open clients that take this path."""
    if request.param == "session":
        monkeypatch.setattr(fit, "misfits", lambda: ["the.part"])
        monkeypatch.setattr(fit.logger, "disabled", True)
    return request.param


@pytest.fixture
async def opened(way):
    """Close what a test opens, last first."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def serve(opened):
    """Start servers, each on a port of its own."""
    return partial(served, opened)


@pytest.fixture
async def speak(opened):
    """Start servers that answer any request with bytes of one's own and hang up."""
    return partial(spoken, opened)


@pytest.fixture
async def upstream(serve):
    return await serve()
