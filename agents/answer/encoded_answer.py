"""What came of a request: an answer that is encoded but for what differs from request to request."""

from __future__ import annotations

from typing import Any, NamedTuple

from models.documents import UNREAD
from models.errors import AnswerError
from models.result import read_result
from streams.cache.check_results import CheckResults
from streams.cache.entry import Entry


class EncodedAnswer(NamedTuple):
    """An answer encoded for `splice`: how the cache was involved, and as of when it holds, by which its age counts
    (None: it was not fetched).

    `verdicts` are what checks have said of its document so far; `loaded` is that document, just after it was fetched.
    `may_share`: others who ask at the same time may have it, too.
    """

    shared: bytes
    cache: bytes
    as_of: float | None
    error: AnswerError | None
    verdicts: CheckResults | None = None
    loaded: Any = UNREAD
    may_share: bool = True

    @classmethod
    def of(cls, entry: Entry, cache: bytes) -> EncodedAnswer:
        """Make one of what is kept."""
        return cls(entry.shared, cache, entry.as_of, entry.error, entry.check_results)

    @property
    def outcome(self) -> str:
        """Return the result's outcome."""
        return "ok" if self.error is None else self.error.outcome

    def document(self) -> Any:
        """Return the document, decoded if need be. Raises ValueError if there is none."""
        if self.loaded is not UNREAD:
            return self.loaded
        members = read_result(b"{%b}" % self.shared)
        if "document" not in members:
            msg = "there is no document: the answer had no body"
            raise ValueError(msg)
        return members["document"]
