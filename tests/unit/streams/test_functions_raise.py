"""What functions of plugins raise to say what happened, and async functions on the loop."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import urllib.error
from email.message import Message
from types import SimpleNamespace

import aiohttp
import pytest

from millrace import Invalid, RetryLater, UpstreamStatus
from models.errors import InvalidRequest, TimedOut, Unreachable, UpstreamError
from models.raised import FunctionError
from models.source import Limits, Retries, Source
from streams import coroutine_calls
from streams.functions import FunctionCaller

PATIENCE = 5.0
"""Seconds that something may take which should come at once."""
NO_PAUSE = Retries(first_pause=0.0)


@pytest.fixture
async def caller():
    async with FunctionCaller(1 << 20) as opened:
        yield opened


@pytest.fixture
def source(monkeypatch):
    """Make a source of a function."""

    def of(function, **members):
        monkeypatch.setattr(sys.modules[__name__], "acting", function, raising=False)
        return Source("s", call=f"{__name__}:acting", retry=members.pop("retry", NO_PAUSE), **members)

    return of


def raising(error, *, plain):
    """Return a function, plain or async, that raises, and the list of its calls."""
    calls = []

    def function():
        calls.append(None)
        raise error

    async def coroutine():
        await asyncio.sleep(0)
        function()

    return (function if plain else coroutine), calls


async def failure(caller, source, deadline=None):
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Exception) as caught:
            await caller.call(source, {}, deadline)
    return caught.value


class _Requests(OSError):
    """As the packages requests and httpx raise it: the response has the status."""

    def __init__(self, status, headers=()):
        super().__init__(f"{status} for url")
        self.response = SimpleNamespace(status_code=status, headers=dict(headers))


def urllib_error(status, **headers):
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://a/", status, "why", message, None)


def aiohttp_error(status, **headers):
    made = {name.replace("_", "-"): value for name, value in headers.items()}
    return aiohttp.ClientResponseError(SimpleNamespace(real_url="http://a/"), (), status=status, headers=made)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("error", "told_as"),
    [
        (UpstreamStatus(404), ("upstream_error", 404, 1)),
        (UpstreamStatus(503, "down"), ("upstream_error", 503, 4)),
        (Invalid("no such currency"), ("invalid_request", None, 1)),
        (urllib_error(404), ("upstream_error", 404, 1)),
        (urllib_error(502), ("upstream_error", 502, 4)),
        (_Requests(403), ("upstream_error", 403, 1)),
        (_Requests(500), ("upstream_error", 500, 4)),
        (aiohttp_error(410), ("upstream_error", 410, 1)),
        (aiohttp_error(503), ("upstream_error", 503, 4)),
    ],
)
async def test_what_a_function_raises_has_outcome_status_and_retries(caller, source, plain, error, told_as):
    """By its own words, or by the status of an HTTP library's error, as if the source had a URL."""
    outcome, status, calls = told_as
    function, made = raising(error, plain=plain)
    told = await failure(caller, source(function))
    assert (told.outcome, told.status, len(made), told.attempts) == (outcome, status, calls, calls)
    assert str(error) in str(told)
    assert (told.kind == "not_found") is (status in (404, 410))
    assert type(told) in (UpstreamError, InvalidRequest)  # whose names a result shows


@pytest.mark.parametrize(
    "error",
    [RetryLater(30), UpstreamStatus(429, retry_after=30), urllib_error(503, Retry_After="30"),
     _Requests(429, {"Retry-After": "30"}), aiohttp_error(429, Retry_After="30")],
)  # fmt: skip
async def test_a_source_that_asks_to_be_left_alone_is(caller, source, error):
    """No call is made for so many seconds, and the request fails at once if its deadline comes before."""
    function, made = raising(error, plain=True)
    told = await failure(caller, source(function), time.monotonic() + 10)
    assert (told.retryable, told.deadline_bound, told.retry_after, len(made)) == (True, True, 30, 1)
    assert 25 < caller.hosts["s"].paused_for <= 30


class _Odd(Exception):
    @property
    def response(self):
        raise RuntimeError


_CLOSED = Exception("closed")
_CLOSED.code = 1006


