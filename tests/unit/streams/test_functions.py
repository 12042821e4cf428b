"""Functions of plugins as sources: real threads, real waits, and functions that do not come back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import sys
import threading
import time
from decimal import Decimal
from typing import ClassVar

import pytest

from models import strictjson
from models.documents import Body, load
from models.errors import (
    MESSAGE_LIMIT,
    Denied,
    InvalidDocument,
    InvalidRequest,
    Overloaded,
    TimedOut,
    TooLarge,
    Unreachable,
    UpstreamError,
)
from models.raised import Invalid, RetryLater, UpstreamStatus
from models.source import Limits, Retries, Source
from streams import functions as module
from streams.functions import JOIN_TIMEOUT, FunctionCaller
from streams.http.breaker import MIN_REQUESTS

PATIENCE = 5.0
"""Seconds that something may take which should come at once."""
NO_PAUSE = Retries(first_pause=0.0)
ONCE = Retries(attempts=1)


@pytest.fixture
async def caller():
    async with FunctionCaller(1 << 20) as opened:
        yield opened


@pytest.fixture
def released(caller):
    """An event for functions to hang on, which ends before the caller is closed."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def source(monkeypatch):
    """Make a source of a function."""

    def of(function, name="s", **members):
        monkeypatch.setattr(sys.modules[__name__], f"acting_{name}", function, raising=False)
        return Source(name, call=f"{__name__}:acting_{name}", retry=members.pop("retry", NO_PAUSE), **members)

    return of


async def wait_for(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def raising(error):
    """Return a function that raises, and counts how often it did."""

    def function():
        function.calls += 1
        raise error

    function.calls = 0
    return function


async def failure(caller, source, deadline=None, patience=PATIENCE):
    async with asyncio.timeout(patience):
        with pytest.raises(Exception) as caught:
            await caller.call(source, {}, deadline)
    return caught.value


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("\u00e4", Body("\u00e4".encode(), "text/plain", "utf-8")),
        ("", Body(b"", "text/plain", "utf-8")),
        (b"\xff", Body(b"\xff")),
        ({"a": [1, None, "\u00e4"]}, Body('{"a":[1,null,"\u00e4"]}'.encode(), "application/json")),
        (None, Body(b"null", "application/json")),
        (False, Body(b"false", "application/json")),
        ((1, 2), Body(b"[1,2]", "application/json")),
    ],
)
async def test_what_a_function_returns_becomes_a_body(caller, source, value, body):
    """Text stays text, bytes stay bytes, and anything else is written as JSON; there is no status."""
    assert (await caller.call(source(lambda: value), {}, None))[:4] == (None, body, {}, 1)


CYCLE = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, bytearray(b"x"), {"a": "\ud800"}, CYCLE, {(): 1}])
async def test_what_is_no_json_is_no_document(caller, source, value):
    """A value that JSON cannot say is the function's mistake, told as such."""
    error = await failure(caller, source(lambda: value))
    assert isinstance(error, InvalidDocument)
    assert str(error).startswith("the function returned a value that is not JSON: ")


@pytest.mark.parametrize("value", ["\ud800", functools.reduce(lambda inner, _: [inner], range(100_000), 0)])
async def test_what_cannot_be_written_is_no_document(caller, source, value):
    """Text with lone surrogates, and what nests too deep to be written, are the function's mistake too."""
    assert isinstance(await failure(caller, source(lambda: value)), InvalidDocument)


async def test_an_answer_has_a_size(caller, source):
    """A function's answer is held to the source's size as an upstream's is."""
    assert isinstance(await failure(caller, source(lambda: "x" * 11, max_bytes=10)), TooLarge)


