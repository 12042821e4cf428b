"""The Kafka headers of results and dead letters, and how both are made smaller for their topics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aiokafka import ConsumerRecord

from models import cloudevent, strictjson
from models.dead_letter import COUNT, DLQ, FIRST, LEFT_OUT, UNREADABLE, read_count
from models.errors import AnswerError, InvalidRequest, TooLarge
from models.request import Request
from models.result import context_of, members_beside_document
from models.strictjson import Raw
from streams.http.retry import IDEMPOTENCY_KEY, IDEMPOTENT, sender_key
from streams.kafka.fetched import Unreadable
from streams.kafka.outgoing import Headers, OutgoingRecord

RESULT_TYPE = b"millrace.result"
"""The CloudEvents type of a result."""
MAX_TRACESTATE = 512
"""Characters of a tracestate that is propagated (W3C Trace Context, section 3.3.1.5)."""

_OF_RESULT = ("ce_", "content-type", "millrace_", "traceparent", "tracestate")

# Version ff and ids of zeros only are invalid (W3C Trace Context, section 3.2.2).
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,%d}" % MAX_TRACESTATE)
_FIRST = re.compile(rb"[A-Za-z0-9._-]{1,249}-[0-9]{1,10}-[0-9]{1,19}")
_TOPIC, _PARTITION, _OFFSET, _TIMESTAMP, _GROUP, _ID, _HOST, _MESSAGE, _BODY, _OUTCOME = (
    DLQ + name
    for name in ("topic", "partition", "offset", "timestamp", "group", "id", "host", "message", "body", "outcome")
)
_SOURCE, _STATUS, _RETRYABLE = (DLQ + name for name in ("source", "status", "retryable"))


def read_id(record: ConsumerRecord[bytes, bytes], body_id: bytes | None) -> bytes:
    """Return a request's id as JSON: the body's, else the `ce_id` header's, else topic-partition-offset.

    Raises InvalidRequest for an invalid `ce_id`: not UTF-8, with control characters, or of the wrong length.
    """
    if body_id is not None:
        return body_id
    for name, content in record.headers:
        if name == "ce_id" and content is not None:
            try:
                return strictjson.quote(cloudevent.check_id("ce_id", content.decode()))
            except UnicodeDecodeError:
                msg = "ce_id: is not UTF-8"
                raise InvalidRequest(msg) from None
    return default_id(record)


def with_trace(record: ConsumerRecord[bytes, bytes], request: Request) -> ConsumerRecord[bytes, bytes]:
    """Return a record with the trace of its CloudEvent, if there is one and its headers have none."""
    if not request.trace or trace_headers(record.headers):
        return record
    return replace(record, headers=[*record.headers, *request.trace])


def refused_id(record: ConsumerRecord[bytes, bytes], salvaged: bytes | None) -> bytes:
    """Return the id of an invalid request: its own if it could be read, else as for any other. Never fails."""
    try:
        return read_id(record, salvaged)
    except InvalidRequest:
        return default_id(record)


def default_id(record: ConsumerRecord[bytes, bytes]) -> bytes:
    """Return the id of a request without one: the same on each delivery, unique within the topic."""
    return b'"%b"' % _place(record)


def _place(record: ConsumerRecord[bytes, bytes]) -> bytes:
    return b"%b-%d-%d" % (record.topic.encode(), record.partition, record.offset)


def first_place(record: ConsumerRecord[bytes, bytes]) -> bytes:
    """Return topic-partition-offset of a request's first delivery; a redriven one has it in a header."""
    if not record.headers:
        return _place(record)
    first = next((content for name, content in record.headers if name == FIRST), None)
    return first if first is not None and _FIRST.fullmatch(first) else _place(record)


def forwarded_headers(record: ConsumerRecord[bytes, bytes], request: Request) -> Mapping[str, str]:
    """Return the headers that a record adds to its HTTP request: its W3C trace context, and for a method that is not
    idempotent an Idempotency-Key, which stays the same over repeated deliveries and redrives.
    """
    headers = {name: content.decode() for name, content in trace_headers(record.headers)} if record.headers else {}
    if request.method not in IDEMPOTENT and sender_key(request.headers) is None:
        headers[IDEMPOTENCY_KEY] = first_place(record).decode()
    return headers


