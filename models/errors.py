"""Every way a request can end other than `ok`.

MillraceError
├── SettingsError          the configuration is wrong; the command ends with exit code 2
├── BrokerError            Kafka is not as the service needs it; exit code 1
│   └── AccessError        Kafka refuses the login, the certificate or an access: trying again does not help
├── Stalled                the worker stands still by a fault of its own; it ends with exit code 1
├── PurgeError             not all of the cache could be purged; exit code 1
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
from typing import Any, ClassVar

MESSAGE_LIMIT = 500
"""Characters of an error message that reach a result or a dead letter."""

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers of an upstream after which the same request may succeed later (RFC 9110, RFC 6585)."""


class MillraceError(Exception):
    """The root: whatever the service itself raises on purpose."""


class SettingsError(MillraceError):
    """The configuration is wrong; the message lists every problem, one a line."""


class BrokerError(MillraceError):
    """Kafka cannot be reached or is not set up as the service needs it; the message says what to do."""


class Stalled(MillraceError):
    """The worker stands still by a fault of its own, and ends so that another may go on; the message says where."""


class TaskEnded(MillraceError):
    """A background task ended by itself, a bug; the message says which, why, and what is missing without it."""


class AccessError(BrokerError):
    """Kafka refuses the login, the certificate or an access, or has no such partition any more: trying again does not
    mend it. The message says which, and what to do.
    """


def reason_of(exc: BaseException) -> str:
    """Return the kind and the text of an error, for a line of the log: many errors have no text."""
    kind, text = type(exc).__name__, str(exc)
    if not text:
        return "no answer in time" if isinstance(exc, TimeoutError) else kind
    return text if text.startswith((kind, "[Error ")) else f"{kind}: {text}"


class PurgeError(MillraceError):
    """Not everything could be removed from the cache; `removed` entries were."""

    def __init__(self, message: str, removed: int) -> None:
        super().__init__(message)
        self.removed = removed


class AnswerError(MillraceError):
    """A request that could not be answered `ok`."""

    outcome: ClassVar[str]
    retryable: bool = False
    attempts: int | None = None
    """How often the upstream was asked, None if it was not."""
    deadline_bound: bool = False
    """Whether a later deadline might have ended otherwise: then it is no answer for others who ask the same."""

    no_immediate_retry: bool = False
    """Whether another try at once would meet the same, though a later request may not."""

    unsent: bool = False
    """Whether nothing of the request left: then any may be sent again, whatever its method."""

    status: int | None = None
    """The status that the upstream answered with, None if it gave none."""
    body: str | None = None
    """The beginning of what the upstream sent in place of a document, None if there is nothing to tell."""
    body_truncated: bool = False
    """Whether it sent more than that."""
    headers: Mapping[str, str] | None = None
    """The headers of its answer that the source has results carry, None if there was none."""
    trail: Sequence[Any] = ()
    """The heads of the responses that led to it, as `streams.cache.freshness` reads them: what they say of their
    freshness holds for the failure."""

    def __init__(self, message: str) -> None:
        text = message[:MESSAGE_LIMIT].encode(errors="backslashreplace").decode()  # may hold lone surrogates
        longer = len(message) > MESSAGE_LIMIT or len(text) > MESSAGE_LIMIT
        super().__init__(text[: MESSAGE_LIMIT - 1] + "…" if longer else text)

    def settle(self) -> None:
        """Let go of where it was raised: now it is an answer, and may be kept. The frames hold the request and its
        body, in a circle with this error that only the garbage collector would find.
        """
        raised: BaseException | None = self
        while raised is not None:
            raised.__traceback__ = None
            raised = raised.__cause__ or raised.__context__
        self.__context__ = self.__cause__ = None

    def describe(self) -> dict[str, str | bool]:
        """Return the `error` object of a result: `type`, `message`, `retryable`, `body` and whether it is cut."""
        said: dict[str, str | bool] = {"type": type(self).__name__, "message": str(self), "retryable": self.retryable}
        if self.body is not None:
            said["body"] = self.body
            if self.body_truncated:
                said["body_truncated"] = True
        return said


class InvalidRequest(AnswerError):
    """The message on the requests topic is not a request; the error names the field."""

    outcome = "invalid_request"
    fields: tuple[tuple[str, str], ...] = ()
    """Each field that is wrong, as a dotted path, and the reason; empty if it is not about fields."""
    marks: tuple[tuple[str, bytes], ...] = ()
    """Headers that its dead letter has beside the usual ones."""


class Denied(AnswerError):
    """The request asks for something the worker must not fetch; the error names the rule."""

    outcome = "denied"


class Unreachable(AnswerError):
    """No HTTP answer came: the name did not resolve, the connection failed or broke.

    `stale`: the connection had been used before, and was probably closed for being idle; a new one may do at once.
    """

    outcome = "unreachable"
    retryable = True
    stale: bool = False


class TimedOut(AnswerError):
    """The request's deadline passed before there was an answer."""

    outcome = "timeout"
    retryable = True


class UpstreamError(AnswerError):
    """The upstream answered, with a status that is no success. `retry_after` is in seconds, if it asked for a pause;
    `refuses_credentials`: others might do.
    """

    outcome = "upstream_error"
    refuses_credentials: bool = False

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.retryable = status in RETRYABLE_STATUSES


class TooLarge(AnswerError):
    """The body passes the size limit, or the result is more than the results topic takes."""

    outcome = "too_large"


class InvalidDocument(AnswerError):
    """The body does not load by the schema that the request names."""

    outcome = "invalid_document"


class CheckError(AnswerError):
    """A check crashed, ran too long or does not fit the document; the document is still there."""

    outcome = "check_error"


class Overloaded(AnswerError):
    """The worker refused the work now to protect itself or the upstream."""

    outcome = "overloaded"
    retryable = True


class InternalError(AnswerError):
    """The service itself failed on this request, which is a bug; the log has the traceback."""

    outcome = "overloaded"
    retryable = True


OUTCOMES = ("ok", *dict.fromkeys(error.outcome for error in AnswerError.__subclasses__()))
"""Every value of a result's `outcome`."""
