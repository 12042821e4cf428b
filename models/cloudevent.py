"""CloudEvents in structured mode (JSON event format 1.0.2): an event whose data is a request."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, NamedTuple

from models import strictjson
from models.errors import InvalidRequest
from models.schema import kind

MAX_ID = 128
"""Characters of an id, as of a request's."""
TRACE = ("traceparent", "tracestate")
"""Extension attributes of distributed tracing."""
_REQUIRED = ("id", "source", "type")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class Event(NamedTuple):
    """An event: its id, its data, and its trace as headers."""

    id: str
    data: Any
    trace: tuple[tuple[str, bytes], ...]


def is_event(members: Any) -> bool:
    """Whether a JSON value claims to be an event; no request has a `specversion`."""
    return isinstance(members, dict) and "specversion" in members


def unwrap(members: dict[str, Any]) -> Event:
    """Read an event. Raises InvalidRequest, naming the attribute, for one that has no data or is not valid."""
    if members["specversion"] != "1.0":
        msg = f"specversion: only CloudEvents 1.0 are read, not {str(members['specversion'])[:20]!r}"
        raise InvalidRequest(msg)
    for name in _REQUIRED:
        value = members.get(name)
        if not isinstance(value, str) or not value:
            msg = f"{name}: required in a CloudEvent, as a non-empty string"
            raise InvalidRequest(msg)
    trace = tuple((name, members[name].encode()) for name in TRACE if isinstance(members.get(name), str))
    return Event(check_id("id", members["id"]), _data(members), trace)


def _data(members: dict[str, Any]) -> Any:
    if ("data" in members) == ("data_base64" in members):
        given = "not with data_base64: give one of them" if "data" in members else "missing: it is the request"
        msg = f"data: {given}"
        raise InvalidRequest(msg)
    if "data" in members:
        return members["data"]
    encoded = members["data_base64"]
    if not isinstance(encoded, str):
        msg = f"data_base64: must be a string, not {kind(encoded)}"
        raise InvalidRequest(msg)
    try:
        return strictjson.loads(base64.b64decode(encoded.encode(), validate=True), exact=True)
    except binascii.Error:
        msg = "data_base64: is not base64"
        raise InvalidRequest(msg) from None
    except ValueError as exc:
        msg = f"data_base64: {exc}"
        raise InvalidRequest(msg) from None


def check_id(name: str, text: str) -> str:
    """Return an event's id. Raises InvalidRequest for one with control characters, or of the wrong length."""
    if not 1 <= len(text) <= MAX_ID:
        msg = f"{name}: must have 1 to {MAX_ID} characters, not {len(text)}"
        raise InvalidRequest(msg)
    if _CONTROL.search(text):
        msg = f"{name}: has a control character, which a CloudEvent id must not contain"
        raise InvalidRequest(msg)
    return text
