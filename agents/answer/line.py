"""The queue of one host or source, and whether that host keeps up with its requests."""

from __future__ import annotations

from collections.abc import Mapping

from agents.answer.parsed_requests import ParsedRequest
from models.errors import Overloaded
from models.source import Limits
from streams.functions import DEFAULT_THREADS

SILENT = 1.0
"""Seconds without an answer after which a host with waiting requests does not keep up."""
WINDOW = 5.0
"""Seconds over which answers are counted."""

_USUAL = Limits()


def line_name(known: ParsedRequest) -> str:
    """Return the name of a request's line, as errors show it: its source or its host."""
    return known.origin.authority if known.source is None else f"source {known.source.name}"


def limits_of(known: ParsedRequest, hosts: Mapping[str, Limits]) -> Limits:
    """Return the limits of a request's source or host; `hosts` are those of hosts that have their own."""
    if known.source is not None and known.source.limits:
        return known.source.limits
    if known.request.url is None:
        return Limits(concurrency=DEFAULT_THREADS)
    return hosts.get(known.origin.authority) or _USUAL


class Line:
    """`begun` requests are in progress, others wait. Once `most` do either, the host has to keep up: it must answer
    them all within `seconds`.
    """

    __slots__ = ("_answers", "_credit", "_last", "_refusal", "_started", "begun", "most", "name", "seconds")

    def __init__(self, name: str, limits: Limits, waiting: int, seconds: float) -> None:
        self.name = name
        self.most = waiting + limits.concurrency
        self.seconds = seconds
        self.begun = 0
        self._credit = limits.concurrency
        self._answers = 0.0
        self._started = self._last = float("inf")
        self._refusal: tuple[str, Overloaded] | None = None

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
        passed = now - self._started
        if now - self._last >= SILENT:
            return False
        if passed < SILENT:
            return True
        if passed > WINDOW:  # the last window counts as one second of this one
            self._answers, self._credit = self._answers / passed, 0
            self._started, passed = now - 1.0, 1.0
        return self._answers + self._credit >= passed * self.most / self.seconds

    def refusal(self, now: float) -> Overloaded:
        """Return the error of a request that may not wait."""
        quiet = now - self._last
        pace = f"none was answered for {quiet:.0f} s" if quiet >= SILENT else "it answers too slowly"
        if self._refusal is None or self._refusal[0] != pace:  # one error for all requests refused in the same second
            self._refusal = (
                pace,
                Overloaded(
                    f"{self.name} has {self.most} requests to answer and {pace}: no more may wait for it "
                    "(MILLRACE_MAX_WAITING_PER_HOST, or limits.waiting of a source)"
                ),
            )
        return self._refusal[1]
