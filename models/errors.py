"""Every way a request can end other than `ok`.

MillraceError
├── SettingsError          the configuration is invalid; the command ends with exit code 2
├── BrokerError            Kafka is unreachable or unsuitable; exit code 1
│   └── AccessError        Kafka refuses the login, the certificate or an access: a retry does not help
├── StoreError             the disk of the tables is full or damaged; exit code 1
├── Stalled                the worker is stuck by a fault of its own; it exits with code 1
├── PurgeError             not all of the cache could be purged; exit code 1
├── RegistryUnavailable    the schema registry does not answer: wait, and try again
└── AnswerError            becomes the `error` of a result
    ├── InvalidRequest     invalid_request
    ├── Denied             denied
    ├── Unreachable        unreachable       (a retry may help)
    ├── TimedOut           timeout           (a retry may help)
    ├── UpstreamError      upstream_error    (a retry may help on 408, 425, 429 and 5xx)
    ├── TooLarge           too_large
    ├── InvalidDocument    invalid_document
    ├── CheckError         check_error
    ├── Overloaded         overloaded        (a retry may help)
    └── InternalError      overloaded        (a fault of the service; a retry may help)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

MESSAGE_LIMIT = 500
"""Characters of an error message that reach a result or a dead letter."""

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed later (RFC 9110, RFC 6585)."""


GONE = (404, 410)
"""Statuses that say that there is no such thing."""
NOT_FOUND = "not_found"
"""The kind of an error that says so."""


class MillraceError(Exception):
    """The root of all errors that the service raises on purpose."""


class SettingsError(MillraceError):
    """The configuration is invalid; the message lists every problem, one per line."""


class BrokerError(MillraceError):
    """Kafka cannot be reached or is not set up as the service needs it; the message has advice."""


class StoreError(MillraceError):
    """The store of the tables cannot be read or written; the message has the path and what to do."""


class Stalled(MillraceError):
    """The worker is stuck by a fault of its own, and exits so that another takes over; the message has the cause."""


class TaskEnded(MillraceError):
    """A background task ended by itself, which is a bug; the message names task, cause and consequence."""


class AccessError(BrokerError):
    """Kafka refuses the login, the certificate or an access, or the partition no longer exists: a retry does not help.
    The message has advice.
    """


def reason_of(exc: BaseException) -> str:
    """Return the type and the message of an error, for the log: many errors have no message."""
    kind, text = type(exc).__name__, str(exc)
    if not text:
        return "no answer in time" if isinstance(exc, TimeoutError) else kind
    return text if text.startswith((kind, "[Error ")) else f"{kind}: {text}"


class PurgeError(MillraceError):
    """Only `removed` entries could be removed from the cache."""

    def __init__(self, message: str, removed: int) -> None:
        super().__init__(message)
        self.removed = removed


class RegistryUnavailable(MillraceError):
    """The schema registry does not answer, or not as it should; the message has advice. The record is not at fault:
    wait, and try again.
    """


