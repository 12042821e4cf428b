"""Problem details (RFC 9457): the form of every error response."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from models import strictjson

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
CLIENT_GONE = 499
"""A status that nobody gets: the client closed its connection before the answer (nginx's number for it)."""
_CARRIED = ("Allow", "WWW-Authenticate", "Retry-After")
_DETAILS = {
    HTTPStatus.NOT_FOUND: "there is nothing at this path",
    HTTPStatus.METHOD_NOT_ALLOWED: "method not allowed for this path",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body is larger than any request may be",
}


ERROR_PAGE: web.AppKey[Callable[[Problem], web.Response]] = web.AppKey("error_page")
"""The function that makes the page of a problem, for a browser that requests a page that does not exist."""


class Problem(Exception):
    """An error response. `errors` are the invalid fields: {"field", "message"} each."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.more = more

    def response(self) -> web.Response:
        """Return it as a response."""
        status = HTTPStatus(self.status)
        members: dict[str, Any] = {"title": status.phrase, "status": self.status, "detail": self.detail, **self.more}
        if self.errors:
            members["errors"] = self.errors
        body = strictjson.dumps(members) + b"\n"
        return web.Response(status=self.status, body=body, content_type=MEDIA_TYPE, headers=self.headers)


def not_ready(detail: str, retry_after: int = 2) -> Problem:
    """Return the problem of something that is not ready yet; `retry_after` is in seconds."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(retry_after)})


def _as_page_or_json(request: web.Request, problem: Problem) -> web.Response:
    page = request.app.get(ERROR_PAGE)
    looks = "text/html" in request.headers.get(hdrs.ACCEPT, "") and not request.path.startswith("/api/")
    if page is None or problem.status != HTTPStatus.NOT_FOUND or not looks:
        return problem.response()
    return page(problem)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer exceptions with problem details; an unexpected one is logged, and its text is not returned."""
    try:
        return await handler(request)
    except Problem as exc:
        return _as_page_or_json(request, exc)
    except web.HTTPException as exc:
        if exc.status < HTTPStatus.BAD_REQUEST:
            raise
        kept = {name: exc.headers[name] for name in _CARRIED if name in exc.headers}
        detail = _DETAILS.get(HTTPStatus(exc.status)) or exc.text or exc.reason
        return _as_page_or_json(request, Problem(exc.status, detail.strip(), headers=kept))
    except Exception as exc:
        if isinstance(exc, ConnectionResetError) and (request.transport is None or request.transport.is_closing()):
            return web.Response(status=CLIENT_GONE)
        logger.exception("internal error while answering %s %r: the client got 500; report this fault",
                         request.method, request.path)  # fmt: skip
        return Problem(
            HTTPStatus.INTERNAL_SERVER_ERROR, "an internal error: the worker's log has the traceback"
        ).response()
