"""The purge of this worker's cache: `DELETE /api/cache?url=…|source=…|all=true`."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from agents.answer.parsed_requests import matching
from agents.api.query import Query
from models.errors import PurgeError
from streams.web.answers import answer
from streams.web.problems import Problem


async def purge(asked: Query, request: web.Request) -> web.Response:
    """Remove what is named from every tier."""
    query = request.query
    if len(query) != 1 or not query.keys() <= {"url", "source", "all"} or query.get("all", "true") != "true":
        raise Problem(HTTPStatus.BAD_REQUEST, "give one of url=…, source=… and all=true")
    try:
        removed = await asked.purged().purge(matching(query.get("url"), query.get("source")))
    except PurgeError as exc:
        raise Problem(HTTPStatus.BAD_GATEWAY, str(exc), removed=exc.removed) from exc
    return answer(request, {"removed": removed})