@pytest.mark.parametrize("error", [SystemExit(404), _CLOSED, _Odd("odd"), FunctionError("why")])
async def test_what_only_looks_like_a_response_is_an_error_like_any_other(caller, source, error):
    """An exit code is no status, nor is a number out of range, nor an error whose response cannot be read."""
    function, made = raising(error, plain=True)
    told = await failure(caller, source(function))
    assert (type(told), told.status, len(made)) == (UpstreamError, None, 1)
    with pytest.raises(ValueError, match="not an HTTP status"):
        UpstreamStatus(1006)


async def test_what_a_function_says_is_no_fault_of_it(caller, source, caplog):
    """The log asks nobody to correct a function that says what happened."""
    for error in (UpstreamStatus(404), urllib_error(404), aiohttp_error(404), Invalid("no")):
        function, _ = raising(error, plain=True)
        caller.hosts.clear()
        await failure(caller, source(function))
    assert not caplog.records


@pytest.mark.parametrize(("name", "kind"), [("TimeoutException", TimedOut), ("TransportError", Unreachable)])
async def test_errors_of_httpx_without_a_response_are_retried(caller, source, name, kind):
    """They are no OSErrors."""
    error = type("Some", (type(name, (Exception,), {"__module__": "httpx._exceptions"}),), {})("gone")
    function, made = raising(error, plain=False)
    assert (type(await failure(caller, source(function))), len(made)) == (kind, 4)


@pytest.mark.parametrize(("value", "content"), [("ä", "ä".encode()), (b"\xff", b"\xff"), ({"a": [1]}, b'{"a":[1]}')])
async def test_an_async_function_answers_like_a_plain_one(caller, source, value, content):
    """Its parameters come by name, its value becomes a body."""

    async def function(a, b):
        await asyncio.sleep(0)
        return value if (a, b) == (1, [None]) else None

    answer = await caller.call(source(function), {"a": 1, "b": [None]}, None)
    assert (answer.body.content, answer.attempts) == (content, 1)


async def test_an_async_function_is_cancelled_with_its_request(caller, source):
    """The deadline ends what it waits for, and gives its place back, unlike a thread's."""
    ended = asyncio.Event()

    async def function():
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(caller.call(source(function, limits=Limits(concurrency=1)), {}, None), 0.01)
    async with asyncio.timeout(PATIENCE):
        await ended.wait()
        while caller.hosts["s"].users:
            await asyncio.sleep(0)


async def test_an_async_function_that_goes_on_when_cancelled_holds_up_nobody(caller, source):
    """Its request ends by its deadline; its place is taken until it ends."""
    release = asyncio.Event()

    async def function():
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(caller.call(source(function), {}, None), 0.01)
    assert caller.hosts["s"].users == 1
    release.set()
    async with asyncio.timeout(PATIENCE):
        while caller.hosts["s"].users:
            await asyncio.sleep(0)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3), StopAsyncIteration()])
async def test_an_async_function_ends_nothing_but_itself(caller, source, error):
    """A cancellation that it raises is not the request's, and its exit is not the worker's."""
    function, _ = raising(error, plain=False)
    task = asyncio.ensure_future(caller.call(source(function), {}, None))
    await asyncio.wait([task], timeout=PATIENCE)
    assert not task.cancelled()
    assert isinstance(task.exception(), UpstreamError)


async def test_a_limit_of_time_of_its_own_works_in_an_async_function(caller, source):
    """What cancels inside of it stays inside of it."""

    async def function():
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        except TimeoutError:
            return "in time"

    assert (await caller.call(source(function), {}, None)).body.content == b"in time"


async def test_an_async_function_that_blocks_is_named_in_the_log(caller, source, monkeypatch, caplog):
    """Once a minute, with the seconds that everything stood still; one that awaits is not."""
    monkeypatch.setattr(coroutine_calls, "BLOCKED", 0.0)

    async def function():
        await asyncio.sleep(0)
        return "ok"

    with caplog.at_level(logging.WARNING, coroutine_calls.__name__):
        for _ in range(2):
            await caller.call(source(function), {}, None)
        [line] = [record.getMessage() for record in caplog.records]
        assert line.startswith(f"source s: {__name__}:acting blocked the event loop for ")
        caplog.clear()
        monkeypatch.setattr(coroutine_calls, "BLOCKED", PATIENCE)
        async with FunctionCaller(1 << 20) as other:
            await other.call(source(function), {}, None)
        assert not caplog.records
