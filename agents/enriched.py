"""What came of a request: an answer that is encoded but for what differs from request to request."""

from __future__ import annotations

from typing import Any, NamedTuple

from models.errors import AnswerError

NOT_AT_HAND: Any = object()
"""The document of an answer that is there as bytes only."""


class Enriched(NamedTuple):
    """An answer encoded for `splice`: how the cache was involved, and when it was fetched (None: it was not).

    `document` is what was just loaded, so that checks need not decode it again.
    """

    shared: bytes
    cache: bytes
    fetched_at: float | None
    error: AnswerError | None
    document: Any = NOT_AT_HAND
