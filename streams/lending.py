"""What one app opens and others use that start beside it: they wait for it, and it is not closed under them."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from typing import Generic, TypeVar

from streams.config.settings import DRAIN_DEADLINE

T = TypeVar("T")


class Lending(Generic[T]):
    """One thing of one owner."""

    def __init__(self) -> None:
        self._thing: T | None = None
        self._opened = asyncio.Event()
        self._returned = asyncio.Event()
        self._returned.set()
        self._borrowers = 0

    async def borrow(self, stack: AsyncExitStack) -> T:
        """Return the thing once it is open; it stays so until the stack is closed."""
        await self._opened.wait()
        assert self._thing is not None
        self._borrowers += 1
        self._returned.clear()
        stack.callback(self._return)
        return self._thing

    def lend(self, thing: T, stack: AsyncExitStack) -> None:
        """Lend what is open; what the owner's stack closes, it closes once all have returned it, or after a drain."""
        self._thing = thing
        self._opened.set()
        stack.push_async_callback(self._wait_for_return)

    def _return(self) -> None:
        self._borrowers -= 1
        if not self._borrowers:
            self._returned.set()

    async def _wait_for_return(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._returned.wait(), DRAIN_DEADLINE)
