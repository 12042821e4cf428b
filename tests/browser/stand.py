"""What the browser tests stand on: the pages over a fake query, and a tab that notes whatever goes wrong in it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Browser, Page, Response, expect

from agents.web.live import Events
from agents.web.pages import About, Pages
from agents.web.sample import Sampler
from streams.web.server import Server
from tests.browser.fake import FakeQuery, FakeTail, row_of

TOKEN = "a-token-of-the-tests"
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
PATHS = {
    "overview": "/",
    "live": "/live",
    "tables": "/tables",
    "table": "/tables/answers",
    "row": "/tables/answers/item-00003",
    "routes": "/routes",
    "route": "/routes/orders",
    "hosts": "/hosts",
    "partitions": "/partitions",
    "workers": "/workers",
    "errors": "/errors",
    "send": "/send",
}
"""Each page by name, with an address that shows something."""

# In every document before anything else runs: reports of the policy, and a trap that hostile strings call.
_WATCH = """
window.reports = [];
window.trapped = [];
document.addEventListener("securitypolicyviolation", (event) => window.reports.push(
  `${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
window.trap = (...told) => window.trapped.push(told.join(" "));
"""


class Stand:
    """The server with pages over `query`, and events of `tail`. `posted` is what was posted to it,
    and `written` its text.
    """

    def __init__(self, query: FakeQuery | None = None) -> None:
        self.query = query or FakeQuery()
        self.tail = FakeTail()
        self.posted: list[tuple[str, dict[str, str], Any]] = []
        self.written: list[str] = []
        self.answers: dict[str, tuple[int, Any]] = {}
        self._stack = AsyncExitStack()
        self.port = 0

    async def __aenter__(self) -> Self:
        about = About("mill-a", "0.1.0", "requests", token_set=True)
        events = Events(self.query.overview, Sampler(self.tail.watching, row_of))
        pages = Pages(self.query, about)
        routes = [*pages.routes(), *events.routes(), web.post("/api/{name}", self._post)]
        opened = Server("127.0.0.1", self.port, dict, routes, token=TOKEN, error_page=pages.problem)
        server = await self._stack.enter_async_context(opened)
        await self._stack.enter_async_context(events)
        self.port, self.url = server.port, f"http://127.0.0.1:{server.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _post(self, request: web.Request) -> web.Response:
        self.posted.append((request.path_qs, dict(request.headers), await request.json()))
        self.written.append(await request.text())
        status, value = self.answers.get(request.match_info["name"], (404, {"detail": "nothing here"}))
        if isinstance(value, str):  # JSON, digit by digit
            return web.Response(text=value, status=status, content_type="application/json")
        return web.json_response(value, status=status)


class Tab:
    """A tab of its own context. Leaving fails if anything went wrong inside, unless it is told to `expect` it."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self._browser = browser
        self._options = context
        self.url = url
        self.errors: list[str] = []
        self._expected: list[str] = []

    async def __aenter__(self) -> Self:
        self.context = await self._browser.new_context(base_url=self.url, **self._options)
        await self.context.add_init_script(_WATCH)
        self.page: Page = await self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(f"{error}"))
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                await self.assert_clean()
        finally:
            await self.context.close()

    async def go(self, path: str) -> Response:
        """Go to a page and wait until its stream is live."""
        response = await self.page.goto(path)
        assert response is not None
        if self._options.get("java_script_enabled", True):
            await expect(self.page.locator("#connection-text")).to_have_text("Live")
        return response

    def expect(self, text: str) -> None:
        """Say that errors with this text are part of the test."""
        self._expected.append(text)

    async def assert_clean(self) -> None:
        """Fail for an error on the console, a report of the policy, or a script that ran from a hostile string."""
        if self._options.get("java_script_enabled", True):
            assert await self.page.evaluate("window.reports") == []
            assert await self.page.evaluate("window.trapped") == []
        assert [each for each in self.errors if not any(text in each for text in self._expected)] == []

    async def violations(self) -> list[str]:
        """Return what axe-core finds against WCAG 2.2 AA and its best practices, a line each."""
        # Evaluated from outside, as a debugger does: the policy allows no script of another origin.
        await self.page.evaluate(AXE_SCRIPT)
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        found = await self.page.evaluate("(tags) => axe.run(document, {runOnly: tags})", tags)
        return [f"{each['id']}: {node['html']} {node['failureSummary']}" for each in found["violations"]
                for node in each["nodes"]]  # fmt: skip

    async def beyond(self) -> list[str]:
        """Return the elements that reach beyond the right edge of the screen, but for what can be scrolled there."""
        return await self.page.evaluate(
            """() => [...document.querySelectorAll("body *")]
              .filter((each) => each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".scroll > *"))
              .map((each) => `${each.tagName} ${each.className}`)"""
        )

    async def shot(self, name: str) -> None:
        """Keep a picture."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SHOTS / f"{name}.png")

    async def texts(self, selector: str) -> Sequence[str]:
        """Return the text of every element that a selector finds, without the blanks around it."""
        return [text.strip() for text in await self.page.locator(selector).all_inner_texts()]
