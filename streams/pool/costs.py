"""What checks have cost so far, measured where they ran: how many travel together, and which need not travel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.checks import Unread
from models.strictjson import Raw

UNSEEN = 0.5
"""Seconds that a check is thought to take before it was seen: little of it is begun at once until more is known."""
WEIGHT = 0.1
"""Of the newest measurement in a mean."""
FADING = 0.02
"""By how much a peak that is not met again comes nearer with each measurement."""
ENOUGH = 16
"""Measurements of values of one size before a check may run in the worker itself."""
MAX_SIZE = 1_024
"""Bytes, about, of value and arguments beyond which a check always travels."""
MAX_ITEMS = 32
"""Items of an array or object beyond which a check always travels."""
MAX_KNOWN = 4_096
"""Checks, and sizes of each, that are kept in mind."""
FIRST_HAND_OVER = 20e-6
"""Seconds of the worker that handing over one check is thought to cost before it was measured."""


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
    """Of checks by name, and of those that may run in the worker by the size of what they look at as well."""

    def __init__(self) -> None:
        self._by_name: dict[str, _Cost] = {}
        self._by_size: dict[tuple[str, int], _Cost] = {}
        self._giving = self._taking = FIRST_HAND_OVER / 2

    def expected(self, name: str) -> float:
        """Return the seconds that a check will likely take."""
        cost = self._by_name.get(name)
        return UNSEEN if cost is None else cost.mean

    def seen(self, name: str) -> bool:
        """Whether anything is known of a check."""
        return name in self._by_name

    def is_cheap(self, name: str, size: int | None) -> bool:
        """Whether a check on values of this size has always cost less, lately, than handing it over."""
        if size is None:
            return False
        cost = self._by_size.get((name, size))
        return cost is not None and cost.count >= ENOUGH and cost.peak < self.hand_over

    def add(self, name: str, size: int | None, seconds: float) -> None:
        """Note what one run took; `size` as `size_of` tells it."""
        _note(self._by_name, name, seconds)
        if size is not None:
            _note(self._by_size, (name, size), seconds)

    @property
    def hand_over(self) -> float:
        """Return the seconds of the worker's time that it takes to hand over one check and take back its verdict."""
        return self._giving + self._taking

    def handed_over(self, seconds: float, checks: int) -> None:
        """Note what it took to give some checks to a process."""
        self._giving += (seconds / checks - self._giving) * WEIGHT

    def took_back(self, seconds: float, verdicts: int) -> None:
        """Note what it took to take some verdicts back."""
        self._taking += (seconds / verdicts - self._taking) * WEIGHT


def _note(costs: dict[Any, _Cost], key: Any, seconds: float) -> None:
    cost = costs.get(key)
    if cost is not None:
        cost.add(seconds)
        return
    if len(costs) >= MAX_KNOWN:
        costs.clear()
    costs[key] = _Cost(seconds, seconds)


def size_of(value: Any, arguments: Mapping[str, Any]) -> int | None:
    """Return the class of sizes, each twice the one before, that a call is in; None for one that is not small."""
    size = _bytes_of(value, MAX_ITEMS)
    for argument in arguments.values():
        size += _bytes_of(argument, MAX_ITEMS)
    return size.bit_length() if size <= MAX_SIZE else None


def _bytes_of(value: Any, items: int) -> int:
    """Return about how many bytes there are to a value, more than MAX_SIZE for one of many items or levels."""
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
