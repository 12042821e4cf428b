from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from models import strictjson
from models.checks import Call, CheckOutcome
from models.errors import OUTCOMES, CheckError, Denied, InvalidDocument, TimedOut, UpstreamError
from models.request import Request, encode_context
from models.result import (
    CACHE_STATES,
    RESULT_DEPTH,
    Answer,
    context_of,
    cut,
    encode_answer,
    encode_check_result,
    failure,
    is_check_result,
    is_shared,
    members_beside_document,
    read_result,
    restamp,
    splice,
    with_check_results,
    with_context,
)
from models.result_schema import ResultSchema

REQUEST = Request(url="http://example.org/")


def members(request, answer):
    return strictjson.loads(b"{" + encode_answer(request, answer) + b"}")


def checked(answer, calls, verdicts):
    """Encode an answer with what checks said of it, as the worker does."""
    pairs = list(zip(calls, verdicts, strict=True))
    error = next(filter(None, (failure(*pair) for pair in pairs)), None)
    return with_check_results(
        encode_answer(REQUEST, answer), b",".join(encode_check_result(*pair) for pair in pairs), error
    )


def plain(document=None):
    return Answer("ok", document=document, has_document=True, attempts=1, fetched_at=1.0)


def test_an_ok_answer_says_what_applies_and_nothing_else():
    """Outcome, request, status, document, attempts and time are there; checks and error are left out."""
    answer = Answer("ok", 200, {"n": 7}, has_document=True, attempts=2, fetched_at=1_700_000_000.25)
    assert members(REQUEST, answer) == {
        "outcome": "ok",
        "request": {"method": "GET", "url": "http://example.org/"},
        "status": 200,
        "document": {"n": 7},
        "attempts": 2,
        "fetched_at": "2023-11-14T22:13:20.250Z",
    }


def test_a_document_that_is_null_is_still_a_document():
    """JSON null as an answer is not the same as no document."""
    assert members(REQUEST, Answer("ok", document=None, has_document=True))["document"] is None
    assert "document" not in members(REQUEST, Answer("ok"))


def test_a_source_is_echoed():
    """A result tells which source its request named."""
    request = REQUEST._replace(source="quotes")
    assert members(request, Answer("ok"))["request"] == {
        "method": "GET",
        "url": "http://example.org/",
        "source": "quotes",
    }


def test_a_source_that_made_no_url_is_echoed_without_one():
    """Where there is no URL its key and the method are left out, and a reader takes the result."""
    value = splice(b'"a"', encode_answer(Request(source="quotes"), Answer("ok")), b"bypass", None, 0)
    assert ResultSchema().load(strictjson.loads(value))["request"] == {"source": "quotes"}


def test_what_is_no_request_is_not_echoed():
    """An answer to bytes that are no request has outcome and error alone."""
    assert members(None, Answer.failed(Denied("the rule"))) == {
        "outcome": "denied",
        "error": {"type": "Denied", "message": "the rule", "retryable": False},
    }


@pytest.mark.parametrize(
    ("error", "status"), [(UpstreamError("no", 503), 503), (UpstreamError("no"), None), (TimedOut("late"), None)]
)
def test_a_failed_answer_has_the_error_s_outcome_and_status(error, status):
    """An error becomes an answer with its outcome, the upstream's status if there was one, and the attempts made."""
    error.attempts = 3
    answer = Answer.failed(error)
    assert (answer.outcome, answer.status, answer.attempts) == (error.outcome, status, 3)
    assert members(REQUEST, answer).get("status") == status
    assert members(REQUEST, answer)["error"] == error.describe()


def test_checks_add_their_values_and_false_is_an_answer():
    """Values are listed in order with name, field and time, and a false one leaves all else as it was."""
    calls = Call("is_prime", "a.b"), Call("sha256")
    found = read_result(
        b"{" + checked(plain(7), calls, [CheckOutcome(False, elapsed=0.0123456), CheckOutcome("x")]) + b"}"
    )
    assert found.pop("checks") == [
        {"name": "is_prime", "field": "a.b", "value": False, "elapsed_ms": 12.346},
        {"name": "sha256", "value": "x", "elapsed_ms": 0.0},
    ]
    assert found == members(REQUEST, plain(7))


