"""Swagger UI in a real browser, over the real document: under the policy, from here alone, and of use."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from tests.browser.stand import Tab
from tests.unit.agents.web.fleet import Fleet, counted


async def test_the_docs_work_under_the_policy(browser: Browser) -> None:
    """Every operation is shown, one is tried out, nothing is reported or asked of anybody else."""
    async with Fleet({0}) as fleet:
        fleet.put("hosts", 0, b"a.example:80", counted("host", "a.example:80"))
        url = fleet.members[0].url
        asked: list[str] = []
        async with Tab(browser, url) as tab:
            tab.page.on("request", lambda request: asked.append(request.url))
            await tab.page.goto(url + "/docs")
            await expect(tab.page.locator(".opblock")).to_have_count(19, timeout=20_000)
            operation = tab.page.locator("#operations-read-hosts")
            await operation.locator(".opblock-summary-control").click()
            await operation.locator(".try-out__btn").click()
            await operation.locator(".execute").click()
            await expect(operation.locator(".live-responses-table tbody .response-col_status")).to_contain_text("200")
        assert asked
        assert not [each for each in asked if not each.startswith((url + "/", "data:"))]


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json"])
async def test_a_document_is_shown_as_what_it_is(browser: Browser, path: str) -> None:
    """Opened in a browser a document runs nothing and reports nothing."""
    async with Fleet({0}) as fleet, Tab(browser, fleet.members[0].url) as tab:
        tab.expect("404")  # of an icon, which the pages have
        response = await tab.page.goto(fleet.members[0].url + path)
        assert response is not None
        assert response.headers["content-type"] == "application/json"
