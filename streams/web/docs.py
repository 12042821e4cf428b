"""`/docs`: Swagger UI over the API's own document, from files of ours alone; and the documents themselves."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from aiohttp import web

from streams.web.answers import answer, tagged

_STATIC = files("streams.web") / "static"
_FILES = {
    "": ("docs/index.html", "text/html"),
    "init.js": ("docs/init.js", "text/javascript"),
    "swagger-ui.css": ("swagger-ui/swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("swagger-ui/swagger-ui-bundle.js", "text/javascript"),
}


class Docs:
    """`documents` are told by path."""

    def __init__(self, documents: Mapping[str, Mapping[str, Any]]) -> None:
        self._documents = documents
        self._read: dict[str, bytes] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for the server."""
        told = [web.get(path, self._document) for path in self._documents]
        pages = [web.get(f"/docs/{name}" if name else "/docs", self._file) for name in _FILES]
        return [*told, *pages]

    async def _document(self, request: web.Request) -> web.Response:
        return answer(request, self._documents[request.path])

    async def _file(self, request: web.Request) -> web.Response:
        name = request.path.removeprefix("/docs").removeprefix("/")
        path, content_type = _FILES[name]
        if name not in self._read:
            self._read[name] = (_STATIC / path).read_bytes()
        return tagged(request, self._read[name], content_type)
