"""What goes with a result and with a dead letter beside their bytes: headers in, headers out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from aiokafka import ConsumerRecord

from models import strictjson
from models.dead_letter import COUNT, DLQ, FIRST, LEFT_OUT, UNREADABLE, read_count
from models.errors import AnswerError, InvalidRequest, TooLarge
from models.request import Request, check_id
from models.result import read_result
from streams.http.retry import IDEMPOTENCY_KEY, IDEMPOTENT, sender_key
from streams.kafka.fetched import Unreadable
from streams.kafka.outgoing import Headers, OutgoingRecord

RESULT_TYPE = b"millrace.result"
"""The CloudEvents type of a result."""
MAX_TRACESTATE = 512
"""Characters of a tracestate that are carried on (W3C Trace Context, section 3.3.1.5)."""

# Version ff and ids of zeros only are invalid (W3C Trace Context, section 3.2.2).
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,%d}" % MAX_TRACESTATE)
_FIRST = re.compile(rb"[A-Za-z0-9._-]{1,249}-[0-9]{1,10}-[0-9]{1,19}")
_DOCUMENT = b',"document":'
_TAIL_BYTES = 1_024
_ATTEMPTS = re.compile(rb',"attempts":([0-9]{1,6})(?=[,}])')
_ELAPSED = re.compile(rb',"elapsed_ms":([0-9.]{1,15})(?=[,}])')
_TOPIC, _PARTITION, _OFFSET, _TIMESTAMP, _GROUP, _ID, _HOST, _MESSAGE, _BODY, _OUTCOME = (
    DLQ + name
    for name in ("topic", "partition", "offset", "timestamp", "group", "id", "host", "message", "body", "outcome")
)
_ORIGIN = re.compile(r"[^/?#]*//[^/?#]*")
_PORTS = {"http": 80, "https": 443}


def read_id(record: ConsumerRecord[bytes, bytes], body_id: bytes | None) -> bytes:
    """Return a request's id as JSON: the body's, else the `ce_id` header's, else topic-partition-offset.

    Raises InvalidRequest for a `ce_id` that is no id.
    """
    if body_id is not None:
        return body_id
    for name, content in record.headers:
        if name == "ce_id" and content is not None:
            return strictjson.quote(check_id(content.decode(errors="replace")))
    return default_id(record)


def refused_id(record: ConsumerRecord[bytes, bytes], salvaged: bytes | None) -> bytes:
    """Return the id of what is no request: what could be salvaged of its own, else as of any other. Never fails."""
    try:
        return read_id(record, salvaged)
    except InvalidRequest:
        return default_id(record)


def default_id(record: ConsumerRecord[bytes, bytes]) -> bytes:
    """Return the id of a request that gives none: stable over repeats, unique within the topic."""
    return b'"%b"' % _place(record)


def _place(record: ConsumerRecord[bytes, bytes]) -> bytes:
    return b"%b-%d-%d" % (record.topic.encode(), record.partition, record.offset)


def _first_place(record: ConsumerRecord[bytes, bytes]) -> bytes:
    """Return where a request first came: a redriven one says so itself."""
    first = next((content for name, content in record.headers if name == FIRST), None)
    return first if first is not None and _FIRST.fullmatch(first) else _place(record)


def host_of(url: str | None) -> str | None:
    """Return host:port of a URL, None where there is none to tell."""
    found = _ORIGIN.match(url or "")
    return None if found is None else _host_of(found[0])


@lru_cache(maxsize=1_024)
def _host_of(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    host = parts.hostname
    return None if not host or not port else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def forwarded_headers(record: ConsumerRecord[bytes, bytes], request: Request) -> Mapping[str, str]:
    """Return the headers that a record adds to its HTTP request: the W3C trace context that it carries, and for a
    method that must not be repeated blindly, an Idempotency-Key that stays the same however often it is delivered,
    also when it is redriven.
    """
    headers = {name: content.decode() for name, content in trace_headers(record.headers)} if record.headers else {}
    if request.method not in IDEMPOTENT and sender_key(request.headers) is None:
        headers[IDEMPOTENCY_KEY] = _first_place(record).decode()
    return headers


def trace_headers(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """Return the W3C trace context among headers, as far as it is valid."""
    return [
        (name, content)
        for name, content in headers
        if content is not None  # Kafka's headers are nullable
        and (
            (name == "traceparent" and _TRACEPARENT.fullmatch(content))
            or (name == "tracestate" and _TRACESTATE.fullmatch(content))
        )
    ]


class ResultHeaders:
    """Makes a result's headers: CloudEvents in binary mode (Kafka binding 1.0.2), and the request's trace."""

    def __init__(self, source: str) -> None:
        self._fixed = (
            ("ce_specversion", b"1.0"),
            ("ce_type", RESULT_TYPE),
            ("ce_source", source.encode()),
            ("content-type", b"application/json"),
        )

    def __call__(self, request_id: bytes, incoming: Sequence[tuple[str, bytes | None]]) -> Headers:
        """Return the headers for the result with this id (as JSON)."""
        text = _plain(request_id)
        if not incoming:
            return [*self._fixed, ("ce_id", text)]
        return [*self._fixed, ("ce_id", text), *trace_headers(incoming)]


def _plain(request_id: bytes) -> bytes:
    text: bytes = request_id[1:-1] if b"\\" not in request_id else strictjson.loads(request_id).encode()
    return text


def dead_letter_headers(
    record: ConsumerRecord[bytes, bytes], group: str, request_id: bytes, error: AnswerError, host: str | None = None
) -> Headers:
    """Return the original headers with what went wrong, where, and in the upstream's words (KIP-1191); older such
    headers give way.

    `request_id` is JSON; it, `host`, the first place and the record's timestamp are what redriving goes by.
    """
    kept: Headers = []
    first, count = _place(record), 1
    if record.headers:
        kept = [(name, content) for name, content in record.headers if not name.startswith(DLQ)]
        said = next((content for name, content in record.headers if name == COUNT), None) or b"0"
        first, count = _first_place(record), read_count(said.decode(errors="replace")) + 1
    kept += (
        (_TOPIC, record.topic.encode()),
        (_PARTITION, b"%d" % record.partition),
        (_OFFSET, b"%d" % record.offset),
        (_TIMESTAMP, b"%d" % record.timestamp),
        (FIRST, first),
        (_GROUP, group.encode()),
        (COUNT, b"%d" % count),
        (_ID, _plain(request_id)),
    )
    if host:
        kept.append((_HOST, host.encode()))
    kept.append((_MESSAGE, str(error).encode()))
    if error.body is not None:
        kept.append((_BODY, error.body.encode()))
    kept.append((_OUTCOME, error.outcome.encode()))
    if isinstance(error, InvalidRequest):
        kept += error.marks
    return kept


def unreadable_request(record: Unreadable) -> InvalidRequest:
    """Return the error of a record that could not be read, or not whole, with what its dead letter says of that."""
    error = InvalidRequest(f"the record cannot be read: {record.reason}")
    if record.left_out is not None:
        error.marks = ((LEFT_OUT, b"%d" % record.left_out),)
    elif record.raw is None:
        error.marks = ((UNREADABLE, b"elsewhere"),)
    else:
        error.marks = ((UNREADABLE, b"batch" if record.whole_batch else b"record"),)
    return error


def shrink_result(parcel: OutgoingRecord) -> OutgoingRecord | None:
    """Make a `too_large` result of one that the results topic does not take; then one without key; then give up.

    The document is not read: before it no string can hold the mark that it begins with, and what is behind it is
    looked for in the last bytes.
    """
    value = parcel.value or b"{}"
    head, found, _ = value.partition(_DOCUMENT)
    try:
        members = read_result(head + b"}" if found else value)
    except ValueError:  # the id comes first, whatever follows
        members = strictjson.loads(value[: value.index(b",")] + b"}")
    if members.get("outcome") == TooLarge.outcome:
        return None if parcel.key is None else parcel._replace(key=None)
    if found:
        members |= {name: strictjson.loads(each[-1]) for name, each in _behind(value[-_TAIL_BYTES:]) if each}
    error = TooLarge(f"the result has {parcel.size()} bytes, more than the results topic takes")
    kept = {name: members[name] for name in ("id", "request", "status", "attempts", "elapsed_ms") if name in members}
    shrunk = strictjson.dumps(kept | {"outcome": error.outcome, "error": error.describe()})
    return parcel._replace(value=shrunk)


def _behind(tail: bytes) -> list[tuple[str, list[bytes]]]:
    return [("attempts", _ATTEMPTS.findall(tail)), ("elapsed_ms", _ELAPSED.findall(tail))]


def shrink_dead_letter(parcel: OutgoingRecord) -> OutgoingRecord | None:
    """Leave out the value of a dead letter that the topic does not take, then its headers and key; then give up."""
    if parcel.value is not None:
        return parcel._replace(value=None, headers=[*parcel.headers, (LEFT_OUT, b"%d" % len(parcel.value))])
    ours = [header for header in parcel.headers if header[0].startswith(DLQ)]
    if len(ours) < len(parcel.headers) or parcel.key is not None:
        return parcel._replace(key=None, headers=ours)
    return None
