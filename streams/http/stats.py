"""Requests to upstreams and their results, by source; never by host, as there is no end of hosts."""

from __future__ import annotations

import time
from collections import Counter

from models.errors import AnswerError, UpstreamError
from models.histogram import Histogram

PLAIN = "url"
"""Stands for the source of a request that names a URL."""
MAX_SOURCES = 200
"""Sources that are counted by name; those after them share one."""
OTHERS = "other"


class UpstreamStats:
    """`requests` by (source, how it ended), redirects and retries each for itself; `waits` for host and worker to have
    a place for a request, and `exchanges` from its sending to the end of its answer.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.waits = Histogram()
        self.exchanges = Histogram()
        self._names: set[str] = {PLAIN}

    def add(self, source: str | None, result: str, started: float | None = None) -> None:
        """Count a request by its result: a class of statuses such as `2xx`, or the outcome of what went wrong.

        `started` is when it was sent (monotonic seconds), if it was.
        """
        if started is not None:
            self.exchanges.add(time.monotonic() - started)
        name = source or PLAIN
        if name not in self._names:
            if len(self._names) > MAX_SOURCES:
                name = OTHERS
            else:
                self._names.add(name)
        self.requests[name, result] += 1


def status_class(status: int | None) -> str:
    """Return `2xx` and so on; of no status, or one that HTTP does not have, `invalid`."""
    return f"{status // 100}xx" if status is not None and 100 <= status < 600 else "invalid"  # noqa: PLR2004  RFC 9110, section 15


def result_of(error: AnswerError) -> str:
    """Return how a request ended that raised: by its status if there was one."""
    return status_class(error.status) if isinstance(error, UpstreamError) else error.outcome
