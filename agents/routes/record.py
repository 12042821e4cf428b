"""A record of a route: what expressions see of it, and what is published in its place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from aiokafka import ConsumerRecord

from agents.answer.headers import first_place
from agents.routes.large import LargeValue
from agents.routes.value import Value
from models import strictjson
from models.dead_letter import DLQ
from models.errors import InvalidRequest
from models.expression import Path, put_all
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
_OF_VALUE = frozenset({"content-type", "__value_schema_id"})
"""Headers that say how a value is written."""


def scope_of(record: ConsumerRecord[bytes, bytes], value: Any) -> dict[str, Any]:
    """Return what the expressions of a route see of a record with this value; `failed` (errors of lookups by
    name), `record` and `exact` they do not.
    """
    return {
        "value": value,
        "key": None if record.key is None else _text(record.key),
        "headers": {name: _text(content) for name, content in record.headers if content is not None},
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "lookups": {},
        "failed": {},
        "record": record,
        "exact": False,
    }


def _text(content: bytes) -> str | None:
    """Return a key or header as text, None if it is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def merged(route: Route, members: Any, answers: Sequence[tuple[Path, Value]], *, as_text: bool) -> dict[str, Any]:
    """Return a record's value with answers in their places; `as_text`: as the JSON that they are, to be written alone.

    Raises InvalidRequest if a place cannot be had.
    """
    if members is not None and not isinstance(members, dict):
        msg = f"route {route.name}: the value is {kind(members)}, which cannot hold an answer"
        raise InvalidRequest(msg)
    try:
        return put_all(members, answers, lambda answer, opened: (
            Raw.of_text(answer.text) if as_text and not opened else answer.loaded
        ))  # fmt: skip
    except ValueError as exc:
        msg = f"route {route.name}: {exc}"
        raise InvalidRequest(msg) from None


def spliced(value: bytes | None, members: Any, answers: Sequence[tuple[Path, Value]]) -> bytes | None:
    """Return a record's own JSON with answers behind its last member; None where one of them has another place."""
    names = members.names if isinstance(members, LargeValue) else members if isinstance(members, dict) else None
    if value is None or names is None or not _are_new(names, answers):
        return None
    text = value.removeprefix(strictjson.BOM).rstrip(b" \t\r\n")[:-1].rstrip(b" \t\r\n")
    added = [b"%b:%b" % (path.quoted, answer.text) for path, answer in answers]
    return b"%b%b%b}" % (text, b"," if members else b"", b",".join(added))


def _are_new(there: Collection[str], answers: Sequence[tuple[Path, Value]]) -> bool:
    if len(answers) == 1:
        [[path, _]] = answers
        return len(path.steps) == 1 and path.steps[0] not in there
    names = [path.steps[0] for path, _ in answers]
    tops = all(len(path.steps) == 1 for path, _ in answers)
    return tops and len(set(names)) == len(names) and not any(name in there for name in names)


def headers_of(record: ConsumerRecord[bytes, bytes], notes: Headers, made: str | None) -> Headers:
    """Return the headers of what is published for a record: its own, but for those of an earlier dead letter, and
    `notes`. `made`: the format of a value that was made here, whose headers replace those of the value before.
    """
    kept: Headers = []
    if record.headers:
        kept = [
            (name, content)  # a header without content is kept as it is
            for name, content in record.headers
            if not name.startswith(DLQ) and name not in _OURS and not (made and name.lower() in _OF_VALUE)
        ]
    if made in ("json", "json-schema"):
        kept.append(("content-type", _JSON))
    kept.append((PLACE, first_place(record)))
    kept += notes
    return kept
