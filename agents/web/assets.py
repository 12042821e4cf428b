"""The files under `static/`: those of the pages, with a digest in their address so that browsers cache them, and
`/docs`, Swagger UI over the API's own document.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web

from streams.web.problems import Problem
from streams.web.responses import answer, tagged

FOLDER = Path(__file__).parent / "static"
OURS = ("*.*", "uplot/*")
"""The files of the pages; `Docs` serves the others."""
KEEP = "public, max-age=31536000, immutable"
"""For an address with the digest of what it names."""
REVALIDATE = "no-cache"
"""For an address without one, as the scripts import each other: cached, but revalidated by ETag."""
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", "": "text/plain"}
_DOCS = {
    "": ("docs/index.html", "text/html"),
    "init.js": ("docs/init.js", "text/javascript"),
    "swagger-ui.css": ("swagger-ui/swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("swagger-ui/swagger-ui-bundle.js", "text/javascript"),
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file's bytes, media type and digest."""

    content: bytes
    media_type: str
    digest: str


class Assets:
    """The files of the pages, by their path in the folder. Nothing else is served."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._by_path = {path.relative_to(folder).as_posix(): _read(path)
                         for ours in OURS for path in sorted(folder.glob(ours))}  # fmt: skip

    def address(self, path: str) -> str:
        """Return the address of a file, with its digest. Raises KeyError for one that does not exist."""
        return f"/static/{path}?v={self._by_path[path].digest}"

    async def serve(self, request: web.Request) -> web.Response:
        """Answer `/static/{path}`."""
        asset = self._by_path.get(request.match_info["path"])
        if asset is None:
            raise Problem(HTTPStatus.NOT_FOUND, "no such file")
        keep = KEEP if request.query.get("v") == asset.digest else REVALIDATE
        headers = {"Cache-Control": keep, "ETag": f'"{asset.digest}"'}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return web.Response(body=asset.content, headers=headers, content_type=asset.media_type, charset="utf-8")


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Asset(content, media_type, hashlib.sha256(content).hexdigest()[:12])


class Docs:
    """`/docs`, and `documents` by path."""

    def __init__(self, documents: Mapping[str, Mapping[str, Any]]) -> None:
        self._documents = documents
        self._read: dict[str, bytes] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for the server."""
        documents = [web.get(path, self._document) for path in self._documents]
        pages = [web.get(f"/docs/{name}" if name else "/docs", self._file) for name in _DOCS]
        return [*documents, *pages]

    async def _document(self, request: web.Request) -> web.Response:
        return answer(request, self._documents[request.path])

    async def _file(self, request: web.Request) -> web.Response:
        name = request.path.removeprefix("/docs").removeprefix("/")
        path, content_type = _DOCS[name]
        if name not in self._read:
            self._read[name] = (FOLDER / path).read_bytes()
        return tagged(request, self._read[name], content_type)
