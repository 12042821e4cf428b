"""Measured costs of checks: how many to send in a batch, which to run in the worker, how much work to admit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from models.checks import Unread
from models.strictjson import Raw

UNSEEN = 0.5
"""Assumed seconds of an unmeasured check: few of them begin at once until it is measured."""
WEIGHT = 0.1
"""Weight of the newest measurement in a mean."""
FADING = 0.02
"""Share by which a peak approaches each lower measurement."""
ENOUGH = 16
"""Measurements of values of one size before a check may run in the worker itself."""
MAX_SIZE = 1_024
"""Approximate bytes of value and arguments beyond which a check always runs in the pool."""
MAX_ITEMS = 32
"""Items of an array or object beyond which a check always runs in the pool."""
MAX_ENTRIES = 4_096
"""Most checks, and pairs of check and size, with measurements."""
FIRST_HAND_OVER = 20e-6
"""Assumed seconds of the worker's time per check for sending and receiving, before it is measured."""
ADMITTED = 5.0
"""Seconds of work begun per process: well below a request's usual deadline of 30."""


@dataclass(slots=True)
class _Cost:
    mean: float
    peak: float
    count: int = 1

    def add(self, seconds: float) -> None:
        self.count += 1
        self.mean += (seconds - self.mean) * WEIGHT
        self.peak = max(seconds, self.peak + (seconds - self.peak) * FADING)


class Costs:
    """Costs by check, and for checks that may run in the worker also by size class of their input."""

    def __init__(self) -> None:
        self._by_name: dict[str, _Cost] = {}
        self._by_size: dict[tuple[str, int], _Cost] = {}
        self._sending = self._receiving = FIRST_HAND_OVER / 2

    def expected(self, name: str) -> float:
        """Return the expected seconds of a check."""
        cost = self._by_name.get(name)
        return UNSEEN if cost is None else cost.mean

    def seen(self, name: str) -> bool:
        """Whether a check has been measured."""
        return name in self._by_name

    def is_cheap(self, name: str, size: int | None) -> bool:
        """Whether a check on values of this size has recently always cost less than handing it over."""
        if size is None:
            return False
        cost = self._by_size.get((name, size))
        return cost is not None and cost.count >= ENOUGH and cost.peak < self.hand_over

    def add(self, name: str, size: int | None, seconds: float) -> None:
        """Record the seconds of one run; `size` is from `size_of`."""
        _note(self._by_name, name, seconds)
        if size is not None:
            _note(self._by_size, (name, size), seconds)

    @property
    def hand_over(self) -> float:
        """Return the seconds of the worker's time for sending one check and receiving its outcome."""
        return self._sending + self._receiving

    def handed_over(self, seconds: float, checks: int) -> None:
        """Record the seconds of sending some checks."""
        self._sending += (seconds / checks - self._sending) * WEIGHT

    def took_back(self, seconds: float, outcomes: int) -> None:
        """Record the seconds of receiving some outcomes."""
        self._receiving += (seconds / outcomes - self._receiving) * WEIGHT


def _note(costs: dict[Any, _Cost], key: Any, seconds: float) -> None:
    cost = costs.get(key)
    if cost is not None:
        cost.add(seconds)
        return
    if len(costs) >= MAX_ENTRIES:
        costs.clear()
    costs[key] = _Cost(seconds, seconds)


def size_of(value: Any, arguments: Mapping[str, Any]) -> int | None:
    """Return the size class of a call, each twice the one before; None for one that is not small."""
    size = _bytes_of(value, MAX_ITEMS)
    for argument in arguments.values():
        size += _bytes_of(argument, MAX_ITEMS)
    return size.bit_length() if size <= MAX_SIZE else None


def _bytes_of(value: Any, items: int) -> int:
    """Return the approximate bytes of a value; more than MAX_SIZE for one of many items or levels."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Unread | Raw):
        return MAX_SIZE + 1
    if isinstance(value, int):
        return 8 + value.bit_length() // 8
    if isinstance(value, list | dict):
        if len(value) > items:
            return MAX_SIZE + 1
        parts = value if isinstance(value, list) else [*value, *value.values()]
        return 8 + sum(_bytes_of(part, 0) for part in parts)
    return 8


class Admission:
    """Limits the work on checks that has begun, in seconds: if checks are slower than fetches, requests with checks
    wait before they begin, not in a queue in which they time out.
    """

    def __init__(self, costs: Costs, processes: int) -> None:
        self._costs = costs
        self._most = ADMITTED * processes
        self.promised = 0.0
        self._holders = 0

    def admit(self, names: Iterable[str]) -> float | None:
        """Return the seconds promised, for `release`; None if these checks must wait. Idle, it admits any."""
        seconds = sum(map(self._costs.expected, names))
        if self._holders and self.promised + seconds > self._most:
            return None
        self._holders += 1
        self.promised += seconds
        return seconds

    def release(self, seconds: float) -> None:
        """Return the seconds that `admit` promised."""
        self._holders -= 1
        self.promised = self.promised - seconds if self._holders else 0.0
