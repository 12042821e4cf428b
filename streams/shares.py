"""A capacity shared by keys, none of which can take it all: a key may take more while it holds less than is free. So n
greedy keys leave 1/(n + 1) for the next, and a single key gets half (dynamic thresholds: Choudhury and Hahne, IEEE/ACM
Transactions on Networking 6(2), 1998). No key has to be known as slow.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)
Waiting: TypeAlias = "deque[tuple[int, asyncio.Future[None]]]"


class Shares(Generic[K]):
    """`most` units, shared by key. `greed` returns how many times the free units a key may hold: at least 1, which is
    the default.

    While nothing is held, a request of any weight fits.
    """

    def __init__(self, most: int, greed: Callable[[K], int] | None = None) -> None:
        self.most = most
        self.taken = 0
        self._greed = greed
        self._held: dict[K, int] = {}
        self._waiting: OrderedDict[K, Waiting] = OrderedDict()

    def fits(self, key: K, weight: int = 1) -> bool:
        """Whether so many units may be taken now."""
        if not self.taken:
            return True
        left, held = self.most - self.taken - weight, self._held.get(key, 0)
        return left >= 0 and (held <= left or (self._greed is not None and held <= self._greed(key) * left))

    def take(self, key: K, weight: int = 1) -> None:
        """Take units after `fits`; `give` returns them."""
        self.taken += weight
        self._held[key] = self._held.get(key, 0) + weight

    def give(self, key: K, weight: int = 1) -> None:
        """Return units and admit waiting requests, key by key, so that a long queue delays no other key."""
        self.taken -= weight
        left = self._held[key] - weight
        if left:
            self._held[key] = left
        else:
            del self._held[key]
        looks = len(self._waiting)
        while looks and self._waiting and self.taken < self.most:
            looks = len(self._waiting) if self._let_in_next() else looks - 1

    def acquire_now(self, key: K, weight: int = 1) -> bool:
        """Take units if they fit and nobody of the key waits for some; returns whether."""
        if key in self._waiting or not self.fits(key, weight):
            return False
        self.take(key, weight)
        return True

    async def acquire(self, key: K, weight: int = 1) -> None:
        """Take units as soon as they fit, in order per key."""
        if self.acquire_now(key, weight):
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append((weight, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.give(key, weight)
            raise

    def _let_in_next(self) -> bool:
        """Try the first waiting request of the first key, which becomes the last; returns whether it was admitted."""
        key, queue = next(iter(self._waiting.items()))
        while queue and queue[0][1].done():
            queue.popleft()
        fits = bool(queue) and self.fits(key, queue[0][0])
        if fits:
            weight, place = queue.popleft()
            self.take(key, weight)
            place.set_result(None)
        if queue:
            self._waiting.move_to_end(key)
        else:
            del self._waiting[key]
        return fits
