"""The line of the requests for one host, or one source, and whether that keeps up with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from agents.answer.parsed_requests import ParsedRequest
from models.errors import Overloaded
from models.source import Limits
from streams.functions import DEFAULT_THREADS

SILENT = 1.0
"""Seconds without one answer after which a host does not keep up with what waits for it."""
WINDOW = 5.0
"""Seconds over which answers are counted."""

_USUAL = Limits()
_AUTHORITY = re.compile(r"[^:/?#]*://(?:[^/?#@]*@)?([^/?#]*)")


class Kind(NamedTuple):
    """What a line is for. `name` is told to people; `limits` are those of its host or source."""

    name: str
    limits: Limits


def kind_of(known: ParsedRequest, hosts: Mapping[str, Limits]) -> Kind:
    """Return the kind of line that a request is in; `hosts` are the limits of those hosts that have their own."""
    source, url = known.source, known.request.url
    host = authority(url) if url is not None else ""
    if source is None:
        return Kind(host, hosts.get(host) or _USUAL)
    usual = Limits(concurrency=DEFAULT_THREADS) if url is None else hosts.get(host) or _USUAL
    return Kind(f"source {source.name}", source.limits or usual)


def authority(url: str) -> str:
    """Return host and port of a URL, without a port that is the scheme's own."""
    found = _AUTHORITY.match(url)
    host = found[1].lower() if found else ""
    return host.removesuffix(":80").removesuffix(":443")


class Line:
    """`begun` are being answered; others wait. `most` may do either before it matters whether the host keeps up, which
    is to answer all of them within `seconds`.
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
        """Judge from now on: some wait."""
        if self._started > now:
            self._started = self._last = now

    def excuse(self, seconds: float) -> None:
        """Leave out a time in which the worker itself stood still: nothing could be answered then."""
        self._started += seconds
        self._last += seconds

    def relaxed(self) -> None:
        """Judge no more: there is plenty of room again."""
        self._started = self._last = float("inf")

    def answered(self, now: float) -> None:
        """Count an answer at `now` (monotonic seconds)."""
        if self._started <= now:
            self._answers += 1
            self._last = now

    def keeps_up(self, now: float) -> bool:
        """Whether the host answers as fast as it has to; in the first window, as if all in flight were answered now."""
        passed = now - self._started
        if now - self._last >= SILENT:
            return False
        if passed < SILENT:
            return True
        if passed > WINDOW:  # the last window's answers count as one second of this one's
            self._answers, self._credit = self._answers / passed, 0
            self._started, passed = now - 1.0, 1.0
        return self._answers + self._credit >= passed * self.most / self.seconds

    def refusal(self, now: float) -> Overloaded:
        """Return why a request is refused that would have to wait."""
        quiet = now - self._last
        pace = f"none was answered for {quiet:.0f} s" if quiet >= SILENT else "it answers too slowly"
        if self._refusal is None or self._refusal[0] != pace:  # the same one for all who are refused in a second
            self._refusal = (
                pace,
                Overloaded(
                    f"{self.name} has {self.most} requests to answer and {pace}: no more may wait for it "
                    "(MILLRACE_MAX_WAITING_PER_HOST, or limits.waiting of a source)"
                ),
            )
        return self._refusal[1]