class AnswerError(MillraceError):
    """A request that could not be answered `ok`."""

    outcome: ClassVar[str]
    retryable: bool = False
    attempts: int | None = None
    """How many requests were sent to the upstream; None if none was."""
    deadline_bound: bool = False
    """Whether the failure is due to this request's own deadline: then it is neither shared nor cached."""

    no_immediate_retry: bool = False
    """Whether an immediate retry would fail too, though a later request may succeed."""

    unsent: bool = False
    """Whether nothing of the request was sent: then a retry is safe for any method."""

    kind: str | None = None
    """What is more special about it than its outcome: `not_found`; None for nothing."""
    status: int | None = None
    """The status of the upstream's response; None if there was none."""
    body: str | None = None
    """The beginning of the body of an error response; None if there is nothing to show."""
    body_truncated: bool = False
    """Whether `body` is cut."""
    headers: Mapping[str, str] | None = None
    """Response headers that the source copies to results; None if there was no response."""
    trail: Sequence[Any] = ()
    """Heads of the responses that led here, for `streams.cache.freshness`: their freshness applies to the failure."""

    _uncut: str | None = None

    def __init__(self, message: str) -> None:
        text = message[:MESSAGE_LIMIT].encode(errors="backslashreplace").decode()  # may hold lone surrogates
        longer = len(message) > MESSAGE_LIMIT or len(text) > MESSAGE_LIMIT
        super().__init__(text[: MESSAGE_LIMIT - 1] + "…" if longer else text)
        self._uncut = message if longer else None

    def whole_text(self) -> str:
        """Return the message before it was cut: a secret at the cut would not be found in what is left of it."""
        return self._uncut or str(self)

    def settle(self) -> None:
        """Drop traceback and causes, as the error may now be cached: the frames hold the request and its body, in a
        reference cycle with this error.
        """
        self._uncut = None
        raised: BaseException | None = self
        while raised is not None:
            raised.__traceback__ = None
            raised = raised.__cause__ or raised.__context__
        self.__context__ = self.__cause__ = None

    def copied(self) -> Self:
        """Return an error of its own that says the same, for another who met it."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.args = self.args
        return made

    def reworded(self, message: str) -> Self:
        """Return the same error with another message, without body, headers and fields, which may quote the former."""
        made = self.copied()
        AnswerError.__init__(made, message)
        made.body, made.body_truncated, made.headers = None, False, None
        if isinstance(made, InvalidRequest):
            made.fields = ()
        return made

    def describe(self) -> dict[str, str | bool]:
        """Return the `error` object of a result: `type`, `message`, `retryable`, `kind`, `body` and whether it is
        cut.
        """
        error: dict[str, str | bool] = {"type": type(self).__name__, "message": str(self), "retryable": self.retryable}
        if self.kind is not None:
            error["kind"] = self.kind
        if self.body is not None:
            error["body"] = self.body
            if self.body_truncated:
                error["body_truncated"] = True
        return error


class InvalidRequest(AnswerError):
    """The record is not a valid request; the message names the field."""

    outcome = "invalid_request"
    fields: tuple[tuple[str, str], ...] = ()
    """Each invalid field as a dotted path, with the reason; empty if the error is not about fields."""
    marks: tuple[tuple[str, bytes], ...] = ()
    """Additional headers of its dead letter."""


class Denied(AnswerError):
    """The request names something that the worker must not fetch; the message names the rule."""

    outcome = "denied"


class Unreachable(AnswerError):
    """No HTTP response: the name did not resolve, the connection failed or broke.

    `stale`: the connection was reused, and was probably closed for being idle; a new one may work at once.
    """

    outcome = "unreachable"
    retryable = True
    stale: bool = False


class TimedOut(AnswerError):
    """The request's deadline passed before the response."""

    outcome = "timeout"
    retryable = True


class UpstreamError(AnswerError):
    """The upstream responded with an error status. `retry_after` is the pause that it requested, in seconds;
    `refuses_credentials`: a new token may be accepted.
    """

    outcome = "upstream_error"
    refuses_credentials: bool = False

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = NOT_FOUND if status in GONE else None
        self.retry_after = retry_after
        self.retryable = status in RETRYABLE_STATUSES


class TooLarge(AnswerError):
    """The body exceeds its size limit, or the result that of the results topic."""

    outcome = "too_large"


class InvalidDocument(AnswerError):
    """The body does not load by the request's schema."""

    outcome = "invalid_document"


class CheckError(AnswerError):
    """A check crashed, timed out or does not apply to the document; the result still has the document."""

    outcome = "check_error"


class Overloaded(AnswerError):
    """The worker refused the request for now, to protect itself or the upstream."""

    outcome = "overloaded"
    retryable = True


class InternalError(AnswerError):
    """The service itself failed on this request, which is a bug; the log has the traceback."""

    outcome = "overloaded"
    retryable = True


OUTCOMES = ("ok", *dict.fromkeys(error.outcome for error in AnswerError.__subclasses__()))
"""Every value of a result's `outcome`."""
