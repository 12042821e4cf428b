from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from tests.browser.stand import Stand, Tab

HERE = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
PATIENCE = 30_000
"""Milliseconds that a test waits for what must be shown: a busy machine shows it late."""
expect.set_options(timeout=PATIENCE)
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all of them on one loop, the browser's."""
    for item in items:
        if item.path.is_relative_to(HERE) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, one for all tests. In CI it must be there."""
    if shutil.which(CHROMIUM) is None:
        message = f"needs Chromium at {CHROMIUM}: apt-get install chromium"
        pytest.fail(message, pytrace=False) if os.environ.get("CI") else pytest.skip(message)
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        await opened.close()


@pytest_asyncio.fixture(loop_scope="session")
async def stand() -> AsyncIterator[Stand]:
    """The pages over a fake query, served as a worker serves them."""
    async with Stand() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Browser, stand: Stand) -> AsyncIterator[Tab]:
    """A tab on the stand; no test may end with a script's error, a console error or a report of the content policy."""
    async with Tab(browser, stand.url) as opened:
        yield opened
