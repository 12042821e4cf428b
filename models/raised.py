"""What a source's function raises to say what happened behind it, and how HTTP libraries say the same.

UpstreamStatus  the upstream answered with a status
RetryLater      the upstream cannot answer now, but in so many seconds
Invalid         no such thing can be requested: the parameters are at fault
"""

from __future__ import annotations

from models.errors import AnswerError, InvalidRequest, TimedOut, Unreachable, UpstreamError

_STATUSES = range(100, 600)
_FAILURES = range(300, 600)
"""Statuses with which HTTP libraries raise."""
_KINDS: dict[tuple[str, str], type[AnswerError]] = {
    ("httpx", "TimeoutException"): TimedOut,
    ("httpx", "TransportError"): Unreachable,
    ("aiohttp", "ClientConnectionError"): Unreachable,
}
"""What errors of libraries mean that are neither TimeoutError nor OSError, by package and class."""


class FunctionError(Exception):
    """The root of what a function raises; the message is that of the result's error."""

    def answer_error(self, source: str) -> AnswerError:
        """Return the error of the result, which names the source."""
        return UpstreamError(f"source {source}: {self}")


class UpstreamStatus(FunctionError):
    """The upstream answered with this status: the outcome is `upstream_error`, and as many retries follow as for a
    source with a URL. `retry_after` are the seconds for which it wants to be left alone.

    Raises ValueError for what is no status.
    """

    def __init__(self, status: int, message: str = "", *, retry_after: float | None = None) -> None:
        if status not in _STATUSES:
            msg = f"{status!r} is not an HTTP status"
            raise ValueError(msg)
        super().__init__(message or f"the upstream answered {status}")
        self.status = status
        self.retry_after = retry_after

    def answer_error(self, source: str) -> UpstreamError:
        """Return the error of the result."""
        return UpstreamError(f"source {source}: {self}", int(self.status), self.retry_after)


class RetryLater(FunctionError):
    """The upstream cannot answer now: the source is not called for so many seconds, and the request is tried again if
    its deadline allows that. The outcome is `upstream_error`, retryable.
    """

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"the upstream answers again in {seconds:g} s")
        self.seconds = seconds

    def answer_error(self, source: str) -> UpstreamError:
        """Return the error of the result."""
        error = UpstreamError(f"source {source}: {self}", None, max(0.0, self.seconds))
        error.retryable = True
        return error


class Invalid(FunctionError):
    """The request's parameters are at fault: the outcome is `invalid_request`, and no retry follows."""

    def answer_error(self, source: str) -> InvalidRequest:
        """Return the error of the result."""
        return InvalidRequest(f"source {source}: {self}")


def status_of(exc: BaseException) -> int | None:
    """Return the status of an error that an HTTP library raised for a response (urllib, requests, httpx, aiohttp);
    None for any other.
    """
    if not isinstance(exc, Exception):
        return None  # SystemExit has a code, too
    try:
        response = getattr(exc, "response", None)
        for holder, name in ((response, "status_code"), (exc, "status"), (exc, "code")):
            found = getattr(holder, name, None)
            if isinstance(found, int) and found in _FAILURES:
                return int(found)
    except Exception:  # noqa: BLE001  foreign code: what looks like a response may be something else
        return None
    return None


def retry_after_of(exc: BaseException) -> str | None:
    """Return the Retry-After of such an error's response, None if it has none."""
    try:
        for holder in (getattr(exc, "response", None), exc):
            headers = getattr(holder, "headers", None)
            if headers is not None and isinstance(text := headers.get("Retry-After"), str):
                return text
    except Exception:  # noqa: BLE001  as above
        return None
    return None


def kind_of(exc: BaseException) -> type[AnswerError]:
    """Return what an error without a status is: time-outs and errors of the system are retried, others are not."""
    if isinstance(exc, TimeoutError):
        return TimedOut
    if isinstance(exc, OSError):
        return Unreachable
    names = [(each.__module__.partition(".")[0], each.__name__) for each in type(exc).__mro__]
    return next((_KINDS[name] for name in names if name in _KINDS), UpstreamError)
