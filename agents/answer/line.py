"""The queue of one host or source, and whether that host keeps up with its requests."""

from __future__ import annotations

from collections.abc import Mapping

from agents.answer.parsed_requests import ParsedRequest
from models.errors import Overloaded
from models.source import DEFAULT_THREADS, Limits
from streams.http.bucket import TokenBucket
from streams.http.limits import Bulkhead

SILENT = 1.0
"""Seconds without an answer after which a host with waiting requests does not keep up."""
WINDOW = 5.0
"""Seconds over which answers are counted."""
SOME = 5
"""Requests of a rate whose time is allowed for on top of these: a host with a request now and then answers so, too."""
FEW = 2
"""Requests in progress for a host with the lowest of rates."""

SOURCE = "source "
"""Comes before the name of a source where hosts have names, too."""

_USUAL = Limits()


def line_name(known: ParsedRequest) -> str:
    """Return the name of a request's line, as errors show it: its source or its host."""
    return known.origin.authority if known.source is None else f"{SOURCE}{known.source.name}"


def limits_of(known: ParsedRequest, hosts: Mapping[str, Limits]) -> Limits:
    """Return the limits of a request's source or host; `hosts` are those of hosts that have their own."""
    if known.source is not None and known.source.limits:
        return known.source.limits
    if known.request.url is None:
        return Limits(concurrency=DEFAULT_THREADS)
    return hosts.get(known.origin.authority) or _USUAL


def bucket_of(known: ParsedRequest, shared: Mapping[str, Bulkhead]) -> TokenBucket | None:
    """Return the bucket of a request whose rate is shared with other workers; `shared` has those by name."""
    if not shared:
        return None
    own = known.source is not None and (known.source.limits is not None or known.source.call is not None)
    bulkhead = shared.get(line_name(known) if own else known.origin.authority)
    return None if bulkhead is None else bulkhead.bucket


class Line:
    """`begun` requests are in progress, others wait. Once `most` do either, the host has to keep up: it must answer
    them all within `seconds`. Of a host with a rate `most` are no more than it may be sent in half of that. `bucket` is
    that of a rate that is shared: while this worker waits for its share, the host is not to blame.
    """

    __slots__ = ("_answers", "_bucket", "_credit", "_last", "_limit", "_refusal", "_silent", "_started", "_window",
                 "begun", "most", "name", "seconds")  # fmt: skip

    def __init__(
        self, name: str, limits: Limits, waiting: int, seconds: float, bucket: TokenBucket | None = None
    ) -> None:
        self.name = name
        self._limit = self.most = waiting + limits.concurrency
        self.seconds = seconds
        self._bucket = bucket
        self._silent, self._window = SILENT, WINDOW
        if limits.rate is not None:
            self._allow_for(limits.rate)
        self.begun = 0
        self._credit = limits.concurrency
        self._answers = 0.0
        self._started = self._last = float("inf")
        self._refusal: tuple[str, Overloaded] | None = None

    def _allow_for(self, rate: float) -> None:
        self.most = min(self._limit, max(FEW, int(rate * self.seconds / 2)))
        self._silent, self._window = SILENT + SOME / rate, WINDOW + SOME / rate

    def crowded(self, now: float) -> None:
        """Start to watch the host: requests wait."""
        if self._started > now:
            self._started = self._last = now

    def excuse(self, seconds: float) -> None:
        """Disregard seconds by which the worker itself was late: blocked, or overloaded."""
        self._started += seconds
        self._last += seconds

    def relaxed(self) -> None:
        """Stop watching the host: there is room again."""
        self._started = self._last = float("inf")

    def answered(self, now: float) -> None:
        """Count an answer at `now` (monotonic seconds)."""
        if self._started <= now:
            self._answers += 1
            self._last = now

    def keeps_up(self, now: float) -> bool:
        """Whether the host answers fast enough; in its first window, all requests in flight count as answered."""
        if self._bucket is not None:
            self._allow_for(self._bucket.expected)
            if (granted_at := self._bucket.granted_at()) > self._started:
                self._started, self._last, self._answers = granted_at, max(self._last, granted_at), 0.0
        passed = now - self._started
        if now - self._last >= self._silent:
            return False
        if passed < self._silent:
            return True
        if passed > self._window:  # the last window counts as one second of this one
            self._answers, self._credit = self._answers / passed, 0
            self._started, passed = now - 1.0, 1.0
        return self._answers + self._credit >= passed * self.most / self.seconds

    def refusal(self, now: float) -> Overloaded:
        """Return the error of a request that may not wait."""
        quiet = now - self._last
        pace = f"none was answered for {quiet:.0f} s" if quiet >= self._silent else "it answers too slowly"
        if self._refusal is None or self._refusal[0] != pace:  # one error for all requests refused in the same second
            self._refusal = (
                pace,
                Overloaded(
                    f"{self.name} has {self.most} requests to answer and {pace}: no more may wait for it "
                    "(MILLRACE_MAX_WAITING_PER_HOST, or limits.waiting of a source)"
                ),
            )
        return self._refusal[1]
