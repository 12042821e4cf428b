"""The latest record of a route, walked through for the page and the API: what was read, requested and published.

Nothing is made until somebody looks: the runner keeps the record and what was found for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka import ConsumerRecord

from agents.routes.lookups import Lookups, Results
from agents.routes.outputs import Outputs
from agents.routes.value import NULL
from models.errors import AnswerError
from models.moment import iso
from models.route import Lookup

MAX_RECORD = 256 << 10
"""Bytes of the value of a record that is kept; of a larger one there is no sample."""
SHOWN = 4_096
"""Characters of a value that are shown, and of a header: a quarter."""
MAX_QUESTIONS = 8
"""Questions of a list that are shown."""


class Sample(NamedTuple):
    """A record and what became of it, at a time in epoch seconds. `scope` is what expressions see of it, with its
    `results`, if it got so far.
    """

    record: ConsumerRecord[bytes, bytes]
    scope: Mapping[str, Any] | None
    outcome: str
    at: float

    @property
    def results(self) -> Results | None:
        """Return what came of its lookups, None without any."""
        return (self.scope or {}).get("results")


def walked(sample: Sample, lookups: Lookups, outputs: Outputs) -> dict[str, Any]:
    """Return a sample as plain values, with all text cut to what a page can show."""
    record, results = sample.record, sample.results or {}
    read = {
        "topic": record.topic, "partition": record.partition, "offset": record.offset,
        "timestamp": record.timestamp, "key": _text(record.key), "value": _text(record.value),
        "headers": {name: _text(content, SHOWN // 4) for name, content in record.headers},
    }  # fmt: skip
    looked_up = [_looked_up(lookup, sample, lookups) for lookup in outputs.route.lookups if lookup.name in results]
    published = None
    if sample.outcome in ("ok", "passed"):
        value = record.value if sample.results is None else _output(sample, outputs)
        published = {"topic": outputs.route.results, "value": _text(value)}
    elif sample.outcome != "dropped":
        published = {"topic": outputs.failures, "value": _text(record.value)}
    return {"at": iso(int(sample.at * 1000)), "outcome": sample.outcome, "read": read, "lookups": looked_up,
            "published": published}  # fmt: skip


def _output(sample: Sample, outputs: Outputs) -> bytes | None:
    assert sample.results is not None
    assert sample.scope is not None
    try:
        return outputs.shown(sample.record, sample.results, sample.scope)
    except AnswerError:
        return None


def _looked_up(lookup: Lookup, sample: Sample, lookups: Lookups) -> dict[str, Any]:
    """Return what a lookup requested and what it brought."""
    found = (sample.results or {})[lookup.name]
    into = None if lookup.into is None else lookup.into.text
    shown: dict[str, Any] = {
        "lookup": lookup.name, "source": lookup.source,
        "questions": _shown_questions(lookups, lookup, sample.scope or {}),
        "outcome": "ok" if found.error is None else found.error.outcome, "into": into,
    }  # fmt: skip
    if found.answer is not None:
        shown["cache"] = found.answer.cache.decode()
    if found.error is not None:
        return shown | {"error": _cut(str(found.error), SHOWN)}
    checks = {} if found.checks is NULL else {"checks": _text(found.checks.text)}
    return shown | {"value": _text(found.value.text)} | checks


def questions_of(lookups: Lookups, lookup: Lookup, scope: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a lookup asks its source for a record: method and URL, or a function's parameters, without
    credentials. Raises AnswerError.
    """
    requests = lookups.requests(lookup, scope)
    requested = (known.request for known in (requests if isinstance(requests, list) else [requests]))
    return [
        {"method": each.method, "url": each.url} if each.url else {"params": dict(each.params or {})}
        for each in requested
    ]


def _shown_questions(lookups: Lookups, lookup: Lookup, scope: Mapping[str, Any]) -> list[dict[str, str]]:
    try:
        requested = questions_of(lookups, lookup, scope)[:MAX_QUESTIONS]
    except (AnswerError, KeyError):  # what another process found for an earlier stage is gone
        return []
    return [{name: _cut(str(value), SHOWN // 4) for name, value in each.items()} for each in requested]


def _text(content: bytes | None, most: int = SHOWN) -> str | None:
    return None if content is None else _cut(content[: 4 * most].decode(errors="replace"), most, len(content))


def _cut(text: str, most: int, size: int | None = None) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text) if size is None else size} in all)"
