"""What checks said of one document. It stays with the document in the cache, so that no check runs twice on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from models import strictjson
from models.errors import CheckError
from models.result import is_verdict

MAX_VERDICTS = 128
"""Verdicts kept of one document: twice what one request may ask for."""
VERDICT_OVERHEAD = 400
"""Bytes that a verdict takes beside its JSON: key, tuple and the table's share, rounded up."""


class Said(NamedTuple):
    """What one check said, as JSON in a result; of a check that failed also the error that makes of the result.

    It may be told until `until`, in seconds since the epoch.
    """

    encoded: bytes
    error: CheckError | None = None
    until: float = math.inf


class Verdicts:
    """Of one document, by `agents.known.check_key`; the first kept are the first to go."""

    __slots__ = ("_kept", "size")

    def __init__(self, kept: Mapping[str, Said] | None = None) -> None:
        self._kept: dict[str, Said] = {}
        self.size = 0
        """Bytes that they take in memory, about."""
        for key, said in (kept or {}).items():
            self.keep(key, said)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Verdicts) and self._kept == other._kept

    __hash__ = None  # type: ignore[assignment]  # they change

    def find(self, key: str, now: float) -> Said | None:
        """Return what a check said, if that is known at `now` (epoch seconds)."""
        said = self._kept.get(key)
        return None if said is None or now >= said.until else said

    def keep(self, key: str, said: Said) -> bool:
        """Keep what a check said; returns whether that is news."""
        if self._kept.get(key) is said:
            return False
        self._drop(key)
        while len(self._kept) >= MAX_VERDICTS:
            self._drop(next(iter(self._kept)))
        self._kept[key] = said
        self.size += VERDICT_OVERHEAD + len(said.encoded)
        return True

    def _drop(self, key: str) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self.size -= VERDICT_OVERHEAD + len(dropped.encoded)

    def write(self) -> bytes:
        """Return those that last, as JSON, for a tier that others share; failures are for this process alone."""
        members = (b'"%b":%b' % (key.encode(), said.encoded) for key, said in self._kept.items() if said.error is None)
        return b"{%b}" % b",".join(members)


def read_verdicts(written: Any) -> Verdicts:
    """Take what `write` wrote, decoded. Raises ValueError for what it would not have written."""
    if not isinstance(written, dict) or not all(map(is_verdict, written.values())):
        msg = "no verdicts"
        raise ValueError(msg)
    return Verdicts({key: Said(strictjson.dumps(verdict)) for key, verdict in written.items()})