@pytest.mark.parametrize(
    ("error", "kind", "calls"),
    [
        (TimeoutError("late"), TimedOut, 4),
        (OSError("gone"), Unreachable, 4),
        (ConnectionResetError("gone"), Unreachable, 4),
        (ValueError("bad"), UpstreamError, 1),
        (KeyError("bad"), UpstreamError, 1),
        (RecursionError("bad"), UpstreamError, 1),
    ],
)
async def test_what_a_function_raises_is_told_by_kind(caller, source, error, kind, calls):
    """Time-outs and errors of the system may pass and are tried again; any other error is the answer."""
    function = raising(error)
    told = await failure(caller, source(function))
    assert (type(told), str(told)) == (kind, f"source s: {type(error).__name__}: {error}")
    assert (told.attempts, function.calls) == (calls, calls)
    assert isinstance(told.__cause__, type(error))


@pytest.mark.parametrize(
    ("error", "calls"),
    [(Denied("no"), 1), (UpstreamError("no", 404), 1), (UpstreamError("busy", 503), 4), (Unreachable("gone"), 4)],
)
async def test_a_function_may_say_the_outcome_itself(caller, source, error, calls):
    """An error of ours that a function raises is the request's, and retried as if it were a fetch's."""
    function = raising(error)
    assert await failure(caller, source(function)) is error
    assert function.calls == error.attempts == calls


async def test_an_iterator_that_ends_is_an_answer(caller, source):
    """`next()` without a default in a function is a mistake like any other, and not a hang."""
    assert isinstance(await failure(caller, source(raising(StopIteration())), patience=1), UpstreamError)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), concurrent.futures.CancelledError(), SystemExit(3)])
async def test_a_function_ends_nothing_but_itself(caller, source, error):
    """A cancellation of the function's own is not ours, and its exit is not the worker's."""
    task = asyncio.ensure_future(caller.call(source(raising(error)), {}, None))
    await asyncio.wait([task], timeout=PATIENCE)
    assert not task.cancelled()
    assert isinstance(task.exception(), UpstreamError)


async def test_a_later_try_may_do(caller, source):
    """After two failures that may pass the third try's answer holds, and says that it was the third."""
    tries = [OSError("1"), TimeoutError("2"), None]

    def function():
        if error := tries.pop(0):
            raise error
        return "ok"

    assert (await caller.call(source(function), {}, None)).attempts == 3


async def test_no_try_begins_after_the_deadline(caller, source, monkeypatch):
    """A pause that would end past the deadline is not begun; the failure is no answer for those with more time."""
    monkeypatch.setattr("random.uniform", lambda _, bound: bound)
    function = raising(OSError("gone"))
    retry = Retries(first_pause=60.0, longest_pause=60.0)
    error = await failure(caller, source(function, retry=retry), deadline=time.monotonic() + 30)
    assert (type(error), error.deadline_bound, function.calls) == (Unreachable, True, 1)


async def test_parameters_are_named_arguments(caller, source):
    """Each parameter is handed over by name, with its type."""
    answer = await caller.call(source(lambda **given: given), {"a": 1, "b": [None]}, None)
    assert answer.body.content == b'{"a":1,"b":[null]}'


async def test_numbers_keep_their_digits(caller, source):
    """From a function's Decimal, or from what it was given, to the document."""
    given = strictjson.loads(b'{"a":1.10,"b":[0.29999999999999998],"c":-0}', exact=True)
    answer = await caller.call(source(lambda **given: [given, Decimal("2.50")]), given, None)
    assert answer.body.content == b'[{"a":1.10,"b":[0.29999999999999998],"c":-0},2.50]'
    assert load("json", answer.body).encoded == answer.body.content


