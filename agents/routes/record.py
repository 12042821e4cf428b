"""A record of a route: what expressions see of it, and what is published in its place."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import ConsumerRecord

from agents.answer.headers import first_place
from agents.routes.value import Value
from models import strictjson
from models.dead_letter import DLQ
from models.errors import InvalidRequest
from models.framing import framing
from models.route import Route
from models.schema import kind
from models.strictjson import Raw
from streams.kafka.outgoing import Headers

PLACE = "millrace_record"
"""Header: topic-partition-offset of the record that this one was made of, the same for repeats and redrives."""
MISSING = "millrace_missing"
"""Header: name and outcome of a lookup that the record went on without; one header each."""
CHECKS = "millrace_checks"
"""Header: name of a lookup and its check results; one header each."""
_JSON = b"application/json"
_OURS = frozenset({PLACE, MISSING, CHECKS})


def scope_of(route: Route, record: ConsumerRecord[bytes, bytes]) -> dict[str, Any]:
    """Return what the expressions of a route see of a record. Raises InvalidRequest for a value that is not of the
    route's format.
    """
    return {
        "value": None if record.value is None else _value(route, record.value),
        "key": None if record.key is None else _text(record.key),
        "headers": {name: _text(content) for name, content in record.headers if content is not None},
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "lookups": {},
    }


def _value(route: Route, value: bytes) -> Any:
    if route.format == "bytes":
        return base64.b64encode(value).decode()
    if route.format == "text":
        try:
            return value.decode()
        except UnicodeDecodeError as exc:
            msg = f"route {route.name}: the value is not UTF-8 at byte {exc.start}, but its format is text"
            raise InvalidRequest(msg) from None
    try:
        return strictjson.loads(value, exact=True)
    except ValueError as exc:
        msg = f"route {route.name}: the value is not JSON: {framing(value) or exc}"
        raise InvalidRequest(msg) from None


def _text(content: bytes) -> str | None:
    """Return a key or header as text, None if it is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def merged(route: Route, value: bytes | None, members: Any, answers: Sequence[tuple[Any, Value]]) -> bytes:
    """Return a record's value, with answers in their places (paths).

    The record's own bytes stay as they are where each answer is a new member at its top; else it is encoded again.
    Raises InvalidRequest if a place cannot be had.
    """
    if not isinstance(members, dict):
        if members is not None:
            msg = f"route {route.name}: the value is {kind(members)}, which has no places to put an answer"
            raise InvalidRequest(msg)
        value, members = b"{}", {}
    if route.format == "json" and value is not None and _are_new(members, answers):
        text = value.removeprefix(strictjson.BOM).rstrip(b" \t\r\n")[:-1].rstrip(b" \t\r\n")
        added = [b"%b:%b" % (strictjson.quote(path.steps[0]), answer.text) for path, answer in answers]
        return text + (b"," if members else b"") + b",".join(added) + b"}"
    members = dict(members)
    for path, answer in answers:
        try:
            path.put(members, Raw.of_text(answer.text))
        except ValueError as exc:
            msg = f"route {route.name}: {exc}"
            raise InvalidRequest(msg) from None
    return strictjson.dumps(members, exact=True)


def _are_new(members: Mapping[str, Any], answers: Sequence[tuple[Any, Value]]) -> bool:
    names = [path.steps[0] for path, _ in answers]
    tops = all(len(path.steps) == 1 for path, _ in answers)
    return tops and len(set(names)) == len(names) and members.keys().isdisjoint(names)


def headers_of(record: ConsumerRecord[bytes, bytes], notes: Headers, *, json: bool) -> Headers:
    """Return the headers of what is published for a record: its own, but for those of an earlier dead letter, and
    `notes`. `json`: the value is JSON that was made here.
    """
    kept: Headers = []
    if record.headers:
        kept = [
            (name, content)  # a header without content is kept as it is
            for name, content in record.headers
            if not name.startswith(DLQ) and name not in _OURS and not (json and name.lower() == "content-type")
        ]
    if json:
        kept.append(("content-type", _JSON))
    kept.append((PLACE, first_place(record)))
    kept += notes
    return kept
