"""The check results of one document, cached with it, so that no check runs twice on the same document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models import strictjson
from models.errors import CheckError
from models.result import is_check_result

MAX_CHECK_RESULTS = 128
"""Check results cached for one document: twice as many as one request may have."""
CHECK_RESULT_OVERHEAD = 400
"""Bytes of a check result beside its JSON: key, tuple and its share of the table, rounded up."""


class CheckResult(NamedTuple):
    """One check's result as JSON; of a failed check also the error for the request's result.

    Usable until `until`, in seconds since the epoch.
    """

    encoded: bytes
    error: CheckError | None = None
    until: float = math.inf


JoinedResults = tuple[bytes, CheckError | None]
"""Several check results, joined, and the error of the first that failed."""


def join(results: Sequence[CheckResult]) -> JoinedResults:
    """Return check results as they appear in a request's result."""
    error = next((each.error for each in results if each.error is not None), None)
    return b",".join([each.encoded for each in results]), error


class CheckResults:
    """The check results of one document, by `agents.answer.parsed_requests.check_key`; the oldest leave first."""

    __slots__ = ("_last", "_results", "size")

    def __init__(self, results: Mapping[str, CheckResult] | None = None) -> None:
        self._results: dict[str, CheckResult] = {}
        self._last: tuple[tuple[str, ...], JoinedResults] | None = None
        """Keys and results of the last `joined`, if no error is among them: many requests have the same checks."""
        self.size = 0
        """Approximate bytes in memory."""
        for key, result in (results or {}).items():
            self.store(key, result)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CheckResults) and self._results == other._results

    __hash__ = None  # type: ignore[assignment]  # they change

    def find(self, key: str, now: float) -> CheckResult | None:
        """Return a check's result, None if there is none usable at `now` (epoch seconds)."""
        result = self._results.get(key)
        return None if result is None or now >= result.until else result

    def joined(self, keys: tuple[str, ...], now: float) -> JoinedResults | None:
        """Return the results of these checks, in their order; None unless all are usable at `now` (epoch seconds)."""
        if self._last is not None and self._last[0] == keys:
            return self._last[1]
        results = [self._results.get(key) for key in keys]
        usable = [each for each in results if each is not None and now < each.until]
        if len(usable) < len(keys):
            return None
        joined = join(usable)
        if joined[1] is None:
            self._last = keys, joined
        return joined

    def store(self, key: str, result: CheckResult) -> bool:
        """Store a check's result; returns whether it is new."""
        if self._results.get(key) is result:
            return False
        self._last = None
        self._drop(key)
        while len(self._results) >= MAX_CHECK_RESULTS:
            self._drop(next(iter(self._results)))
        self._results[key] = result
        self.size += _size(result)
        return True

    def _drop(self, key: str) -> None:
        dropped = self._results.pop(key, None)
        if dropped is not None:
            self.size -= _size(dropped)

    def write(self) -> bytes:
        """Return the results without errors as JSON, for a shared tier; errors stay in this process."""
        members = (
            b'"%b":%b' % (key.encode(), each.encoded) for key, each in self._results.items() if each.error is None
        )
        return b"{%b}" % b",".join(members)


def _size(result: CheckResult) -> int:
    return CHECK_RESULT_OVERHEAD + 2 * len(result.encoded)  # once more in what `joined` returned last


def read_check_results(written: Any) -> CheckResults:
    """Read what `write` wrote, decoded. Raises ValueError for anything else."""
    if not isinstance(written, dict) or not all(map(is_check_result, written.values())):
        msg = "invalid check results"
        raise ValueError(msg)
    return CheckResults({key: CheckResult(strictjson.dumps(result)) for key, result in written.items()})
