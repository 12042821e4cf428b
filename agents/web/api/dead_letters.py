"""The latest dead letters, one of them whole, and the redrive of selected ones.

The bytes of a dead letter are returned to who has the token alone: its producer may have put secrets in.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from marshmallow import Schema, ValidationError

from agents.redrive.dead_letters import DeadLetters
from agents.redrive.published import BEFORE
from agents.tables.rows import Row, key_fields
from agents.web.api.local_rows import LATEST
from agents.web.api.schemas import PlaceSchema, RedriveSchema
from models import strictjson
from models.dead_letter import DeadLetter, DeadLetterFilter
from models.errors import BrokerError
from models.moment import iso
from models.schema import flatten, problems
from streams.web.problems import Problem
from streams.web.responses import answer, read_json

MAX_ERRORS = 200
"""Dead letters returned at once."""
KEPT = 2.0
"""Seconds for which dead letters that were read are returned again."""
REDRIVE_LIMIT = 60.0
"""Seconds that a redrive may take; what is not committed by then is not redriven."""
MAX_REDRIVE_BYTES = 64 << 10
"""Bytes of JSON that name dead letters: 500 of them take half of it."""

_REDRIVE, _PLACE = RedriveSchema(), PlaceSchema()


FindRow = Callable[[str, bytes], Awaitable[Row | None]]
"""Returns the row of a table that a key has."""


class DeadLetterApi:
    """The dead letters, newest first. `find_row` reads the tables."""

    def __init__(self, dead_letters: DeadLetters, topic: str, find_row: FindRow | None = None) -> None:
        self._dead_letters = dead_letters
        self._topic = topic
        self._find_row = find_row
        self._reading = asyncio.Lock()
        self._read: tuple[float, int, DeadLetterFilter | None, list[DeadLetter]] = (-KEPT, 0, None, [])

    async def latest(self, limit: int, selected: DeadLetterFilter | None = None) -> dict[str, Any]:
        """Return the latest dead letters, or those that match a filter. Raises Problem."""
        if not 1 <= limit <= MAX_ERRORS:
            errors = [{"field": "limit", "message": f"must be 1 to {MAX_ERRORS}"}]
            raise Problem(HTTPStatus.BAD_REQUEST, f"limit: must be 1 to {MAX_ERRORS}", errors=errors)
        async with self._reading:
            at, had, of, latest = self._read
            if time.monotonic() - at > KEPT or had < limit or of != selected:
                try:
                    latest = await self._dead_letters.latest(limit, selected)
                except BrokerError as exc:
                    raise _unavailable(exc) from exc
                self._read = time.monotonic(), limit, selected, latest
        return {"errors": [_as_json(letter, self._topic) for letter in latest[:limit]]}

    async def whole(self, request: web.Request) -> web.Response:
        """Return the dead letter that the body names, {"partition", "offset"}, with key, value, headers and result."""
        place = _read(await read_json(request), _PLACE)
        try:
            async with asyncio.timeout(REDRIVE_LIMIT):
                letter = await self._dead_letters.whole((place["partition"], place["offset"]))
        except TimeoutError:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Kafka takes too long") from None
        except BrokerError as exc:
            raise _unavailable(exc) from exc
        if letter is None:
            raise Problem(HTTPStatus.NOT_FOUND, "there is no dead letter here, or Kafka has deleted it")
        found = _whole(letter, self._topic) | await self._last_result(letter)
        return await asyncio.to_thread(answer, request, found)

    async def _last_result(self, letter: DeadLetter) -> dict[str, Any]:
        """Return the latest result of the letter's request: by the tables, if they have none of a later request with
        its key; else the one that was published with the letter.
        """
        row = await self._latest_row(letter)
        if row is not None:
            place = {name: row[name] for name in ("partition", "offset", "at")}
            text = await asyncio.to_thread(strictjson.dumps, row["result"], exact=True)
            return {"last_result": {**place, "latest": True, **_bytes("value", text)}}
        found = await self._dead_letters.published(letter)
        if isinstance(found, str):
            return {"no_result": found}
        place = {"partition": found.partition, "offset": found.offset, "at": iso(found.at)}
        return {"last_result": {**place, "latest": False, **_bytes("value", found.value)}}

    async def _latest_row(self, letter: DeadLetter) -> Row | None:
        """Return the row of the letter's key, with a result, if it is of its request and no older than the letter."""
        if self._find_row is None or letter.request_id is None or letter.route is not None:
            return None
        try:
            key = letter.request_id.encode(errors="replace") if letter.key is None else letter.key
            row = await self._find_row(LATEST, key)
        except Problem:  # the tables are not there, or not whole
            return None
        oldest = iso(int((letter.at - BEFORE) * 1000))
        is_its = row is not None and "result" in row and row.get("id") == letter.request_id and row["at"] >= oldest
        return row if is_its else None

    async def redrive(self, request: web.Request) -> web.Response:
        """Redrive the dead letters that the body names: {"letters": [{"partition", "offset"}, …]}."""
        positions = _positions(await read_json(request))
        results: list[dict[str, Any]] = []

        def note(letter: DeadLetter, refusal: str | None) -> None:
            each = {"partition": letter.partition, "offset": letter.offset, "redriven": refusal is None}
            results.append(each if refusal is None else {**each, "reason": refusal})

        try:
            async with asyncio.timeout(REDRIVE_LIMIT):
                report = await self._dead_letters.redrive(
                    DeadLetterFilter(positions=positions), rate=0.0, on_result=note
                )
        except TimeoutError:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Kafka takes too long: letters that are not listed were not redriven",
                letters=results,
            ) from None
        except BrokerError as exc:
            raise _unavailable(exc, letters=results) from exc
        finally:
            self._read = -KEPT, 0, None, []
        missing = [{"partition": partition, "offset": offset} for partition, offset in report.missing]
        return answer(request, {"redriven": report.redriven, "letters": results, "missing": missing})


