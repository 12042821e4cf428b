"""An answer to a request, encoded but for the fields that differ from request to request."""

from __future__ import annotations

from typing import Any, NamedTuple

from models.documents import UNREAD
from models.errors import AnswerError
from models.result import read_result
from streams.cache.check_results import CheckResults
from streams.cache.entry import Entry


class EncodedAnswer(NamedTuple):
    """An answer encoded for `splice`, with its cache state.

    `as_of` is the time (epoch seconds) from which its age counts, None if nothing was fetched. `check_results` are
    those known of its document; `loaded` is the document itself, right after a fetch. `may_share`: concurrent requests
    for the same document may use it.
    """

    shared: bytes
    cache: bytes
    as_of: float | None
    error: AnswerError | None
    check_results: CheckResults | None = None
    loaded: Any = UNREAD
    may_share: bool = True

    @classmethod
    def of(cls, entry: Entry, cache: bytes) -> EncodedAnswer:
        """Return the answer of a cache entry."""
        return cls(entry.shared, cache, entry.as_of, entry.error, entry.check_results)

    @property
    def outcome(self) -> str:
        """Return the result's outcome."""
        return "ok" if self.error is None else self.error.outcome

    def document(self) -> Any:
        """Return the document, decoded if necessary. Raises ValueError if there is none."""
        if self.loaded is not UNREAD:
            return self.loaded
        members = read_result(b"{%b}" % self.shared)
        if "document" not in members:
            msg = "there is no document: the answer had no body"
            raise ValueError(msg)
        return members["document"]