def test_a_check_that_failed_makes_check_error_and_keeps_the_document():
    """The first failure is the result's error, every failure is told with its check, and all else stays."""
    calls = (Call("sha256"), Call("is_prime", "n"), Call("json_schema"))
    found = read_result(
        b"{"
        + checked(plain([1]), calls, [CheckOutcome("x"), CheckOutcome(error="boom"), CheckOutcome(error="bang")])
        + b"}"
    )
    assert found.pop("outcome") == "check_error"
    assert found.pop("error") == CheckError("check is_prime on 'n': boom").describe()
    assert [check.get("error") for check in found.pop("checks")] == [None, "boom", "bang"]
    assert {"outcome": "ok"} | found == members(REQUEST, plain([1]))


def test_a_check_of_the_whole_document_is_named_without_a_field():
    """The error of a check without field does not speak of one."""
    assert str(failure(Call("is_prime"), CheckOutcome(error="boom"))) == "check is_prime: boom"
    assert failure(Call("is_prime"), CheckOutcome(None)) is None


@settings(deadline=None)
@given(st.floats(0, 4_000_000_000))
def test_the_time_of_the_fetch_is_told_in_utc_to_the_millisecond(seconds):
    """Any time of day is written as RFC 3339, at most a millisecond early."""
    text = members(None, Answer("ok", fetched_at=seconds))["fetched_at"]
    assert len(text) == len("2023-11-14T22:13:20.250Z")
    told = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
    assert told.tzinfo == UTC
    assert -1e-6 < seconds - told.timestamp() < 0.0011


@settings(deadline=None)
@given(
    st.text(min_size=1, max_size=128),
    st.sampled_from(CACHE_STATES),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1e4),
    st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5),
)
def test_a_spliced_result_is_json_that_a_reader_takes(text, cache, age, elapsed, document):
    """Whatever the id and the document hold, the bytes are one JSON object that the result's schema loads."""
    answer = Answer("ok", 200, document, has_document=True, attempts=1, fetched_at=1.0)
    value = splice(strictjson.quote(text), encode_answer(REQUEST, answer), cache.encode(), age, elapsed)
    loaded = ResultSchema().load(strictjson.loads(value))
    assert (loaded["id"], loaded["cache"], loaded["document"]) == (text, cache, document)
    assert loaded["elapsed_ms"] == pytest.approx(elapsed * 1000, abs=0.051)
    assert loaded.get("age") == (None if age is None else pytest.approx(age, abs=0.051))


def test_a_result_that_no_cache_saw_says_nothing_of_one():
    """Where neither cache nor age applies, both keys are left out."""
    value = splice(b'"a"', b'"outcome":"ok"', None, None, 0.0015)
    assert json.loads(value) == {"id": "a", "outcome": "ok", "elapsed_ms": 1.5}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_reader_takes_every_outcome(outcome):
    """The schema of results knows all outcomes of the contract."""
    assert ResultSchema().load({"id": "a", "outcome": outcome, "elapsed_ms": 1})["outcome"] == outcome


def test_a_reader_takes_failed_checks_and_errors():
    """A result with everything that can go wrong in it is read by the schema."""
    shared = checked(plain(), (Call("is_prime", "n"), Call("sha256")), [CheckOutcome(error="boom"), CheckOutcome("x")])
    value = splice(b'"a"', shared, b"miss", None, 0)
    loaded = ResultSchema().load(strictjson.loads(value))
    assert loaded["error"]["type"] == "CheckError"
    assert loaded["document"] is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"outcome": "fine"}, "outcome"),
        ({"cache": "warm"}, "cache"),
        ({"status": "200"}, "status"),
        ({"elapsed_ms": None}, "elapsed_ms"),
        ({"id": 1}, "id"),
        ({"surprise": 1}, "surprise"),
        ({"checks": [{"name": "a"}]}, "checks"),
        ({"error": {"type": "A"}}, "error"),
    ],
)
def test_a_reader_refuses_what_is_no_result(change, field):
    """A result that does not keep the contract is refused under the field at fault."""
    with pytest.raises(ValidationError) as caught:
        ResultSchema().load({"id": "a", "outcome": "ok", "elapsed_ms": 1} | change)
    assert set(caught.value.messages) == {field}


