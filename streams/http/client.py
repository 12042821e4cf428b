"""The HTTP client. It caps decoded bytes, follows redirects itself so that the guard checks each hop, and translates
every failure into an error of `models.errors`. The caller enforces the deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import aiohttp
from yarl import URL

from models.documents import Body
from models.errors import AnswerError, Denied, InvalidDocument, InvalidRequest, TimedOut, TooLarge, UpstreamError
from models.source import Limits, Retries, Sources
from streams.cache.freshness import Head
from streams.config.settings import (
    DEFAULT_MAX_IN_FLIGHT,
    DEFAULT_MAX_REDIRECTS,
    DEFAULT_MAX_WAITING_PER_HOST,
    Settings,
)
from streams.files import share
from streams.http import turn
from streams.http.auth import Credentials, Signed
from streams.http.bodies import SMALL, Bodies
from streams.http.content import arrived, read_body
from streams.http.cookies import Cookies
from streams.http.errors import hide_secrets, is_host_fault, translate, unsuccessful
from streams.http.excerpt import add_excerpt, chosen, repeats_credentials
from streams.http.fit import direct
from streams.http.guard import Guard, guard_of
from streams.http.limits import LATE, Bulkhead, Hosts
from streams.http.once import Pool
from streams.http.policy import CONNECT_TIMEOUT, PROTOCOLS, UpstreamPolicy
from streams.http.request import OutgoingRequest, redirected, with_body
from streams.http.response import IncomingResponse, Response, media
from streams.http.retry import ONCE, pause_before_next, repeatable
from streams.http.session import CONNECTING, Session, session_of
from streams.http.stats import UpstreamStats, result_of, status_class
from streams.http.url import parse
from streams.shares import Shares
from streams.tls import Context

if TYPE_CHECKING:
    from streams.http.tracing import HttpSpans

SLOW = 1.0
"""Seconds: a request cancelled by its deadline sooner says nothing about the host."""

NOT_MODIFIED, BAD_REQUEST = 304, 400
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110, section 9.2.1)."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class _Redirect(NamedTuple):
    """A redirect, and the cookies that it sets."""

    status: int
    location: str
    cookies: Sequence[str]
    head: Head


class Client:
    """Opened with `async with`. `max_bytes` caps a decoded body, `max_in_flight` concurrent requests, `max_waiting`
    requests that wait for one silent host; `guard` decides what may be reached. `retry`, `proxy` (a URL), `limits` (by
    host) and `max_redirects` are defaults for sources.
    """

    def __init__(
        self,
        max_bytes: int,
        guard: Guard,
        *,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        retry: Retries | None = None,
        proxy: str | None = None,
        limits: Mapping[str, Limits] | None = None,
        max_redirects: int = DEFAULT_MAX_REDIRECTS,
        max_waiting: int = DEFAULT_MAX_WAITING_PER_HOST,
    ) -> None:
        self._guard = guard
        self.max_in_flight = max_in_flight
        self._slots: Shares[Bulkhead] = Shares(max_in_flight, lambda gate: gate.greed)
        self._stack = AsyncExitStack()
        self.policy = UpstreamPolicy(max_bytes, retry=retry or Retries(), proxy=proxy, redirects=max_redirects)
        self.hosts = Hosts(limits, waiting=max_waiting)
        self.stats = UpstreamStats()
        self.bodies = Bodies(max_bytes)
        self.spans: HttpSpans | None = None
        self.changed: Callable[[str, Mapping[str, str]], None] | None = None
        """Called with URL and response headers when an unsafe request has succeeded."""

    async def __aenter__(self) -> Self:
        secured = Context(protocols=PROTOCOLS)
        files, resolver = share().upstream, self._guard.resolver()
        self._stack.push_async_callback(resolver.close)
        pool = Pool(files, self._guard.socket, resolver=resolver, ssl=secured, **CONNECTING)
        self._direct = direct(pool)
        await self._stack.enter_async_context(self._direct)
        # The only address dialled is that of the proxy, which the operator named.
        pool = Pool(files, ssl=secured, **CONNECTING)
        self._proxied = await self._stack.enter_async_context(
            Session(session_of(pool, connect=2 * CONNECT_TIMEOUT))  # to the proxy, and a tunnel
        )
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def calls(self) -> int:
        """Return how many requests were sent."""
        return self.stats.exchanges.count

    @property
    def in_flight(self) -> int:
        """Return how many requests are in flight, out of at most `max_in_flight`."""
        return self._slots.taken

    async def fetch(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = None,
        *,
        deadline: float | None = None,
        policy: UpstreamPolicy | None = None,
        validators: Mapping[str, str] | None = None,
        again: bool | None = None,
        own: bool = True,
    ) -> Response:
        """Send a request, with retries as `policy` allows before `deadline` (monotonic seconds).

        `body`: a string is sent as text, anything else as JSON. `validators`: If-None-Match and If-Modified-Since; then
        a 304 is a response. `again`: whether a request that may have been received may be sent again; None: by method
        and headers. `own`: the URL is the source's, not one that an answer named. Raises Denied, Unreachable, TimedOut,
        UpstreamError (also for an unsuccessful status), TooLarge, InvalidDocument (an undecodable body),
        InvalidRequest and Overloaded, with the number of `attempts`.
        """
        policy = policy or self.policy
        headers, data = with_body(headers, body)
        again = policy.repeatable or (repeatable(method, headers) if again is None else again)
        if validators:
            headers = {**headers, **validators}
        sent = None if self.spans is None else count()
        hop = OutgoingRequest(method, parse(url), headers, data, own, conditional=bool(validators), sent=sent)
        attempt, failed = 1, None
        while True:
            try:
                response = await self._follow(hop, deadline, policy)
            except AnswerError as error:
                hide_secrets(error, policy.credentials)
                if error.attempts is None:  # refused before it was sent: report the error of the attempt before
                    raise failed or error from None
                failed = error
                attempt += error.attempts - 1
                retries = policy.retry if again or error.unsent else ONCE
                pause = pause_before_next(attempt, error, retries, turn.deadline_of(deadline))
            else:
                return response if attempt == 1 else response._replace(attempts=response.attempts + attempt - 1)
            await asyncio.sleep(pause)
            attempt += 1

    async def post(
        self, policy: UpstreamPolicy, url: str, headers: Mapping[str, str], text: str, deadline: float | None
    ) -> bytes:
        """Post a text and return the response's body. Raises AnswerError as `fetch` does."""
        return (await self.fetch("POST", url, headers, text, deadline=deadline, policy=policy)).body.content

    async def _follow(self, hop: OutgoingRequest, deadline: float | None, policy: UpstreamPolicy) -> Response:
        """Send a request and follow its redirects; send it again with renewed credentials, which is another attempt."""
        redirects, attempts, answered = 0, 1, False
        cookies: Cookies | None = None
        while True:
            signed = None
            credentials = policy.credentials if hop.own else None
            try:
                self._guard.check(hop.url)
                signed = await credentials.sign(hop.url, hop.headers, deadline) if credentials is not None else None
                ready = signed or Signed(hop.url, hop.headers)
                if cookies is not None:  # behind the credentials, which may be a cookie
                    ready = ready._replace(headers=cookies.added_to(ready.headers, hop.url, own=hop.own))
                answer = await self._send(hop, ready, deadline, policy)
            except AnswerError as error:
                tried = max(attempts, error.attempts or 0) if error.attempts or redirects else attempts - 1
                error.attempts, error.unsent = tried or None, error.unsent and not answered
                if attempts > 1 or signed is None or credentials is None or not _renewed(error, signed, credentials):
                    raise
                attempts, answered = attempts + 1, True
                continue
            if isinstance(answer, Response):
                answer = answer._replace(own=False) if redirects else answer
                return answer if attempts == 1 else answer._replace(attempts=attempts)
            redirects, answered = redirects + 1, True
            hop = hop._replace(redirects=(*hop.redirects, answer.head))
            try:
                if redirects > policy.redirects:
                    msg = f"{hop.url.host}: more than {policy.redirects} redirects (see MILLRACE_MAX_REDIRECTS)"
                    raise UpstreamError(msg, answer.status)
                if answer.cookies:
                    cookies = cookies or Cookies(policy.credentials)
                    cookies.take(hop.url, answer.cookies)
                hop = redirected(hop, answer.status, answer.location, credentials)
            except AnswerError as error:  # of a request that was sent, and answered
                error.attempts, error.unsent = attempts, False
                raise _with_trail(error, hop.redirects) from None

    async def _send(
        self, hop: OutgoingRequest, signed: Signed, deadline: float | None, policy: UpstreamPolicy
    ) -> Response | _Redirect:
        """Send one request within the limits of host and worker, and record its result in the host's breaker."""
        if hop.own and policy.apart:
            host = self.hosts.of(_authority(hop.url), policy.source, policy.bulkhead)
        else:
            host = self.hosts.of(_authority(hop.url))
        gate = (policy.bulkhead if hop.own else None) or host.bulkhead
        queued_at = time.monotonic()
        ticket = await host.acquire(turn.deadline_of(deadline), gate)
        started, result, ok = None, "cancelled", None
        try:
            if not self._slots.acquire_now(gate):
                await self._slots.acquire(gate)
            started = time.monotonic()
            turn.begin()
            self.stats.waits.add(started - queued_at)
            answer = await (self._exchange if self.spans is None else self._traced)(
                hop, signed, policy, turn.deadline_of(deadline)
            )
            result, ok = status_class(answer.status), True
        except AnswerError as error:
            result, ok, error.attempts = result_of(error), is_host_fault(error), 1
            error.trail = error.trail or hop.redirects
            if isinstance(error, UpstreamError) and error.retry_after is not None:
                host.pause(error.retry_after)
            raise
        except (aiohttp.ClientError, OSError, ValueError) as exc:  # TimeoutError is an OSError
            translated = translate(exc, hop.url)
            if isinstance(translated, InvalidRequest) and hop.redirects:  # the URL of the request itself was valid
                msg = f"the URL of a redirect cannot be requested: {hop.url.host}"
                translated = UpstreamError(msg, hop.redirects[-1].status)
            result, ok = translated.outcome, is_host_fault(translated)
            translated.attempts = None if isinstance(translated, Denied | InvalidRequest) else 1
            # Without its cause, which may quote a secret, the URL, or an invalid line of the response.
            raise _with_trail(translated, hop.redirects) from None
        except asyncio.CancelledError:
            result, ok = _cancelled(started, turn.deadline_of(deadline))
            raise
        else:
            return answer
        finally:
            if started is not None:
                self._slots.give(gate)
            self.stats.add(policy.source, result, started)
            host.release(ticket, ok=ok, gate=gate, result=result)

    async def _traced(
        self, hop: OutgoingRequest, signed: Signed, policy: UpstreamPolicy, deadline: float | None
    ) -> Response | _Redirect:
        """Send one request within a span of its own, and propagate it to the upstream."""
        assert self.spans is not None
        assert hop.sent is not None
        with self.spans.request(hop.method, hop.url, next(hop.sent)) as span:
            signed = Signed(signed.url, {**signed.headers, **span.headers})
            answer = await self._exchange(hop, signed, policy, deadline)
            span.answered(answer.status or 0)
            return answer

    async def _exchange(
        self, hop: OutgoingRequest, signed: Signed, policy: UpstreamPolicy, deadline: float | None
    ) -> Response | _Redirect:
        """Send one request; returns the response or redirect."""
        began = time.monotonic()
        response = await (self._proxied if policy.proxy else self._direct).request(hop, signed, policy)
        head = Head(response.status, response.headers, time.monotonic() - began)
        try:
            status = response.status
            if hop.method not in SAFE and status < BAD_REQUEST and not policy.reads and self.changed is not None:
                self.changed(str(hop.url), response.headers)
            if status in _REDIRECTS and status not in policy.success and policy.redirects:
                location = response.headers.get("Location")
                if not location:
                    how = "without a Location" if location is None else "with an empty Location"
                    msg = f"{hop.url.host} answered {status} {how}"
                    raise UpstreamError(msg, status)
                return _Redirect(status, location, response.headers.getall("Set-Cookie", ()), head)
            if status not in policy.success and not (status == NOT_MODIFIED and hop.conditional):
                error = unsuccessful(hop.url.host or "?", response, policy)
                if isinstance(error, UpstreamError):
                    await add_excerpt(error, response, policy.credentials, deadline)
                raise error
            content = arrived(response, policy.max_bytes)
            if content is None:
                content = await self._read(hop, response, policy, deadline)
            body = Body(content, *media(response.headers.get("Content-Type")))
            if policy.credentials is not None and await repeats_credentials(body, response.headers, policy.credentials):
                msg = f"{hop.url.host} repeats the source's credentials in its answer, which is not passed on"
                raise InvalidDocument(msg)
            return Response(status, body, response.headers, delay=head.delay, redirects=hop.redirects, url=hop.url)
        except AnswerError as error:
            if isinstance(error, InvalidDocument | TooLarge):
                error.status = response.status
            error.headers = chosen(response.headers, policy.response_headers, policy.credentials)
            raise _with_trail(error, (*hop.redirects, head)) from None
        finally:
            response.release()  # closes the connection if the body was not read to its end

    async def _read(
        self, hop: OutgoingRequest, response: IncomingResponse, policy: UpstreamPolicy, deadline: float | None
    ) -> bytes:
        """Return a body, once there is memory for it. A coded one may decode to as many bytes as are allowed."""
        length = None if "Content-Encoding" in response.headers else response.content_length
        if length is not None and length <= SMALL:
            return await read_body(response, policy.max_bytes)
        most = min(length or policy.max_bytes, policy.max_bytes)
        with self.bodies.room(hop.url.host or "?", most, deadline) as room:
            return await read_body(response, policy.max_bytes, room.grow)


