"""A dead letter: a request whose outcome was not `ok`, with headers that give the reason (KIP-1191); filters, and the
request that redriving makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from models.errors import InvalidRequest
from models.request import check_id

DLQ = "__dlq.errors."
"""Prefix of a dead letter's headers: those of KIP-1191, and `outcome`, `id`, `host`, `source`, `status` (of the
upstream's response), `retryable` (`true` if a retry may help), `timestamp` (of the request),
`first` (where the request was first) and `value.bytes` (of a value that was left out)."""
COUNT = DLQ + "delivery.count"
"""How often the request was delivered without the outcome `ok`."""
FIRST = DLQ + "first"
"""The topic-partition-offset of a redriven request's first delivery."""
LEFT_OUT = DLQ + "value.bytes"
"""Size in bytes of a value that was left out as too large."""
UNREADABLE = DLQ + "unreadable"
"""Marks a value that is not a request but the bytes of a record (`record`) or a whole batch (`batch`) that cannot be
decoded; `elsewhere`: another dead letter has the batch."""
ROUTE, LOOKUP = DLQ + "route", DLQ + "lookup"
"""The route by which a record was read, and the lookup that failed."""
MAX_COUNT_DIGITS = 9
"""Digits of a credible count."""
MAX_AT = 253_402_128_000_000
"""Latest timestamp of a dead letter, in milliseconds since the epoch: a producer may write any, but no calendar goes
beyond the year 9999."""
STATUS = re.compile(r"[1-5][0-9]{2}")
"""A status, as a filter names it."""

_ALWAYS_RETRYABLE = frozenset({"unreachable", "timeout", "overloaded"})

Position = tuple[int, int]
"""Partition and offset."""
Headers = Sequence[tuple[str, bytes | None]]


class DeadLetter(NamedTuple):
    """A dead letter. `at` and `requested_at` are seconds since the epoch; what its headers lack is None.

    `topic`, `origin_partition` and `origin_offset` are the request's position; `attempts` counts its deliveries;
    `body` is the beginning of the upstream's error response, `route` that by which the record was read, if any;
    with `retryable` its headers say that a retry may help.
    """

    partition: int
    offset: int
    at: float
    key: bytes | None
    value: bytes | None
    headers: Headers
    request_id: str | None
    outcome: str | None
    message: str
    host: str | None
    topic: str | None
    origin_partition: int
    origin_offset: int
    requested_at: float | None
    attempts: int
    left_out: int | None
    unreadable: bool = False
    redriven: bool = False
    body: str | None = None
    route: str | None = None
    source: str | None = None
    status: int | None = None
    retryable: bool = False

    @property
    def may_help(self) -> bool:
        """Whether a retry may help: letters of older workers do not say so, but for their outcome."""
        return self.retryable or self.outcome in _ALWAYS_RETRYABLE

    @property
    def position(self) -> Position:
        """Return partition and offset of the dead letter itself."""
        return self.partition, self.offset

    @property
    def redrive_key(self) -> bytes:
        """Return the key under which a redriven request is recorded: its position and time.

        Two dead letters may stem from one request, answered again after a crash; a recreated topic reuses offsets.
        """
        at = round((self.requested_at or 0) * 1000)
        return b"%b-%d-%d-%d" % ((self.topic or "").encode(), self.origin_partition, self.origin_offset, at)

    def not_redrivable_reason(self, topic: str) -> str | None:
        """Return why this cannot be put back on the requests topic; None if it can."""
        if self.topic is None or self.request_id is None:
            return "it lacks the headers of a dead letter"
        if self.topic != topic:
            return f"its request came from topic {self.topic!r}, not {topic!r}"
        if self.unreadable:
            return "its record could not be decoded: send the request again"
        if self.left_out is not None:
            return f"its value of {self.left_out} bytes was too large to keep: send the request again"
        return _no_record_reason(self) if self.route is not None else _no_request_reason(self)

    def request_headers(self) -> list[tuple[str, bytes | None]]:
        """Return the headers of the redriven request: its own, its delivery count and its first position, and its id,
        unless it is the record of a route.
        """
        own = [(name, content) for name, content in self.headers if not name.startswith(DLQ)]
        kept = [(name, content) for name, content in self.headers if name in (COUNT, FIRST)]
        if self.route is not None:
            return own + kept
        own = [header for header in own if header[0] != "ce_id"]
        return [*own, *kept, ("ce_id", (self.request_id or "").encode())]


