"""Problem details (RFC 9457): what every answer of an error is, whoever raises it."""

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
_CARRIED = ("Allow", "WWW-Authenticate", "Retry-After")
_DETAILS = {
    HTTPStatus.NOT_FOUND: "there is nothing at this path",
    HTTPStatus.METHOD_NOT_ALLOWED: "this path does not take this method",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body is larger than any request that is taken",
}


ERROR_PAGE: web.AppKey[Callable[[Problem], web.Response]] = web.AppKey("error_page")
"""What makes a page of a problem, for who looks for a page that there is not."""


class Problem(Exception):
    """An answer that is an error. `errors` name the fields that are wrong: {"field", "message"} each."""

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
    """Return the problem of something that will be there soon; `retry_after` is in seconds."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(retry_after)})


def _as_page_or_json(request: web.Request, problem: Problem) -> web.Response:
    page = request.app.get(ERROR_PAGE)
    looks = "text/html" in request.headers.get(hdrs.ACCEPT, "") and not request.path.startswith("/api/")
    if page is None or problem.status != HTTPStatus.NOT_FOUND or not looks:
        return problem.response()
    return page(problem)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer whatever is raised with problem details; what nobody expected is logged and told without its text."""
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
    except Exception:
        logger.exception("a fault in answering %s %r", request.method, request.path)
        return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the worker: its log has the traceback").response()
