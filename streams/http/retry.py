"""Whether and when a failed fetch is retried."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from models.errors import AnswerError, Overloaded, Unreachable, UpstreamError
from models.source import Retries

MAX_RETRY_AFTER = 300.0
"""Seconds of a Retry-After that are honoured; a longer one counts as this long."""
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods whose repetition changes nothing more (RFC 9110, section 9.2.2)."""
ONCE = Retries(attempts=1)
"""For a request that must not be sent twice."""
IDEMPOTENCY_KEY = "Idempotency-Key"
"""The header by which an upstream recognizes a repeated request."""

_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?")


def pause_after(attempt: int, error: AnswerError, retries: Retries) -> float | None:
    """Return the seconds to wait after a failed `attempt` (1 is the first), None to give up.

    Pauses are drawn evenly from 0 to a doubling bound: full jitter keeps those who failed together from coming back
    together.
    """
    if attempt >= retries.attempts or not error.retryable or error.no_immediate_retry or isinstance(error, Overloaded):
        return None
    if isinstance(error, Unreachable) and error.stale:
        return 0.0
    bound = min(retries.longest_pause, retries.first_pause * 2 ** (attempt - 1))
    return random.uniform(0, bound)  # noqa: S311  jitter, no secret


def pause_before_next(attempt: int, error: AnswerError, retries: Retries, deadline: float | None) -> float:
    """Return the seconds to wait before the next try; raises `error`, which notes its tries, if there is to be none.

    An error that only the `deadline` (monotonic seconds) keeps from another try is `deadline_bound`.
    """
    error.attempts = attempt
    pause = pause_after(attempt, error, retries)
    if pause is None:
        raise error
    asked_for = (
        error.retry_after or 0.0 if isinstance(error, UpstreamError) else 0.0
    )  # which the host's pause waits out
    if deadline is not None and time.monotonic() + max(pause, asked_for) >= deadline:
        error.deadline_bound = True
        raise error
    return pause


def repeatable(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request may be sent twice: an idempotent method, or an Idempotency-Key that its sender gave."""
    return method in IDEMPOTENT or bool(sender_key(headers))


def sender_key(headers: Mapping[str, str]) -> str | None:
    """Return the Idempotency-Key among headers, None if there is none."""
    return next((value for name, value in headers.items() if name.lower() == IDEMPOTENCY_KEY.lower()), None)


def retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After, given as seconds or as a date (RFC 9110, section 10.2.3).

    A fraction of a second, which the RFC does not have, is rounded up. None for what says nothing.
    """
    if text is None:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(math.ceil(min(float(text), MAX_RETRY_AFTER)))
    try:
        when = parsedate_to_datetime(text)
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError, IndexError, TypeError):  # the standard library's parser raises all of them
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