def read_dead_letter(
    position: Position, at_ms: int, key: bytes | None, value: bytes | None, headers: Headers
) -> DeadLetter:
    """Read a record of the dead letters topic; `at_ms` is its timestamp. Never fails: others may write there too."""
    found: dict[str, str] = {}
    for name, content in headers:
        if name.startswith(DLQ) and content is not None:
            found.setdefault(name.removeprefix(DLQ), content.decode(errors="replace"))
    partition, offset, at = (_number(found.get(name)) for name in ("partition", "offset", "timestamp"))
    return DeadLetter(
        *position, min(max(at_ms, 0), MAX_AT) / 1000, key, value, headers,
        request_id=found.get("id"), outcome=found.get("outcome"), message=found.get("message", ""),
        host=found.get("host"), topic=found.get("topic") if None not in (partition, offset) else None,
        origin_partition=partition or 0, origin_offset=offset or 0, requested_at=None if at is None else at / 1000,
        attempts=read_count(found.get("delivery.count")), left_out=_number(found.get("value.bytes")),
        unreadable="unreadable" in found, body=found.get("body"), route=found.get("route"),
        source=found.get("source"), status=_number(found.get("status")), retryable=found.get("retryable") == "true",
    )  # fmt: skip


def _no_record_reason(letter: DeadLetter) -> str | None:
    """Return why a route's record cannot be put back: one without a value may have been looked up by its key."""
    return "its record had neither key nor value" if letter.key is None and letter.value is None else None


def _no_request_reason(letter: DeadLetter) -> str | None:
    if letter.value is None:
        return "its record had no value: there is no request to put back"
    try:
        check_id(letter.request_id or "")
    except InvalidRequest as exc:
        return f"its id is invalid: {exc}"
    return None


def read_count(text: str | None) -> int:
    """Return how often a request was delivered before, by its header; 0 if that is invalid."""
    return int(text) if text and text.isdecimal() and text.isascii() and len(text) <= MAX_COUNT_DIGITS else 0


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and text.isascii() and len(text) <= len(str(1 << 63)) else None


class DeadLetterFilter(NamedTuple):
    """Selects dead letters that match every given criterion. Times are seconds since the epoch, `until` excluded.

    A host matches with or without its port; `topic` is the one that the record came from, `route` the one that read it,
    as far as the letter says. `retryable`: only those that a retry may help; `max_deliveries`: only those that were
    delivered so often at most.
    """

    outcomes: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    positions: frozenset[Position] = frozenset()
    since: float | None = None
    until: float | None = None
    topic: str | None = None
    sources: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    retryable: bool = False
    max_deliveries: int | None = None
    route: str | None = None

    def matches(self, letter: DeadLetter) -> bool:
        """Whether a dead letter matches."""
        host = letter.host or ""
        return (
            (not self.outcomes or letter.outcome in self.outcomes)
            and (not self.hosts or host in self.hosts or host.rpartition(":")[0] in self.hosts)
            and (not self.ids or letter.request_id in self.ids)
            and (not self.positions or letter.position in self.positions)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
            and (self.topic is None or letter.topic == self.topic)
            and (not self.sources or letter.source in self.sources)
            and (not self.statuses or letter.status in self.statuses)
            and (not self.retryable or letter.may_help)
            and (self.max_deliveries is None or letter.attempts <= self.max_deliveries)
            and (self.route is None or letter.route in {None, self.route})
        )