def _as_json(letter: DeadLetter, topic: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "partition": letter.partition,
        "offset": letter.offset,
        "at": iso(int(letter.at * 1000)),
        "id": letter.request_id,
        "outcome": letter.outcome,
        "message": letter.message,
        "body": letter.body,
        "host": letter.host,
        "source": letter.source,
        "status": letter.status,
        "retryable": letter.retryable or None,
        "route": letter.route,
        "attempts": letter.attempts,
        "redriven": letter.redriven,
        "flaw": letter.not_redrivable_reason(topic),
    }
    if letter.topic is not None:
        fields["origin"] = {"topic": letter.topic, "partition": letter.origin_partition, "offset": letter.origin_offset}
    if letter.key is not None:
        fields |= key_fields(letter.key)
    return {name: value for name, value in fields.items() if value is not None}


def _whole(letter: DeadLetter, topic: str) -> dict[str, Any]:
    """Return a dead letter as JSON, bytes that are no text in base64."""
    headers = [{"name": name, **_bytes("value", content)} for name, content in letter.headers]
    return {**_as_json(letter, topic), **_bytes("value", letter.value), "headers": headers}


def _bytes(name: str, content: bytes | None) -> dict[str, str | None]:
    if content is None:
        return {name: None}
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def _positions(body: bytes) -> frozenset[tuple[int, int]]:
    chosen = _read(body, _REDRIVE)
    return frozenset((each["partition"], each["offset"]) for each in chosen["letters"])


def _read(body: bytes, schema: Schema) -> dict[str, Any]:
    """Return what a body names. Raises Problem."""
    try:
        if len(body) > MAX_REDRIVE_BYTES:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a redrive takes {MAX_REDRIVE_BYTES} bytes of JSON at most; redrive fewer letters at a time",
            )
        chosen: dict[str, Any] = schema.load(strictjson.loads(body))
    except ValidationError as exc:
        errors = [{"field": ".".join(path), "message": reason} for path, reason in problems(exc.messages)]
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(flatten(exc.messages)), errors=errors) from None
    except ValueError as exc:
        raise Problem(HTTPStatus.BAD_REQUEST, str(exc)) from None
    return chosen


def _unavailable(exc: BrokerError, **more: Any) -> Problem:
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(exc), headers={"Retry-After": "5"}, **more)
