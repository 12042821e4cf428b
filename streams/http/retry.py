"""When a failed fetch is tried again, and how long after."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from models.errors import AnswerError, Overloaded

ATTEMPTS = 4
"""Tries of one request in all."""
FIRST_PAUSE = 0.2
"""Seconds: the upper bound of the pause before the second try; it doubles from try to try."""
LONGEST_PAUSE = 10.0
"""Seconds: the upper bound of any pause."""
MAX_RETRY_AFTER = 300.0
"""Seconds of a Retry-After that are honoured; a longer one is taken for this long."""
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods whose repetition changes nothing more (RFC 9110, section 9.2.2)."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how soon: `attempts` in all, pauses in seconds, drawn evenly from 0 to a doubling bound.

    Full jitter keeps those who failed together from coming back together.
    """

    attempts: int = ATTEMPTS
    first_pause: float = FIRST_PAUSE
    longest_pause: float = LONGEST_PAUSE

    def pause(self, attempt: int, error: AnswerError) -> float | None:
        """Return the seconds to wait after a failed `attempt` (1 is the first), None to give up."""
        if attempt >= self.attempts or not error.retryable or isinstance(error, Overloaded):
            return None
        bound = min(self.longest_pause, self.first_pause * 2 ** (attempt - 1))
        return random.uniform(0, bound)  # noqa: S311  jitter, no secret


def repeatable(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request may be sent twice: an idempotent method, or an Idempotency-Key given with it."""
    return method in IDEMPOTENT or any(name.lower() == "idempotency-key" for name in headers)


def retry_after(text: str | None) -> float | None:
    """Return the seconds that a Retry-After asks for, given as seconds or as a date (RFC 9110, section 10.2.3)."""
    if text is None:
        return None
    text = text.strip()
    if text.isdecimal() and text.isascii():
        return min(float(text[:10]), MAX_RETRY_AFTER)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
