"""Which rows are beyond a table's bounds, and when to check again.

A row is deleted once it is wholly behind the commit and too old, or one of too many. Only a moving commit or a row's
age changes that, so a table at rest is not checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from streams.tables.store import Store, mark

LOOKS = 200
"""The oldest rows of a table and partition whose age one pruning checks."""
LOOK_AGAIN = 1.0
"""Seconds between two checks of rows that only wait for their age: many that expire one by one share a check."""
AT_ONCE = 5_000
"""Rows beyond the maximum, of one table and partition, that are deleted in one step of a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a table keeps: rows per partition, and seconds since a row changed; None is no bound."""

    rows: int
    age: float | None = None


class Look(NamedTuple):
    """When a table was last checked: at this commit. Until it moves, or the clock reaches `due`, another check would
    find nothing.
    """

    committed: int
    due: float

    def over(self, committed: int, now: float) -> bool:
        """Whether another check may find something."""
        return self.committed != committed or now >= self.due


def excess(
    store: Store,
    place: tuple[str, int],
    pending: Mapping[bytes, tuple[bytes | None, Any]],
    bounds: Bounds,
    *,
    committed: int,
    now: float,
) -> tuple[list[bytes], Look]:
    """Return the keys of rows to delete, oldest first, and the check made. `place` is table and partition, `committed`
    the commit's offset, `now` in seconds since the epoch.
    """
    over = store.count(*place) - bounds.rows
    gone: list[bytes] = []
    due, again = math.inf, False
    for key, row in store.oldest(*place, min(max(over, 0), AT_ONCE) + LOOKS):
        waiting = pending.get(key)
        if waiting is not None:
            over -= waiting[0] is None
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
