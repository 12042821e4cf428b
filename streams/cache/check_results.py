"""What checks said of one document. It stays with the document in the cache, so that no check runs twice on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models import strictjson
from models.errors import CheckError
from models.result import is_check_result

MAX_CHECK_RESULTS = 128
"""Verdicts kept of one document: twice what one request may ask for."""
CHECK_RESULT_OVERHEAD = 400
"""Bytes that a verdict takes beside its JSON: key, tuple and the table's share, rounded up."""


class CheckResult(NamedTuple):
    """What one check said, as JSON in a result; of a check that failed also the error that makes of the result.

    It may be told until `until`, in seconds since the epoch.
    """

    encoded: bytes
    error: CheckError | None = None
    until: float = math.inf


JoinedResults = tuple[bytes, CheckError | None]
"""What several checks said, joined, and the error of the first that failed."""


def join(said: Sequence[CheckResult]) -> JoinedResults:
    """Return what a result is told of some verdicts."""
    error = next((each.error for each in said if each.error is not None), None)
    return b",".join([each.encoded for each in said]), error


class CheckResults:
    """Of one document, by `agents.answer.parsed_requests.check_key`; the first kept are the first to go."""

    __slots__ = ("_kept", "_last", "size")

    def __init__(self, kept: Mapping[str, CheckResult] | None = None) -> None:
        self._kept: dict[str, CheckResult] = {}
        self._last: tuple[tuple[str, ...], JoinedResults] | None = None
        """What was told last, if it is not to change: many ask the same."""
        self.size = 0
        """Bytes that they take in memory, about."""
        for key, said in (kept or {}).items():
            self.store(key, said)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CheckResults) and self._kept == other._kept

    __hash__ = None  # type: ignore[assignment]  # they change

    def find(self, key: str, now: float) -> CheckResult | None:
        """Return what a check said, if that is known at `now` (epoch seconds)."""
        said = self._kept.get(key)
        return None if said is None or now >= said.until else said

    def joined(self, keys: tuple[str, ...], now: float) -> JoinedResults | None:
        """Return what all these checks said, in their order; None unless all is known at `now` (epoch seconds)."""
        if self._last is not None and self._last[0] == keys:
            return self._last[1]
        said = [self._kept.get(key) for key in keys]
        known = [each for each in said if each is not None and now < each.until]
        if len(known) < len(keys):
            return None
        told = join(known)
        if told[1] is None:
            self._last = keys, told
        return told

    def store(self, key: str, said: CheckResult) -> bool:
        """Keep what a check said; returns whether that is news."""
        if self._kept.get(key) is said:
            return False
        self._last = None
        self._drop(key)
        while len(self._kept) >= MAX_CHECK_RESULTS:
            self._drop(next(iter(self._kept)))
        self._kept[key] = said
        self.size += _size(said)
        return True

    def _drop(self, key: str) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self.size -= _size(dropped)

    def write(self) -> bytes:
        """Return those that last, as JSON, for a tier that others share; failures are for this process alone."""
        members = (b'"%b":%b' % (key.encode(), said.encoded) for key, said in self._kept.items() if said.error is None)
        return b"{%b}" % b",".join(members)


def _size(said: CheckResult) -> int:
    return CHECK_RESULT_OVERHEAD + 2 * len(said.encoded)  # once more in what was told last


def read_check_results(written: Any) -> CheckResults:
    """Take what `write` wrote, decoded. Raises ValueError for what it would not have written."""
    if not isinstance(written, dict) or not all(map(is_check_result, written.values())):
        msg = "no verdicts"
        raise ValueError(msg)
    return CheckResults({key: CheckResult(strictjson.dumps(verdict)) for key, verdict in written.items()})
