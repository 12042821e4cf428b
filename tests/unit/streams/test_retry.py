"""Which failures are tried again, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from models.errors import Denied, Overloaded, Unreachable, UpstreamError
from models.source import Retries
from streams.config.validators import parse_networks
from streams.http.client import Client
from streams.http.guard import Guard
from streams.http.retry import MAX_RETRY_AFTER, pause_after, repeatable, retry_after

NONSENSE = (
    *(None, "", "soon", "-5", "+5", ".", ".5", "1.2.3", "1e3", "0x10", "5, 10", "5s", "٣", "²", "nan", "inf", "1 2"),
    *("Mon, 01 Jan 2024 00:00:00 +99999999999999999", "Mon, 01 Jan 2024 99:99:99 GMT", "Mon, 32 Jan 2024 00:00:00 GMT"),
    *("Mon, 01 Jan 99999999999999 00:00:00 GMT", "2024-01-01T00:00:00Z", ",", "Mon,"),
)
"""Values of Retry-After that say nothing."""


def test_pauses_are_drawn_below_a_doubling_bound() -> None:
    """Full jitter: 0 to 0.2 s, then 0.4, then 0.8; after the last try no more."""
    retries = Retries()
    for attempt, bound in ((1, 0.2), (2, 0.4), (3, 0.8)):
        pauses = [pause_after(attempt, Unreachable("gone"), retries) for _ in range(200)]
        assert all(pause is not None and 0 <= pause <= bound for pause in pauses)
        assert max(pause or 0 for pause in pauses) > bound / 2
    assert pause_after(4, Unreachable("gone"), retries) is None
    longest = [pause_after(50, Unreachable("x"), Retries(attempts=99)) or 0 for _ in range(200)]
    assert 5 < max(longest) <= 10


def test_a_source_has_its_own_tries_and_pauses() -> None:
    """Attempts and both bounds are those of the source; 1 attempt is never followed by another."""
    retries = Retries(attempts=3, first_pause=1.0, longest_pause=1.5)
    first, second = ([pause_after(attempt, Unreachable("x"), retries) or 0 for _ in range(200)] for attempt in (1, 2))
    assert 0.5 < max(first) <= 1.0 < max(second) <= 1.5
    assert pause_after(3, Unreachable("x"), retries) is None
    assert pause_after(1, Unreachable("x"), Retries(attempts=1)) is None
    assert pause_after(1, Unreachable("x"), Retries(first_pause=0.0)) == 0.0


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_statuses_that_may_pass_are_tried_again(status: int) -> None:
    """The statuses of the contract are retryable."""
    assert pause_after(1, UpstreamError("x", status), Retries()) is not None


@pytest.mark.parametrize("error", [UpstreamError("x", 404), UpstreamError("x", 501), Denied("x"), Overloaded("x")])
def test_what_stays_as_it_is_is_not_tried_again(error: Denied | UpstreamError | Overloaded) -> None:
    """A refusal, a denial and an open breaker are final."""
    assert pause_after(1, error, Retries()) is None


def test_only_what_may_be_sent_twice_is() -> None:
    """Idempotent methods, and any other that carries an Idempotency-Key."""
    assert [repeatable(method, {}) for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST", "PATCH")] == [
        True, True, True, True, True, False, False,
    ]  # fmt: skip
    assert repeatable("POST", {"idempotency-key": "1"})


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    """Both forms of RFC 9110, capped; nonsense is ignored."""
    assert retry_after("17") == 17
    assert retry_after(" 5 ") == 5
    assert retry_after("99999999999999999999") == MAX_RETRY_AFTER
    soon = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    assert soon is not None
    assert 25 < soon <= 30
    assert retry_after(format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)) == 0
    assert retry_after("Wed, 21 Oct 2099 07:28:00") == MAX_RETRY_AFTER
    for nonsense in NONSENSE:
        assert retry_after(nonsense) is None
    fractions = {"2.5": 3, "1.": 1, "0.001": 1, "9" * 400: MAX_RETRY_AFTER, "0" * 400 + "7.0": 7}
    assert {text: retry_after(text) for text in fractions} == fractions
    assert retry_after("Sunday, 06-Nov-94 08:49:37 GMT") == retry_after("Sun Nov  6 08:49:37 1994") == 0


@pytest.mark.usefixtures("way")
async def test_the_client_tries_again_and_says_how_often() -> None:
    """A host that fails twice and then answers: the third try's answer; a POST is sent once; a pause is kept to."""
    seen: list[str] = []

    async def flaky(request: web.Request) -> web.Response:
        seen.append(request.method)
        if request.query.get("pause"):
            return web.Response(status=429, headers={"Retry-After": request.query["pause"]})
        return web.Response(status=503 if len(seen) < 3 else 200, text="at last")

    app = web.Application()
    app.router.add_route("*", "/", flaky)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    url = f"http://127.0.0.1:{port}/"
    guard = Guard(parse_networks("127.0.0.0/8"), ((port, port),))
    try:
        async with Client(1000, guard, retry=Retries(first_pause=0.001)) as client:
            response = await client.fetch("GET", url, {})
            assert (response.body.content, response.attempts, seen) == (b"at last", 3, ["GET"] * 3)
            seen.clear()
            with pytest.raises(UpstreamError) as caught:
                await client.fetch("POST", url, {})
            assert (caught.value.attempts, seen) == (1, ["POST"])
            seen.clear()
            import time

            with pytest.raises(UpstreamError, match="answered 429") as refused:
                await client.fetch("GET", url + "?pause=100", {}, deadline=time.monotonic() + 5)
            assert (refused.value.attempts, len(seen)) == (1, 1)
    finally:
        await runner.cleanup()