def trace_headers(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """Return the valid headers of W3C trace context."""
    return [
        (name, content)
        for name, content in headers
        if content is not None  # Kafka's headers are nullable
        and (
            (name == "traceparent" and _TRACEPARENT.fullmatch(content))
            or (name == "tracestate" and _TRACESTATE.fullmatch(content))
        )
    ]


def id_of(result: OutgoingRecord) -> bytes:
    """Return the id, as JSON, in the headers that `ResultHeaders` made."""
    return strictjson.quote(next(content for name, content in result.headers if name == "ce_id").decode())


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
        text = request_id[1:-1] if b"\\" not in request_id else _plain(request_id)
        headers = [*self._fixed, ("ce_id", text)]
        if incoming:
            headers += trace_headers(incoming)
        return headers


def _plain(request_id: bytes) -> bytes:
    text: bytes = request_id[1:-1] if b"\\" not in request_id else strictjson.loads(request_id).encode()
    return text


def dead_letter_headers(
    record: ConsumerRecord[bytes, bytes], group: str, request_id: bytes, error: AnswerError, host: str | None = None,
    *, source: str | None = None,
) -> Headers:  # fmt: skip
    """Return the request's headers with those of the error (KIP-1191), which replace older ones of their kind.

    `request_id` is JSON. Redriving selects by it, `host`, `source`, the status, whether a retry may help, the first
    delivery and the record's timestamp.
    """
    kept: Headers = []
    first, count = _place(record), 1
    if record.headers:
        kept = [(name, content) for name, content in record.headers if not name.startswith(DLQ)]
        previous = next((content for name, content in record.headers if name == COUNT), None) or b"0"
        first, count = first_place(record), read_count(previous.decode(errors="replace")) + 1
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
    if source is not None:
        kept.append((_SOURCE, source.encode()))
    if error.status is not None:
        kept.append((_STATUS, b"%d" % error.status))
    if error.retryable:
        kept.append((_RETRYABLE, b"true"))
    kept.append((_MESSAGE, str(error).encode()))
    if error.body is not None:
        kept.append((_BODY, error.body.encode()))
    kept.append((_OUTCOME, error.outcome.encode()))
    if isinstance(error, InvalidRequest):
        kept += error.marks
    return kept


def unreadable_request(record: Unreadable) -> InvalidRequest:
    """Return the error of a record that could not be read, or not completely, with the marks of its dead letter."""
    error = InvalidRequest(f"the record cannot be read: {record.reason}")
    if record.left_out is not None:
        error.marks = ((LEFT_OUT, b"%d" % record.left_out),)
    elif record.raw is None:
        error.marks = ((UNREADABLE, b"elsewhere"),)
    else:
        error.marks = ((UNREADABLE, b"batch" if record.whole_batch else b"record"),)
    return error


def shrink_result(outgoing: OutgoingRecord) -> OutgoingRecord | None:
    """Return a `too_large` result for one that the topic refuses; then the same without context, without key,
    without the sender's headers; then None.
    """
    value = outgoing.value or b"{}"
    members, context = members_beside_document(value), context_of(value)
    if members.get("outcome") == TooLarge.outcome:
        if context is not None:
            return outgoing._replace(value=value.replace(b',"context":' + context, b"", 1))
        if outgoing.key is not None:
            return outgoing._replace(key=None)
        ours = [header for header in outgoing.headers if header[0].startswith(_OF_RESULT)]
        return None if len(ours) == len(outgoing.headers) else outgoing._replace(headers=ours)
    error = too_large_result(outgoing.size())
    kept = {name: members[name] for name in ("id",) if name in members}
    if context is not None:
        kept["context"] = Raw.of_text(context)
    kept["outcome"] = error.outcome
    kept |= {name: members[name] for name in ("request", "status", "attempts", "elapsed_ms") if name in members}
    return outgoing._replace(value=strictjson.dumps(kept | {"error": error.describe()}, exact=True))


def too_large_result(size: int) -> TooLarge:
    """Return the error of a result that has so many bytes, with key and headers."""
    return TooLarge(f"the result has {size} bytes, more than the results topic takes")


def shrink_dead_letter(outgoing: OutgoingRecord) -> OutgoingRecord | None:
    """Return a dead letter without its value, then without the request's headers and key; then None."""
    if outgoing.value is not None:
        return outgoing._replace(value=None, headers=[*outgoing.headers, (LEFT_OUT, b"%d" % len(outgoing.value))])
    ours = [header for header in outgoing.headers if header[0].startswith(DLQ)]
    if len(ours) < len(outgoing.headers) or outgoing.key is not None:
        return outgoing._replace(key=None, headers=ours)
    return None
