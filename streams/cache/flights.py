"""Single-flight: of all who ask for the same at the same time, one fetches and the others wait for what it brings."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Flights(Generic[T]):
    """What is being fetched now, by key. A leader costs a dict entry; only those who wait cost a future."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[asyncio.Future[T | None]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def lead(self, key: Hashable) -> bool:
        """Begin a flight; False if there is one, which `join` then waits for."""
        if key in self._waiting:
            return False
        self._waiting[key] = []
        return True

    async def join(self, key: Hashable) -> T | None:
        """Wait for the flight under way; None if it ended without an answer, and whoever still wants one may lead."""
        future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._waiting[key].append(future)
        return await future

    def land(self, key: Hashable, answer: T | None) -> None:
        """End a flight. None says that the leader gave up on its own account, not that there is no answer."""
        for future in self._waiting.pop(key):
            if not future.done():
                future.set_result(answer)
