"""JSON in and out: reads a JSON body; answers with JSON or CSV, an ETag, and 304 if the client has it already."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from itertools import chain
from types import MappingProxyType
from typing import Any

from aiohttp import hdrs, web

from models import strictjson
from streams.web.problems import Problem

READ_LIMIT = 10.0
"""Seconds that a body may take to arrive."""
CSV = "text/csv"
JSON = "application/json"
SLICE = 0.002
"""Seconds of work on a body between which other tasks run."""
# Characters that begin a formula in a spreadsheet (OWASP, CSV Injection), and their wide forms.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  the wide forms are meant


async def read_json(request: web.Request) -> bytes:
    """Return a JSON body. Raises Problem: 415 for another type, 408, and 413 for one larger than any request."""
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, as application/json, not compressed")
    try:
        async with asyncio.timeout(READ_LIMIT):
            return await request.read()
    except TimeoutError:
        detail = f"the body did not arrive within {READ_LIMIT:g} s"
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"}) from None


def answer(request: web.Request, value: Mapping[str, Any], *, exact: bool = False) -> web.Response:
    """Return a value as JSON; `exact`: with the digits of its numbers, see `strictjson.dumps`."""
    return tagged(request, strictjson.dumps(value, exact=exact) + b"\n", JSON)


async def answer_rows(request: web.Request, value: Mapping[str, Any], columns: Sequence[str]) -> web.Response:
    """Return a value as JSON, or its `rows` as CSV if the client requests it; other tasks run between the rows."""
    if wants_csv(request):
        body, tag = await _joined(_csv_lines(value["rows"], columns))
        return tagged(request, body, CSV, _beside(request, value), tag=tag)
    body, tag = await _joined(_json_pieces(value))
    return tagged(request, body, JSON, tag=tag)


async def _joined(pieces: Iterable[bytes]) -> tuple[bytearray, str]:
    """Join the pieces of a body in slices of a few milliseconds; returns its ETag, too."""
    body, digest = bytearray(), hashlib.blake2b(digest_size=12)
    began = time.perf_counter()
    for piece in pieces:
        body += piece
        digest.update(piece)
        if time.perf_counter() - began > SLICE:
            await asyncio.sleep(0)
            began = time.perf_counter()
    return body, digest.hexdigest()  # a copy of 32 MiB alone takes more than a turn may


def _json_pieces(value: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the bytes of `strictjson.dumps` and a line break, each row by itself."""
    before = b"{"
    for name, member in value.items():
        yield before + strictjson.dumps(name) + b":"
        if name == "rows":
            for number, row in enumerate(member):
                yield (b"," if number else b"[") + strictjson.dumps(row)
            yield b"]" if member else b"[]"
        else:
            yield strictjson.dumps(member)
        before = b","
    yield b"}\n"


def wants_csv(request: web.Request) -> bool:
    """Whether the client requests CSV: `?format=csv`, or an Accept that names it before JSON. Raises Problem."""
    wanted = request.query.get("format")
    if wanted not in (None, "csv", "json"):
        raise Problem(
            HTTPStatus.BAD_REQUEST, "format: must be csv or json", errors=_field("format", "must be csv or json")
        )
    if wanted is not None:
        return wanted == "csv"
    accepted = request.headers.get(hdrs.ACCEPT, "")
    at = accepted.find(CSV)
    return at >= 0 and not 0 <= accepted.find(JSON) < at


def _field(name: str, message: str) -> list[dict[str, str]]:
    return [{"field": name, "message": message}]


def tagged(
    request: web.Request,
    body: bytes | bytearray,
    content_type: str,
    headers: Mapping[str, str] = MappingProxyType({}),
    tag: str = "",
) -> web.Response:
    """Return a body with its ETag, which is hashed unless it is given; or 304 if the client has it already."""
    tag = tag or hashlib.blake2b(body, digest_size=12).hexdigest()
    unchanged = any(each.value in (tag, "*") for each in request.if_none_match or ())
    response = (
        web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        if unchanged
        else web.Response(body=body, content_type=content_type, headers=headers)
    )
    response.etag = tag
    response.headers[hdrs.VARY] = hdrs.ACCEPT
    return response


def _beside(request: web.Request, value: Mapping[str, Any]) -> dict[str, str]:
    """Return headers for what CSV has no room for: the next page, and what is missing."""
    headers: dict[str, str] = {hdrs.CONTENT_DISPOSITION: 'attachment; filename="millrace.csv"'}
    if "cursor" in value:
        following = request.rel_url.update_query(cursor=value["cursor"])
        headers[hdrs.LINK] = f'<{following}>; rel="next"'
    if "partial" in value:
        headers["Millrace-Partial"] = strictjson.dumps(value["partial"]).decode().encode("ascii", "replace").decode()
    return headers


def _csv_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[bytes]:
    for cells in chain([columns], ([_cell(row.get(name)) for name in columns] for row in rows)):
        written = io.StringIO()
        csv.writer(written, quoting=csv.QUOTE_ALL).writerow(cells)
        yield written.getvalue().encode(errors="replace")


def _cell(value: Any) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = value if isinstance(value, str) else strictjson.dumps(value).decode()
    return "'" + text if text.startswith(_FORMULA) else text
