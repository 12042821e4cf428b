"""Changes at upstreams: after a PUT, POST, PATCH or DELETE, earlier answers must not be used (RFC 9111, section 4.4).
Shared tiers have a marker for each target that changed; only what was requested after it may be used.
"""

from __future__ import annotations

import math
from collections import OrderedDict

MAX_CHANGES = 16_384
"""Targets whose last change is remembered here: so many may change during one fetch."""
CLOCK_SLACK = 1.0
"""Seconds that the clocks of workers may differ: answers that others requested so soon after a change are not used."""
MAX_SKEW = 60.0
"""Most seconds that a change may be ahead of our clock."""

_TARGET = slice(9, 25)
_NONE = b"0" * 16
_FORM = b"changed %.3f"


def target_of(key: bytes) -> bytes | None:
    """Return the part of an entry's key that stands for its URL; None for a function's."""
    target = key[_TARGET]
    return target if target and target != _NONE else None


def marker_key(target: bytes) -> bytes:
    """Return the key of a target's marker: in the usual form, with a digest that no request has."""
    return b"%b-%b-%b" % (b"0" * 8, target, b"0" * 40)


def write_marker(changed_at: float) -> bytes:
    """Write when a target changed, in epoch seconds."""
    return _FORM % changed_at


def read_marker(written: bytes, now: float) -> float | None:
    """Read a marker; None if it is invalid or its time is impossible."""
    word, _, text = written.partition(b" ")
    try:
        changed_at = float(text)
    except ValueError:
        return None
    return changed_at if word == b"changed" and math.isfinite(changed_at) and changed_at <= now + MAX_SKEW else None


class Changes:
    """The changes that this process knows of; a marker lives for `longest` seconds.

    Changes are counted rather than timed, so that two within one tick of the clock differ.
    """

    def __init__(self, longest: float) -> None:
        self.longest = longest
        self.count = 0
        self._last: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._forgotten = 0
        self._pending: set[tuple[bytes, int]] = set()

    def note(self, target: bytes, now: float) -> None:
        """Record a change at `now` (epoch seconds)."""
        self.count += 1
        self._last[target] = self.count, now
        self._last.move_to_end(target)
        if len(self._last) > MAX_CHANGES:
            _, (self._forgotten, _) = self._last.popitem(last=False)

    def last(self, key: bytes) -> int:
        """Return the number of the last change to the target of an entry's key; for one long ago, of a later one."""
        if not self.count:
            return 0
        target = target_of(key)
        return 0 if target is None else self._last.get(target, (self._forgotten, 0.0))[0]

    def time_of(self, target: bytes) -> float:
        """Return when a target last changed, in epoch seconds; 0 if this process does not know."""
        return self._last.get(target, (0, 0.0))[1]

    def schedule(self, target: bytes, tier: int) -> bool:
        """Whether a tier's marker needs to be written; False if a write is already scheduled."""
        if (target, tier) in self._pending:
            return False
        self._pending.add((target, tier))
        return True

    def start(self, target: bytes, tier: int) -> None:
        """Record that the marker is being written: the next change needs another."""
        self._pending.discard((target, tier))
