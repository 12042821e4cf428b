"""Answers in pages on a real worker and Kafka, from real upstreams."""

from __future__ import annotations

import json
from pathlib import Path

from aiohttp import web

from tests.integration.stage import Stage, Upstream
from tests.integration.test_sources import answer

SOURCES = """
[sources.members]
url = "{url}/members?team={{team}}"
pages = {{ next = "links.next", items = "data", limit = 4 }}
auth = {{ type = "bearer", token = {{ env = "MEMBERS_TOKEN" }} }}

[sources.numbered]
url = "{url}/numbered"
pages = {{ param = "page" }}
"""


class Directory(Upstream):
    """Lists members by pages of two; `elsewhere` is where the last page is, and `asked` has path, query and token."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str | None]] = []
        self.elsewhere = ""
        self.app.router.add_get("/members", self._members)
        self.app.router.add_get("/numbered", self._numbered)

    async def _members(self, request: web.Request) -> web.Response:
        self.asked.append((request.path_qs, request.headers.get("Authorization")))
        number = int(request.query.get("p", "1"))
        links = {1: "?team=a&p=2", 2: self.elsewhere}
        items = ",".join(f'{{"n": {each}, "score": 1.10}}' for each in (2 * number - 1, 2 * number))
        text = f'{{"data": [{items}], "links": {{"next": {json.dumps(links.get(number))}}}}}'
        return web.Response(text=text, content_type="application/json")

    async def _numbered(self, request: web.Request) -> web.Response:
        self.asked.append((request.path_qs, None))
        number = int(request.query["page"])
        return web.json_response([] if number > 3 else ["x" * 40_000 + str(number)] * 2)


async def test_pages_make_one_document(stage: Stage, tmp_path: Path) -> None:
    """All members are in one document, with the digits of their numbers, and the second request is a hit. The page of
    another origin gets no token. Pages too large for the event loop are read by another process.
    """
    async with Directory() as directory, Directory() as other:
        directory.elsewhere = f"{other.url}/members?p=3"
        (tmp_path / "sources.toml").write_text(SOURCES.format(url=directory.url))
        stage.settings |= {"MILLRACE_SOURCES": str(tmp_path / "sources.toml"), "MEMBERS_TOKEN": "token-of-members"}
        await stage.start()
        first = await answer(stage, id="1", source="members", params={"team": "a"})
        assert (first["outcome"], first["attempts"]) == ("ok", 3), first
        assert [each["n"] for each in first["document"]] == [1, 2, 3, 4, 5, 6]
        assert (await answer(stage, id="2", source="members", params={"team": "a"}))["cache"] == "hit"
        token = "Bearer token-of-members"
        assert directory.asked == [("/members?team=a", token), ("/members?team=a&p=2", token)]
        assert other.asked == [("/members?p=3", None)]

        numbered = await answer(stage, id="3", source="numbered")
        assert [each[-1] for each in numbered["document"]] == list("112233")
        assert directory.asked[2:] == [(f"/numbered?page={number}", None) for number in (1, 2, 3, 4)]