def test_a_check_that_answers_null_is_read():
    """`value: null` is an answer of a check, and a reader takes it."""
    value = splice(b'"a"', checked(plain(), (Call("sha256"),), [CheckOutcome(None)]), b"miss", None, 0)
    loaded = ResultSchema().load(read_result(value))
    assert loaded["checks"] == [{"name": "sha256", "value": None, "elapsed_ms": 0.0}]


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_document_and_a_value_as_deep_as_they_may_be_are_read():
    """A result holds what the contract allows one level further down, and can be read all the same."""
    shared = checked(plain(nested(64)), (Call("echo"),), [CheckOutcome(nested(64))])
    loaded = read_result(splice(b'"a"', shared, b"miss", None, 0))
    assert loaded["document"] == loaded["checks"][0]["value"] == nested(64)


def test_a_result_that_nests_without_end_is_refused():
    """Reading a result is bounded too."""
    with pytest.raises(ValueError, match=f"^nested deeper than {RESULT_DEPTH} levels$"):
        read_result(b'{"document":' + b"[" * 100_000)


def test_an_error_of_lone_surrogates_is_encoded():
    """What foreign code complains of reaches the result, also if it is no Unicode text."""
    answer = Answer.failed(InvalidDocument("schema odd: \ud800"))
    assert members(REQUEST, answer)["error"]["message"] == "schema odd: \\ud800"


