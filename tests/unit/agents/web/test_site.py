from __future__ import annotations

from contextlib import asynccontextmanager

import aiohttp
import jinja2
import pytest

from agents.web.api.query import Query
from agents.web.api.routes import open_api
from agents.web.site import ELSEWHERE, Site
from models.source import Sources
from streams.config.settings import Settings
from streams.web.server import Server


@asynccontextmanager
async def served(role):
    settings = Settings(role=role)
    async with Query("w") as query, open_api(settings, Sources(), query) as api:
        site = Site(settings, api)
        async with (
            Server("127.0.0.1", 0, dict, site.routes(), error_page=site.error_page) as server,
            site.events,
            aiohttp.ClientSession(f"http://127.0.0.1:{server.port}", headers={"Accept": "text/html"}) as session,
        ):
            yield session


@pytest.mark.parametrize(
    "path", ["/", "/live", "/tables/answers", "/errors", "/events", "/static/app.js", "/api/tables", "/api/overview",
             "/api/workers", "/api/tables/answers/k"],
)  # fmt: skip
async def test_who_only_answers_has_no_pages_and_says_so(path):
    """It is not to be asked again: 404 without Retry-After, and nothing that asks by itself, a page neither."""
    async with served("answer") as session, session.get(path) as response:
        told = await response.json(content_type="application/problem+json")
        assert (response.status, "Retry-After" in response.headers, told["detail"]) == (404, False, ELSEWHERE)


@pytest.mark.slow
async def test_what_is_a_workers_own_is_there_whatever_its_role():
    """Documents are read on any worker, and requests sent and caches purged (here: refused without a token)."""
    for role in ("answer", "all"):
        async with served(role) as session:
            for method, path, status in (("GET", "/docs", 200), ("GET", "/openapi.json", 200),
                                         ("POST", "/api/requests", 403), ("DELETE", "/api/cache", 403),
                                         ("GET", "/api/pool", 503), ("GET", "/readyz", 200)):  # fmt: skip
                async with session.request(method, path) as response:
                    assert response.status == status


@pytest.mark.slow
async def test_the_apis_own_address_leads_to_its_description():
    """/api and /api/ are looked for by hand."""
    async with served("all") as session:
        for path in ("/api", "/api/"):
            async with session.get(path) as response:
                assert (response.status, response.url.path) == (200, "/docs")
        async with session.get("/tables") as response:
            assert response.status == 503  # of a worker whose tables are on their way


@pytest.mark.slow
async def test_no_page_is_compiled_while_the_loop_serves(monkeypatch):
    """A template takes up to 80 ms to compile: all are when the first page is asked for, also the one of a problem."""
    async with served("all") as session:
        monkeypatch.setattr(jinja2.Environment, "compile", None)
        for path in ("", "tables", "tables/answers", "live", "routes", "hosts", "partitions", "workers", "errors",
                     "send"):  # fmt: skip
            async with session.get(f"/{path}") as response:
                assert response.content_type == "text/html"
                assert response.status in (200, 503), await response.text()
