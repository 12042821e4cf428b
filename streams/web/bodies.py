"""What a client sends: JSON, of a bounded size, within a bounded time."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from aiohttp import web

from streams.web.problems import Problem

READ_LIMIT = 10.0
"""Seconds that a body may take to come."""


async def read_json(request: web.Request) -> bytes:
    """Return a body that says it is JSON. Raises Problem: 415, 408, and 413 for one that is larger than any request."""
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, as application/json, not compressed")
    try:
        async with asyncio.timeout(READ_LIMIT):
            return await request.read()
    except TimeoutError:
        detail = f"the body did not come within {READ_LIMIT:g} s"
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"}) from None