TAIL = ',"attempts":9,"fetched_at":"2001-01-01T00:00:00.000Z"'
TRICKY = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from([TAIL, TAIL[1:], '"' + TAIL, "\\" + TAIL, '","attempts":']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["attempts", "fetched_at", TAIL, "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(TRICKY, st.integers(1, 10**6 - 1), st.floats(0, 4e9))
def test_an_answer_that_still_holds_is_as_if_fetched_now(document, attempts, fetched_at):
    """Whatever a document holds that looks like the end of an answer, nothing else changes."""
    old = Answer("ok", 200, document, has_document=True, attempts=1, fetched_at=1.0)
    new = Answer("ok", 200, document, has_document=True, attempts=attempts, fetched_at=fetched_at)
    assert restamp(encode_answer(REQUEST, old), attempts, fetched_at) == encode_answer(REQUEST, new)


@settings(deadline=None)
@given(TRICKY, TRICKY, st.none() | st.text(max_size=5))
def test_verdicts_come_between_document_and_end(document, value, reason):
    """Whatever a document or a verdict holds, the result is the answer with the verdicts, and nothing else."""
    found = read_result(b"{" + checked(plain(document), [Call("x", "f")], [CheckOutcome(value, reason)]) + b"}")
    verdict, error = found.pop("checks"), found.pop("error", None)
    assert verdict == [{"name": "x", "field": "f", "elapsed_ms": 0.0}
                       | ({"value": value} if reason is None else {"error": reason})]  # fmt: skip
    assert (found.pop("outcome"), error is None) == (("ok", True) if reason is None else ("check_error", False))
    assert {"outcome": "ok"} | found == members(REQUEST, plain(document))


@given(TRICKY, st.none() | st.text(max_size=5))
def test_every_verdict_of_ours_is_one(value, field):
    """What is encoded is recognised, a failure is not."""
    assert is_check_result(read_result(encode_check_result(Call("x", field), CheckOutcome(value, elapsed=0.5))))
    assert not is_check_result(read_result(encode_check_result(Call("x", field), CheckOutcome(error="boom"))))


@pytest.mark.parametrize(
    "change",
    [{"name": 7}, {"name": ...}, {"field": 7}, {"field": None}, {"value": ...}, {"elapsed_ms": ...},
     {"elapsed_ms": True}, {"elapsed_ms": "1"}, {"error": "boom"}, {"surprise": 1}],
)  # fmt: skip
def test_what_no_reader_takes_is_no_verdict(change):
    """Members that are missing, odd or too many."""
    changed = {"name": "x", "field": "f", "value": 1, "elapsed_ms": 0.1} | change
    assert not is_check_result({name: value for name, value in changed.items() if value is not ...})
    assert not is_check_result([changed])


@settings(deadline=None)
@given(TRICKY, st.floats(0, 4e9))
def test_every_ok_answer_of_ours_is_one(document, fetched_at):
    """What is encoded is recognised, also once its time is another; with checks it is none that is kept."""
    answer = Answer("ok", 200, document, has_document=True, attempts=1, fetched_at=fetched_at)
    assert not is_shared(checked(answer, (Call("sha256"),), [CheckOutcome(None)]))
    shared = encode_answer(REQUEST._replace(source="s"), answer)
    assert is_shared(shared)
    assert is_shared(restamp(shared, 7, 1.0))


def test_an_answer_of_a_function_is_one():
    """It has neither status nor URL."""
    answer = Answer("ok", document=nested(64), has_document=True, attempts=1, fetched_at=1.0)
    assert is_shared(encode_answer(Request(source="f"), answer))


def test_a_failure_is_no_ok_answer():
    """Nor are half an answer, or one with members that a request adds."""
    error = UpstreamError("no", 503)
    error.attempts = 1
    assert not is_shared(encode_answer(REQUEST, Answer.failed(error)))
    whole = encode_answer(REQUEST, Answer("ok", attempts=1, fetched_at=1.0))
    assert is_shared(whole)
    assert not is_shared(b'"id":"x",' + whole)
    assert not any(is_shared(whole[:end]) for end in range(len(whole)))


HOSTILE = [
    None,
    1,
    {"a": 1, "outcome": "ok", "document": [1], "attempts": 7, "cache": "hit", "age": 1.0, "elapsed_ms": 1.0},
    {"x": {"a": 0, "context": {"b": 0, "outcome": "ok"}}, "checks": []},
    ['","document":', ',"outcome":"', ",", '"', {",": ","}],
]


@pytest.mark.parametrize("context", HOSTILE)
@pytest.mark.parametrize("document", [None, {"context": 1, "n": 2, "outcome": "x"}])
def test_a_context_hides_nothing_of_a_result_and_is_found_again(context, document):
    """Whatever a context holds, a result is taken apart as without it, and the context is read back."""
    answer = Answer("ok", 200, document, has_document=document is not None, attempts=3, fetched_at=1.0)
    shared, encoded = encode_answer(REQUEST, answer), encode_context(context)
    for cache, age in ((b"hit", 1.5), (b"miss", None), (None, None)):
        value = splice(with_context(b'"a"', encoded), shared, cache, age, 0.25)
        assert read_result(value) == {**read_result(splice(b'"a"', shared, cache, age, 0.25)), "context": context}
        assert cut(value) == (b'"a"', shared, cache and cache.decode(), 250.0)
        assert context_of(value) == encoded
        members = members_beside_document(value)
        assert (members["id"], members["outcome"], members["attempts"], members["elapsed_ms"]) == ("a", "ok", 3, 250.0)


def test_a_result_without_context_has_none():
    """A document or id that looks like a context is none."""
    shared = encode_answer(REQUEST, Answer("ok", 200, {"a": 1, "context": 2}, has_document=True, attempts=1))
    assert context_of(splice(strictjson.quote('","context":1'), shared, b"hit", 1.0, 0.1)) is None
    assert context_of(b"{}") is None
