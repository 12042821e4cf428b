"""Who looks for a page that there is not gets a page; programs get problem details."""

from __future__ import annotations

import aiohttp
import pytest

from agents.web.pages import About, Pages
from streams.web.server import Server

BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"


@pytest.fixture
async def url():
    pages = Pages(None, About("mill-a", "0.1.0", "requests", token_set=False))
    async with Server("127.0.0.1", 0, dict, pages.routes(), error_page=pages.problem) as server:
        yield f"http://127.0.0.1:{server.port}"


async def ask(url, accept):
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Accept": accept}) as response:
        return response.status, response.content_type, await response.text()


@pytest.mark.parametrize("path", ["/nothing", "/<b>/x"])
async def test_a_browser_gets_a_page(url, path):
    """404 as HTML with the navigation, which says nothing of what was asked for."""
    status, kind, text = await ask(url + path, BROWSER)
    assert (status, kind) == (404, "text/html")
    assert 'href="/tables"' in text
    assert "there is nothing at this path" in text
    assert "<b>/x" not in text


@pytest.mark.parametrize(("path", "accept"), [("/nothing", "*/*"), ("/nothing", ""), ("/api/nothing", BROWSER)])
async def test_a_program_gets_problem_details(url, path, accept):
    """Who does not ask for HTML, and whoever asks the API, gets JSON."""
    assert (await ask(url + path, accept))[:2] == (404, "application/problem+json")
