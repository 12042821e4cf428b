from __future__ import annotations

import pytest
from aiokafka.errors import KafkaTimeoutError, RequestTimedOutError

from models import errors, strictjson
from models.errors import (
    MESSAGE_LIMIT,
    OUTCOMES,
    AnswerError,
    BrokerError,
    CheckError,
    Denied,
    InternalError,
    InvalidDocument,
    InvalidRequest,
    MillraceError,
    Overloaded,
    SettingsError,
    TimedOut,
    TooLarge,
    Unreachable,
    UpstreamError,
    reason_of,
)

TREE = [
    (InvalidRequest, "invalid_request", False),
    (Denied, "denied", False),
    (Unreachable, "unreachable", True),
    (TimedOut, "timeout", True),
    (UpstreamError, "upstream_error", False),
    (TooLarge, "too_large", False),
    (InvalidDocument, "invalid_document", False),
    (CheckError, "check_error", False),
    (Overloaded, "overloaded", True),
    (InternalError, "overloaded", True),
]


@pytest.mark.parametrize(("cls", "outcome", "retryable"), TREE)
def test_each_error_knows_its_outcome_and_whether_a_retry_helps(cls, outcome, retryable):
    """What a result says of an error is its type's name, its message and whether a retry may help."""
    error = cls("why")
    assert error.outcome == outcome
    assert error.describe() == {"type": cls.__name__, "message": "why", "retryable": retryable}


def test_the_table_above_is_the_whole_tree():
    """No answer error is missing from the table, and each is drawn in the module's docstring with its outcome."""
    assert {cls for cls, _, _ in TREE} == set(AnswerError.__subclasses__())
    for cls, outcome, _ in TREE:
        line = next(line for line in errors.__doc__.splitlines() if f" {cls.__name__} " in line)
        assert outcome in line


def test_the_outcomes_are_the_contract_s():
    """A result's outcome is one of the ten that the contract lists, `ok` first."""
    assert OUTCOMES == (
        "ok",
        "invalid_request",
        "denied",
        "unreachable",
        "timeout",
        "upstream_error",
        "too_large",
        "invalid_document",
        "check_error",
        "overloaded",
    )


@pytest.mark.parametrize("cls", [SettingsError, BrokerError, AnswerError, *(cls for cls, _, _ in TREE)])
def test_every_error_has_one_root_and_says_what_it_means(cls):
    """One except clause catches all of them, and each has an operator's sentence."""
    assert issubclass(cls, MillraceError)
    assert cls.__doc__.strip().endswith(".")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_an_upstream_that_may_recover_is_worth_a_retry(status):
    """Exactly the statuses that pass with time make an upstream error retryable."""
    error = UpstreamError("no", status)
    assert (error.status, error.describe()["retryable"]) == (status, True)


@pytest.mark.parametrize("status", [None, 304, 400, 401, 403, 404, 410, 451, 501, 505])
def test_an_upstream_that_means_it_is_not_asked_again(status):
    """A refusal that time does not heal is not retryable, nor is one without status."""
    error = UpstreamError("no", status)
    assert (error.status, error.describe()["retryable"]) == (status, False)


@pytest.mark.parametrize("length", [0, 1, MESSAGE_LIMIT - 1, MESSAGE_LIMIT])
def test_a_message_within_the_limit_is_kept_whole(length):
    """Nothing is cut from a message of up to 500 characters."""
    assert str(TooLarge("x" * length)) == "x" * length


@pytest.mark.parametrize("length", [MESSAGE_LIMIT + 1, 1_000_000])
def test_a_longer_message_is_cut_to_the_limit_and_shows_it(length):
    """A message that a hostile input blew up ends in an ellipsis at the limit."""
    assert str(TooLarge("x" * length)) == "x" * (MESSAGE_LIMIT - 1) + "…"


@pytest.mark.parametrize("cls", [InvalidDocument, UpstreamError, InternalError])
def test_a_message_is_unicode_text_whatever_went_wrong(cls):
    """Lone surrogates, which foreign errors may quote, are written as escapes, so that the message can be encoded."""
    error = cls("odd: \ud800, fine: \U0001f600")
    assert error.describe()["message"] == "odd: \\ud800, fine: \U0001f600"
    assert strictjson.dumps(error.describe())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "no answer in time"),
        (LookupError(), "LookupError"),
        (OSError(111, "refused"), "ConnectionRefusedError: [Errno 111] refused"),
        (KafkaTimeoutError(), "KafkaTimeoutError"),
        (RequestTimedOutError(), "[Error 7] RequestTimedOutError"),
    ],
)
def test_an_error_without_a_text_has_a_reason_all_the_same(error, reason):
    """A line of the log does not end with a colon."""
    assert reason_of(error) == reason
