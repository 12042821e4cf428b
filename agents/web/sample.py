"""A sample of the results as they are published, for the pages that watch: a few rows a few times a second for each
filter, however many there are. Only rows that are shown are parsed; of the others the bytes are searched.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self, TypeAlias

from agents.tables.aggregate import answer_head
from agents.tables.result_parser import InvalidResult, ResultParser
from agents.tables.rows import Row, decode
from agents.web.columns import address
from models import strictjson
from models.errors import OUTCOMES
from models.moment import believed
from streams.web.problems import Problem, not_ready

MOST = 20
"""Rows in one event; of the others it has the number."""
MAX_FILTERS = 32
"""Different filters that are watched at once."""
MAX_TEXT = 512
"""Characters of a filter."""
_SHOWN = ("key", "key_base64", "at", "outcome", "cache", "status", "elapsed_ms", "url", "source", "host", "error")
_PLAIN = re.compile(r"[A-Za-z0-9._: -]*")
"""Text that JSON writes as it is."""
_HEAD = 1_024
"""Bytes from a result's beginning that contain its outcome: it comes after the id, which may be escaped."""

Put: TypeAlias = Callable[[bytes], None]
Watching: TypeAlias = Callable[[Callable[[Sequence[Any], int], None]], AbstractContextManager[None]]
"""streams.kafka.tail.Tail.watching: calls a function with records, and the number of those left out."""


@dataclass(frozen=True, slots=True)
class LiveFilter:
    """Which results are watched: those of an outcome, whose key and host begin like this. Empty: all."""

    outcome: str = ""
    key: str = ""
    host: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """Read one from an address. Raises Problem."""
        chosen = cls(*(query.get(name, "") for name in ("outcome", "key", "host")))
        if chosen.outcome and chosen.outcome not in OUTCOMES:
            raise Problem(HTTPStatus.BAD_REQUEST, f"outcome: must be one of {', '.join(OUTCOMES)}")
        if max(len(chosen.key), len(chosen.host)) > MAX_TEXT:
            raise Problem(HTTPStatus.BAD_REQUEST, f"key, host: at most {MAX_TEXT} characters are allowed")
        return chosen

    def may_match(self, record: Any) -> bool:
        """Whether a record may match, by its bytes."""
        value = record.value or b""
        return (
            self._may_be_key(record.key, value)
            and (not self.outcome or self.outcome.encode() in value[:_HEAD])
            and self.host.rpartition(":")[0].encode(errors="replace") in value
        )

    def _may_be_key(self, key: bytes | None, value: bytes) -> bool:
        """Whether a record's key begins as it should; without one its id, which stands near the result's beginning."""
        if key is not None:
            return key.startswith(self.key.encode(errors="surrogateescape"))
        return _PLAIN.fullmatch(self.key) is None or self.key.encode() in value[:_HEAD]

    def matches(self, row: Row) -> bool:
        """Whether a row matches, as the table `answers` would select it; a record's key has been checked already, the
        id is the key of one without.
        """
        return (
            (not self.outcome or row.get("outcome") == self.outcome)
            and str(row.get("host", "")).startswith(self.host)
            and str(row.get("key", self.key)).startswith(self.key)
        )


@dataclass(slots=True)
class Sampler:
    """`row_of` returns a record's row as the table `answers` has it, None for one that is not a result."""

    watching: Watching
    row_of: Callable[[Any], Row | None]
    _puts: dict[LiveFilter, list[Put]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def join(self, chosen: LiveFilter, put: Put) -> None:
        """Pass events of this filter to `put` from now on. Raises Problem when too many filters are watched."""
        if chosen not in self._puts and len(self._puts) >= MAX_FILTERS:
            raise not_ready("too many filters are watched already", 5)
        if not self._puts:
            self._stack.enter_context(self.watching(self.look))
        self._puts.setdefault(chosen, []).append(put)

    def leave(self, chosen: LiveFilter, put: Put) -> None:
        """Stop passing events to `put`."""
        puts = self._puts.get(chosen, [])
        if put in puts:
            puts.remove(put)
        if not puts:
            self._puts.pop(chosen, None)
        if not self._puts:
            self._stack.close()

    def look(self, records: Sequence[Any], dropped: int) -> None:
        """Take records as they come, in order, and pass an event on for each filter that matches some."""
        for chosen, puts in self._puts.items():
            found = [record for record in records if chosen.may_match(record)]
            made = [self.row_of(record) for record in found[-MOST:]]
            rows = [_shown(row) for row in made if row is not None and chosen.matches(row)]
            left = dropped + max(0, len(found) - MOST)
            if rows or left:
                event = encode("results", {"rows": rows, "dropped": left})
                for put in puts:
                    put(event)


def _shown(row: Row) -> Row:
    """Return the fields of a row that the page shows, and its address."""
    return {name: row[name] for name in _SHOWN if name in row} | {"href": address("answers", row)}


def encode(name: str, value: Mapping[str, Any]) -> bytes:
    """Return a server-sent event (HTML Living Standard, section 9.2); JSON has no line breaks of its own."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), strictjson.dumps(value))


class LiveRow:
    """Makes of a record of the results topic the row that the table `answers` will have, without the result itself."""

    def __init__(self) -> None:
        self._parser = ResultParser()

    def __call__(self, record: Any) -> Row | None:
        """Return the row, None for a record that is not a result."""
        try:
            result = self._parser.parse(record.value)
        except InvalidResult:
            return None
        key = json.loads(result.id).encode(errors="replace") if record.key is None else record.key
        head = answer_head(record, result, believed(record.timestamp, time.time()))
        return decode("answers", record.partition, key, head + b"}", heads=True)
