"""How large a value is: what takes long is done in a thread in which other threads have their turns."""

from __future__ import annotations

from typing import Any

MAX_TEXT = 64 << 10
"""Characters of one string from which a value is large."""


def larger_than(value: Any, limit: int) -> bool:
    """Whether a value has more than `limit` parts, or a string of more than MAX_TEXT characters."""
    waiting, count = [value], 0
    while waiting:
        each = waiting.pop()
        count += 1
        if isinstance(each, dict):
            count += len(each)
            waiting.extend(each.values() if count <= limit else ())
        elif isinstance(each, list):
            waiting.extend(each if len(each) <= limit else ())
            count += len(each)
        elif isinstance(each, str) and len(each) > MAX_TEXT:
            return True
        if count > limit:
            return True
    return False