def client_of(settings: Settings, sources: Sources | None = None) -> Client:
    """Return an HTTP client by the settings."""
    return Client(
        settings.max_bytes,
        guard_of(settings),
        # Each may dial two addresses at once, and some connections are idle.
        max_in_flight=max(1, min(settings.max_in_flight, share().upstream // 2)),
        proxy=settings.proxy,
        limits=sources.hosts if sources else None,
        max_redirects=settings.max_redirects,
        max_waiting=settings.max_waiting_per_host,
    )


def _cancelled(started: float | None, deadline: float | None) -> tuple[str, bool | None]:
    """Return how a cancelled request ended, and whether its host did its part; times are monotonic seconds."""
    now = time.monotonic()
    if deadline is None or now < deadline:
        return "cancelled", None
    blame = started is not None and now - started >= SLOW and now - deadline < LATE
    return TimedOut.outcome, False if blame else None


def _with_trail(error: AnswerError, trail: tuple[Head, ...]) -> AnswerError:
    """Return the error with the heads of the responses before it."""
    error.trail = trail
    return error


def _renewed(error: AnswerError, signed: Signed, credentials: Credentials) -> bool:
    """Whether there are new credentials after these were refused."""
    return isinstance(error, UpstreamError) and error.refuses_credentials and credentials.renews(signed)


def _authority(url: URL) -> str:
    """Return host and port, without a default port and without a dot at the end of the name."""
    authority = url.raw_authority
    return authority.replace(".:", ":").removesuffix(".") if ".:" in authority or authority[-1] == "." else authority
