"""Takes a request over HTTP: validates it as a worker would, puts it on the topic, and waits for its result if
requested.

The reader of the results is at their end before the request is sent, so that no result is missed.
"""

from __future__ import annotations

import asyncio
import pickle
import re
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote

from aiohttp import web

from agents.answer.headers import trace_headers
from agents.answer.parsed_requests import parse_request
from agents.tables.rows import decode_key, encode_key
from agents.web.api.selection import invalid_parameter
from models import request as requests
from models import strictjson
from models.errors import AnswerError, BrokerError, InvalidRequest
from models.large import LARGE, is_large
from models.result import read_result
from models.source import Sources
from streams.config.plugins import plugin_specs
from streams.config.settings import Settings
from streams.kafka.sender import Sender
from streams.kafka.tail import Tail
from streams.pool import LargeWork
from streams.web.problems import Problem
from streams.web.responses import read_json

MAX_WAIT = 60.0
"""Seconds that a client may wait for a result."""
MAX_KEY = 4_096
"""Characters of a key."""
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class SubmittedRequest:
    """A valid request: its id, the record's value and key, and how long to wait for its result."""

    id: str
    value: bytes
    key: bytes | None
    wait: float


class RequestSubmission:
    """Opened with `async with`; connects to Kafka with the first request. `sources` are the worker's."""

    def __init__(self, settings: Settings, sources: Sources, tail: Tail) -> None:
        self._topic = settings.requests_topic
        self._sources = sources
        self._tail = tail
        self._sender = Sender(settings.kafka, f"{settings.worker_id}-web")
        self._large = LargeWork(plugin_specs(settings))
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._sender)
        await self._stack.enter_async_context(self._large)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer 202 with the id, or 200 with the result if the client waits and it arrives in time."""
        submitted = await self._validate(await read_json(request), request.query)
        carried = [(name.lower(), text.encode(errors="replace")) for name, text in request.headers.items()]
        headers = [("content-type", b"application/json"), *trace_headers(carried)]
        try:
            return await self._submit(submitted, headers)
        except BrokerError as exc:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE, str(exc), headers={"Retry-After": "5"}, id=submitted.id
            ) from exc

    async def _submit(self, submitted: SubmittedRequest, headers: list[tuple[str, bytes]]) -> web.Response:
        partition = await self._sender.partition_for(self._topic, submitted.key)
        if not submitted.wait:
            offset = await self._sender.send(self._topic, partition, submitted.key, submitted.value, headers)
            return self._accepted(submitted, partition, offset)
        async with self._tail.expecting(submitted.id, partition) as result_coming:
            offset = await self._sender.send(self._topic, partition, submitted.key, submitted.value, headers)
            try:
                async with asyncio.timeout(submitted.wait):
                    result = await result_coming
            except TimeoutError:
                return self._accepted(submitted, partition, offset)
        if not await self._is_result(result):  # somebody else wrote that record
            return self._accepted(submitted, partition, offset)
        return web.Response(body=result + b"\n", content_type="application/json",
                            headers={"Content-Location": _location(submitted)})  # fmt: skip

    async def _is_result(self, value: bytes) -> bool:
        try:
            if len(value) > LARGE:
                return await self._large.run("look at a result", value) == b"true"
            read_result(value)
        except (ValueError, AnswerError):
            return False
        return True

    def _accepted(self, submitted: SubmittedRequest, partition: int, offset: int) -> web.Response:
        accepted = {"id": submitted.id, "topic": self._topic, "partition": partition, "offset": offset}
        return web.Response(status=HTTPStatus.ACCEPTED, body=strictjson.dumps(accepted) + b"\n",
                            content_type="application/json", headers={"Location": _location(submitted)})  # fmt: skip

    async def _validate(self, body: bytes, query: Mapping[str, str]) -> SubmittedRequest:
        """Return the request to send. Raises Problem with the invalid fields."""
        key, wait = _key(query), _wait(query.get("wait"))
        if len(body) > requests.MAX_BYTES:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have at most {requests.MAX_BYTES} bytes")
        try:
            if is_large(body):
                given, request = pickle.loads(await self._large.run("read a request", body))  # noqa: S301  our own process
            else:
                given, request = requests.load(_members(body))
            parse_request(request, self._sources)
        except AnswerError as exc:
            raise _refused(exc) from None
        if given is not None:
            return SubmittedRequest(given, body, key, wait)
        made = uuid.uuid4().hex
        return SubmittedRequest(
            made, b'{"id":"%b",%b' % (made.encode(), body.partition(b"{")[2]), key, wait
        )  # digits stay


def _members(body: bytes) -> Any:
    try:
        return strictjson.loads(body, exact=True)
    except ValueError as exc:
        raise Problem(HTTPStatus.BAD_REQUEST, str(exc)) from None


def _refused(exc: AnswerError) -> Problem:
    fields = exc.fields if isinstance(exc, InvalidRequest) and exc.fields else (_split(str(exc)),)
    errors = [{"field": field, "message": reason} for field, reason in fields]
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(exc), errors=errors, outcome=exc.outcome)


def _split(text: str) -> tuple[str, str]:
    field, colon, reason = text.partition(": ")
    return (field, reason) if colon and " " not in field else ("", text)


def _key(query: Mapping[str, str]) -> bytes | None:
    text, encoding = query.get("key"), query.get("encoding")
    if encoding not in (None, "base64"):
        raise invalid_parameter("encoding", "must be base64, or absent")
    if text is None:
        return None
    if len(text) > MAX_KEY:
        raise invalid_parameter("key", f"at most {MAX_KEY} characters are allowed")
    try:
        return decode_key(text) if encoding else text.encode()
    except ValueError:
        raise invalid_parameter("key", "is not base64" if encoding else "is not valid text") from None


def _wait(text: str | None) -> float:
    if text is None:
        return 0.0
    if not _NUMBER.fullmatch(text) or float(text) > MAX_WAIT:
        raise invalid_parameter("wait", f"must be a number of seconds from 0 to {MAX_WAIT:g}")
    return float(text)


def _location(submitted: SubmittedRequest) -> str:
    """Return where the result will be: by its key, or without one by its id."""
    key = submitted.id.encode() if submitted.key is None else submitted.key
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = ""
    if text not in ("", ".", ".."):  # a client would take dots for a folder (RFC 3986, section 5.2.4)
        return "/api/tables/answers/" + quote(text, safe="")
    return f"/api/tables/answers/{encode_key(key)}?encoding=base64"
