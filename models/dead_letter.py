"""A dead letter: a request that was not answered `ok`, as it came, with headers that say why (KIP-1191), which of them
are chosen, and the request that a letter becomes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from models.errors import InvalidRequest
from models.request import check_id

DLQ = "__dlq.errors."
"""Prefix of a dead letter's headers: those of KIP-1191 and, beyond it, `outcome`, `id`, `host`, `timestamp` (the
request's), `first` (where the request first came) and `value.bytes` (of a value that was left out)."""
COUNT = DLQ + "delivery.count"
"""How often the request was delivered and not answered `ok`."""
FIRST = DLQ + "first"
"""The topic-partition-offset at which a request that was redriven first came."""
LEFT_OUT = DLQ + "value.bytes"
"""How many bytes the value had that was left out, being too large."""
UNREADABLE = DLQ + "unreadable"
"""Whether the value is no request's but what there is of a record (`record`) or a whole batch (`batch`) that cannot be
decoded; `elsewhere`: the batch is with another letter."""
MAX_COUNT_DIGITS = 9
"""Digits of a count that is worth trusting."""
MAX_AT = 253_402_128_000_000
"""Milliseconds since the epoch of the last moment that a letter's record is taken to be from: a producer may write any,
and what is much later is in no calendar (the year 9999, less a time zone)."""

Place = tuple[int, int]
"""Partition and offset."""
Headers = Sequence[tuple[str, bytes | None]]


class DeadLetter(NamedTuple):
    """A dead letter. `at` and `requested_at` are seconds since the epoch; what its headers do not say is None.

    `topic`, `origin_partition` and `origin_offset` say where the request came; `attempts` how often it was delivered;
    `body` what the upstream said, or the beginning of it.
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

    @property
    def place(self) -> Place:
        """Return partition and offset of the letter itself."""
        return self.partition, self.offset

    @property
    def redrive_key(self) -> bytes:
        """Return what the request is marked by once it is redriven: its own place and time.

        Two letters may tell of one request, answered again after a crash; a topic made anew has the same offsets.
        """
        at = round((self.requested_at or 0) * 1000)
        return b"%b-%d-%d-%d" % ((self.topic or "").encode(), self.origin_partition, self.origin_offset, at)

    def not_redrivable_reason(self, topic: str) -> str | None:
        """Say why this cannot be put back on the topic of the requests, None if it can."""
        if self.topic is None or self.request_id is None:
            return "it has no headers of a dead letter"
        if self.topic != topic:
            return f"its request came from topic {self.topic!r}, not {topic!r}"
        if self.unreadable:
            return "its record could not be decoded: send the request again"
        if self.left_out is not None:
            return f"its value of {self.left_out} bytes was left out, being too large: send the request again"
        if self.value is None:
            return "its record had no value: there is no request to put back"
        return _flaw_of_id(self.request_id)

    def request_headers(self) -> list[tuple[str, bytes | None]]:
        """Return the headers of the request that it becomes: its own, its id, its count and where it first came."""
        own = [(name, content) for name, content in self.headers if not name.startswith(DLQ) and name != "ce_id"]
        kept = [(name, content) for name, content in self.headers if name in (COUNT, FIRST)]
        return [*own, *kept, ("ce_id", (self.request_id or "").encode())]


def read_letter(place: Place, at_ms: int, key: bytes | None, value: bytes | None, headers: Headers) -> DeadLetter:
    """Read a record of the dead letters' topic; `at_ms` is its timestamp. Never fails: others may write there too."""
    said: dict[str, str] = {}
    for name, content in headers:
        if name.startswith(DLQ) and content is not None:
            said.setdefault(name.removeprefix(DLQ), content.decode(errors="replace"))
    partition, offset, at = (_number(said.get(name)) for name in ("partition", "offset", "timestamp"))
    return DeadLetter(
        *place, min(max(at_ms, 0), MAX_AT) / 1000, key, value, headers,
        request_id=said.get("id"), outcome=said.get("outcome"), message=said.get("message", ""), host=said.get("host"),
        topic=said.get("topic") if None not in (partition, offset) else None,
        origin_partition=partition or 0, origin_offset=offset or 0, requested_at=None if at is None else at / 1000,
        attempts=read_count(said.get("delivery.count")), left_out=_number(said.get("value.bytes")),
        unreadable="unreadable" in said, body=said.get("body"),
    )  # fmt: skip


def _flaw_of_id(text: str) -> str | None:
    try:
        check_id(text)
    except InvalidRequest as exc:
        return f"its id could not be kept: {exc}"
    return None


def read_count(text: str | None) -> int:
    """Return how often a request was delivered before, by its header: 0 for what is no count."""
    return int(text) if text and text.isdecimal() and text.isascii() and len(text) <= MAX_COUNT_DIGITS else 0


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and text.isascii() and len(text) <= len(str(1 << 63)) else None


class DeadLetterFilter(NamedTuple):
    """Which letters: those that match everything that is given. Times are seconds since the epoch, `until` excluded.

    A host matches with its port or without.
    """

    outcomes: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    places: frozenset[Place] = frozenset()
    since: float | None = None
    until: float | None = None

    def matches(self, letter: DeadLetter) -> bool:
        """Whether the letter is one of the chosen."""
        host = letter.host or ""
        return (
            (not self.outcomes or letter.outcome in self.outcomes)
            and (not self.hosts or host in self.hosts or host.rpartition(":")[0] in self.hosts)
            and (not self.ids or letter.request_id in self.ids)
            and (not self.places or letter.place in self.places)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
        )