async def test_no_more_calls_run_than_the_source_bears(caller, source, released):
    """`concurrency` calls are under way; further ones wait for a place, and other sources do not."""
    began = []

    def function(n):
        began.append(n)
        released.wait(PATIENCE)
        return n

    slow = source(function, limits=Limits(concurrency=2))
    tasks = [asyncio.ensure_future(caller.call(slow, {"n": n}, None)) for n in range(5)]
    await wait_for(lambda: len(began) == 2)
    assert (await caller.call(source(lambda: "ok", "other"), {}, None)).body.content == b"ok"
    assert began == [0, 1]
    released.set()
    answers = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    assert [answer.body.content for answer in answers] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_function_that_hangs_keeps_its_place(caller, source, released):
    """Requests that gave up free nothing as long as their calls run; then the places are there again."""
    began = []

    def function():
        began.append(None)
        released.wait(PATIENCE)

    hanging = source(function, limits=Limits(concurrency=2))
    for count in (1, 2):
        task = asyncio.ensure_future(caller.call(hanging, {}, None))
        await wait_for(lambda count=count: len(began) == count)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    host = caller.hosts["s"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(caller.call(hanging, {}, None), 0.05)
    assert (len(began), host.bulkhead.in_flight, host.users) == (2, 2, 2)
    released.set()
    await wait_for(lambda: host.users == 0)
    assert host.bulkhead.in_flight == 0
    await asyncio.wait_for(caller.call(hanging, {}, None), PATIENCE)
    assert len(began) == 3


async def test_a_rate_is_kept(caller, source):
    """A call whose turn would come past its deadline is refused at once."""
    limited = source(lambda: "ok", limits=Limits(rate=0.01))
    await caller.call(limited, {}, None)
    error = await failure(caller, limited, time.monotonic() + 5)
    assert (type(error), error.deadline_bound) == (Overloaded, True)
    assert "source s takes 0.01 requests a second at most" in str(error)


async def test_a_source_that_fails_is_left_alone(caller, source):
    """After enough failures the breaker is open: the function is not called, and other sources are."""
    function = raising(OSError("gone"))
    failing = source(function, retry=ONCE)
    for _ in range(MIN_REQUESTS):
        assert isinstance(await failure(caller, failing), Unreachable)
    error = await failure(caller, failing)
    assert isinstance(error, Overloaded)
    assert str(error).startswith("source s fails too often")
    assert function.calls == MIN_REQUESTS
    assert (await caller.call(source(lambda: "ok", "other"), {}, None)).body.content == b"ok"


async def test_an_answer_of_the_function_s_is_no_failure(caller, source):
    """Saying no as one of our errors is doing its part: the breaker stays closed."""
    denying = source(raising(Denied("no")), retry=ONCE)
    for _ in range(MIN_REQUESTS + 1):
        assert isinstance(await failure(caller, denying), Denied)


def test_a_function_that_ends_after_the_worker_says_nothing(source, monkeypatch, caplog):
    """Its thread gives the place back to a loop that is closed: nobody is there to be told."""
    monkeypatch.setattr(module, "JOIN_TIMEOUT", 0.0)
    begun, goes_on = threading.Event(), threading.Event()

    def function():
        begun.set()
        goes_on.wait(PATIENCE)

    async def worker():
        async with FunctionCaller(1 << 20) as caller:
            call = asyncio.ensure_future(caller.call(source(function), {}, None))
            await asyncio.to_thread(begun.wait, PATIENCE)
            call.cancel()

    before = set(threading.enumerate())
    asyncio.run(worker())
    goes_on.set()
    for thread in set(threading.enumerate()) - before:  # the function's, and the one that joins it
        thread.join(PATIENCE)
    assert caplog.records == []


@pytest.mark.slow
async def test_closing_does_not_wait_for_functions_that_hang(source):
    """With hanging functions of several sources, closing takes about as long as threads may take to end."""
    released, began = threading.Event(), []

    def function():
        began.append(None)
        released.wait(PATIENCE)

    opened = await FunctionCaller(1 << 20).__aenter__()
    sources = [source(function, name) for name in ("a", "b", "c")]
    tasks = [asyncio.ensure_future(opened.call(each, {}, None)) for each in sources]
    try:
        await wait_for(lambda: len(began) == 3)
        for task in tasks:
            task.cancel()
        closing = asyncio.ensure_future(opened.__aexit__())
        done, _ = await asyncio.wait([closing], timeout=1.0 * 2)
    finally:
        released.set()
    await closing
    await asyncio.wait(tasks)
    assert done


async def test_closing_an_idle_caller_is_quick(source):
    """Threads that wait for work end at once, and nothing is left of them."""
    before = set(threading.enumerate())
    async with asyncio.timeout(JOIN_TIMEOUT), FunctionCaller(1 << 20) as opened:
        await opened.call(source(lambda: "ok"), {}, None)
        begun = set(threading.enumerate()) - before
        assert begun
    await wait_for(lambda: not begun & set(threading.enumerate()))


@pytest.mark.parametrize("way", ["raised", "returned"])
async def test_no_secret_of_a_source_is_told_by_a_function(source, way):
    """What a function raises or returns does not carry a source's secret into a result."""

    def function():
        if way == "raised":
            raise RuntimeError("login with s3cret-key failed")
        return {"config": "s3cret-key"}

    async with FunctionCaller(1 << 20, {"s3cret-key"}) as opened:
        error = await failure(opened, source(function))
    assert "s3cret" not in str(error)
    assert "secret of a source" in str(error)


@pytest.mark.parametrize(
    ("raised", "kept", "pause"),
    [
        (UpstreamStatus(503, "login with s3cret-key failed", retry_after=0.2), (UpstreamError, 503, True, None), 0.2),
        (UpstreamStatus(404, "nothing for s3cret-key"), (UpstreamError, 404, False, "not_found"), None),
        (RetryLater(0.2, "s3cret-key is used up"), (UpstreamError, None, True, None), 0.2),
        (Invalid("s3cret-key is no customer"), (InvalidRequest, None, False, None), None),
    ],
)
async def test_an_error_whose_message_has_a_secret_keeps_all_but_its_message(source, raised, kept, pause):
    """The upstream's status, the pause that it wants and what they mean decide on retries, dead letters and caching."""

    def function():
        raise raised

    async with FunctionCaller(1 << 20, {"s3cret-key"}) as opened:
        found = await failure(opened, source(function, retry=ONCE))
        paused = opened.hosts["s"].paused_for
    assert (type(found), found.status, found.retryable, found.kind) == kept
    assert getattr(found, "retry_after", None) == pause
    assert (paused > 0) is (pause is not None)
    assert "s3cret" not in found.whole_text()


async def test_a_secret_at_the_cut_of_a_message_is_not_told(source):
    """Messages are cut at 500 characters: what is left of a secret there is a part of it."""
    text = "x" * (MESSAGE_LIMIT - 40) + " s3cret-key-of-thirty-characters"

    def function():
        raise RuntimeError(text)

    async with FunctionCaller(1 << 20, {"s3cret-key-of-thirty-characters"}) as opened:
        error = await failure(opened, source(function))
    assert "s3cret" not in str(error)
    assert "secret of a source" in str(error)


class Watched(dict):
    """Notes which threads write it as JSON."""

    threads: ClassVar[list[str]] = []

    def items(self):
        self.threads.append(threading.current_thread())
        return super().items()


async def test_a_returned_value_is_encoded_beside_the_event_loop(caller, source):
    """In the function's own thread, so that megabytes hold up nobody, and no further than it may be long."""
    Watched.threads.clear()
    assert (await caller.call(source(lambda: [Watched(a=1)] * 2), {}, None)).body.content == b'[{"a":1},{"a":1}]'
    assert threading.main_thread() not in Watched.threads
    Watched.threads.clear()
    many = source(lambda: [Watched(a=1)] * 100_000, name="t", max_bytes=1_000)
    error = await failure(caller, many)
    assert (type(error), str(error)) == (TooLarge, "the function returned JSON of more than 1000 bytes")
    assert 0 < len(Watched.threads) < 200


async def test_a_function_s_mistake_is_logged_once_a_minute(caller, source, caplog):
    """Where it was raised is in the log, and nowhere else; a flood of them is one line."""
    wrong = source(raising(ValueError("bad")))
    for _ in range(3):
        await failure(caller, wrong)
    [record] = [each for each in caplog.records if each.name == "streams.functions"]
    assert "raised ValueError in " in record.getMessage()
