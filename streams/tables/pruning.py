"""Which rows are beyond a table's bounds, and when to look for them again.

A row goes once it lies wholly behind the commit and is too old, or one of too many. Nothing else than a commit that
moves or a row's age changes that, so a table at rest is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from streams.tables.store import Store, mark

LOOKS = 200
"""The oldest rows of a table and partition that one pruning looks at for their age."""
LOOK_AGAIN = 1.0
"""Seconds between two looks at rows that only wait for their age: many that expire one by one share a look."""
AT_ONCE = 5_000
"""Rows beyond their number that go at once, of one table and partition: some milliseconds."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a table keeps: so many rows a partition, and rows of so many seconds; None is no bound."""

    rows: int
    age: float | None = None


class Look(NamedTuple):
    """When a table was last looked at for rows beyond its bounds: at this commit. Until it moves, or the clock reaches
    `due`, another look would find nothing.
    """

    committed: int
    due: float

    def over(self, committed: int, now: float) -> bool:
        """Whether there may be something to find again."""
        return self.committed != committed or now >= self.due


def excess(
    store: Store,
    place: tuple[str, int],
    on_its_way: Mapping[bytes, tuple[bytes | None, Any]],
    bounds: Bounds,
    *,
    committed: int,
    now: float,
) -> tuple[list[bytes], Look]:
    """Return the keys of rows that are to go, oldest first, and when that was looked at. `place` is table and
    partition, `committed` the commit's offset, `now` in seconds since the epoch.
    """
    over = store.count(*place) - bounds.rows
    gone: list[bytes] = []
    due, again = math.inf, False
    for key, row in store.oldest(*place, min(max(over, 0), AT_ONCE) + LOOKS):
        pending = on_its_way.get(key)
        if pending is not None:
            over -= pending[0] is None
            again = True
            continue
        found = mark(row)
        if found is not None and found.offset >= committed:
            continue
        expires = math.inf if bounds.age is None or found is None else found.at / 1000 + bounds.age
        if over > 0 or expires < now:
            over -= 1
            gone.append(key)
        else:
            due = min(due, expires)
    return gone, Look(committed, now if gone or again else max(due, now + LOOK_AGAIN))
