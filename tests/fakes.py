"""Stand-ins that several unit tests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from models import checks
from models.checks import CheckOutcome


class Clock:
    """A clock that stands still unless a test moves `now`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    @classmethod
    def of_day(cls, monkeypatch: pytest.MonkeyPatch, now: float = 1_800_000_000.0) -> Clock:
        """Put a clock in the place of `time.time`."""
        clock = cls(now)
        monkeypatch.setattr(time, "time", clock)
        return clock


class LowerTier:
    """A cache tier that several workers share. Like any tier it drops entries past their time to live."""

    def __init__(self) -> None:
        self.kept: dict[bytes, tuple[bytes, float]] = {}

    async def get(self, key: bytes) -> bytes | None:
        value, until = self.kept.get(key, (None, 0.0))
        return value if time.time() < until else None

    async def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [await self.get(key) for key in keys]

    async def set(self, key: bytes, value: bytes, ttl: float) -> None:
        assert ttl > 0
        self.kept[key] = value, time.time() + ttl

    async def delete(self, key: bytes) -> int:
        return int(self.kept.pop(key, None) is not None)


class Pool:
    """Runs checks at once, or never if `stuck`, but for those of `verdicts`.

    `submitted` has their names, `futures` their futures, in order.
    """

    def __init__(self) -> None:
        self.stuck = False
        self.verdicts: dict[str, CheckOutcome] = {}
        self.submitted: list[str] = []
        self.futures: list[asyncio.Future[CheckOutcome]] = []

    def submit(self, name: str, value: Any, arguments: Mapping[str, Any]) -> asyncio.Future[CheckOutcome]:
        future: asyncio.Future[CheckOutcome] = asyncio.get_running_loop().create_future()
        if name in self.verdicts:
            future.set_result(self.verdicts[name])
        elif not self.stuck:
            future.set_result(checks.run(name, value, arguments))
        self.submitted.append(name)
        self.futures.append(future)
        return future


class Record(NamedTuple):
    """What a lease needs of a Kafka record."""

    offset: int
    timestamp: int = 0
