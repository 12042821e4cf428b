"""Changes of what upstreams have: after a PUT, POST, PATCH or DELETE, answers of before must not be used
(RFC 9111, section 4.4). Tiers that workers share hold a marker for each target that changed; it is older than what may
still be used.
"""

from __future__ import annotations

import math
from collections import OrderedDict

MAX_CHANGES = 16_384
"""Targets whose last change is remembered here: as many may change while one answer is under way."""
CLOCK_SLACK = 1.0
"""Seconds that the clocks of workers may differ: that much longer after a change, what others asked for is not used."""
MAX_SKEW = 60.0
"""Seconds ahead of our clock beyond which no change can be."""

_TARGET = slice(9, 25)
_NONE = b"0" * 16
_FORM = b"changed %.3f"


def target_of(key: bytes) -> bytes | None:
    """Return the part of an entry's key that says for which URL it is; None for a function's."""
    target = key[_TARGET]
    return target if target and target != _NONE else None


def marker_key(target: bytes) -> bytes:
    """Return the key of a target's marker: in the form of all, with a digest that no request has."""
    return b"%b-%b-%b" % (b"0" * 8, target, b"0" * 40)


def write_marker(changed_at: float) -> bytes:
    """Write when a target changed, in epoch seconds."""
    return _FORM % changed_at


def read_marker(written: bytes, now: float) -> float | None:
    """Read a marker; None for what is none, or claims a time that cannot be."""
    word, _, text = written.partition(b" ")
    try:
        changed_at = float(text)
    except ValueError:
        return None
    return changed_at if word == b"changed" and math.isfinite(changed_at) and changed_at <= now + MAX_SKEW else None


class Changes:
    """What changed, as far as this process knows; `longest` is how many seconds a marker is kept.

    Changes are counted rather than timed, so that two within one tick of the clock are told apart.
    """

    def __init__(self, longest: float) -> None:
        self.longest = longest
        self.count = 0
        self._last: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._forgotten = 0
        self._pending: set[tuple[bytes, int]] = set()

    def note(self, target: bytes, now: float) -> None:
        """Note a change at `now` (epoch seconds)."""
        self.count += 1
        self._last[target] = self.count, now
        self._last.move_to_end(target)
        if len(self._last) > MAX_CHANGES:
            _, (self._forgotten, _) = self._last.popitem(last=False)

    def last(self, key: bytes) -> int:
        """Return which change was the last one to what an entry's key is about; of one long ago, a later one."""
        if not self.count:
            return 0
        target = target_of(key)
        return 0 if target is None else self._last.get(target, (self._forgotten, 0.0))[0]

    def time_of(self, target: bytes) -> float:
        """Return when a target last changed, in epoch seconds; 0 if that is not known here."""
        return self._last.get(target, (0, 0.0))[1]

    def schedule(self, target: bytes, tier: int) -> bool:
        """Whether a tier's marker needs to be written; False while that is about to be done."""
        if (target, tier) in self._pending:
            return False
        self._pending.add((target, tier))
        return True

    def start(self, target: bytes, tier: int) -> None:
        """Note that the marker is being written: the next change needs another."""
        self._pending.discard((target, tier))
