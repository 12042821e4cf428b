"""Upstreams for the tests of what fetches; a module that needs another kind has fixtures of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import pytest

from tests.unit.streams.test_client import served, spoken


@pytest.fixture
async def opened():
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
