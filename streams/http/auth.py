"""Credentials of a source. They are put on a request at the last moment, for the source's own origin only, and are
known here so that no document and no message tells them again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple, Protocol
from urllib.parse import quote_plus, unquote_plus, urlencode

from yarl import URL

from models.errors import AnswerError
from models.source import ApiKey, Basic, Bearer, ClientCredentials, Source
from streams.config.secrets import read_secret
from streams.http.secret_scan import contains_secret
from streams.oauth import FAILED_FOR, RENEW_BEFORE, basic, read_token

FORMER_FOR = 400.0
"""Seconds for which an earlier token is a secret as well: slow requests were sent with it."""
FORMER_TOKENS = 16
"""How many of them at most: answers are searched for each. Tokens that live for less than 25 s leave sooner."""
RENEWED_FOR = 60.0
"""Seconds after a 401 had a token renewed in which no other has: some upstreams answer it for what is forbidden."""

Headers = Mapping[str, str]
Post = Callable[[str, Headers, str, float | None], Awaitable[bytes]]
"""Posts a text to a URL, with headers, before a deadline (monotonic seconds); returns the response's body."""


class Signed(NamedTuple):
    """A request with its credentials."""

    url: URL
    headers: Headers


class Credentials(Protocol):
    """What authenticates a source to its upstream."""

    async def sign(self, url: URL, headers: Headers, deadline: float | None) -> Signed:
        """Add the credentials to a request. Raises AnswerError if they cannot be obtained."""

    def renews(self, refused: Signed) -> bool:
        """Whether another attempt after a 401 for this request has other credentials."""

    def contained_in(self, text: bytes) -> bool:
        """Whether a text contains one of the secrets, in any spelling."""


class Fixed:
    """Headers and query parameters that are the same on every request; `secrets` must not appear in results."""

    def __init__(self, headers: Headers, query: Headers, secrets: Iterable[str]) -> None:
        self._headers = dict(headers)
        self._query = dict(query)
        self._secrets = tuple(secrets)

    async def sign(self, url: URL, headers: Headers, deadline: float | None) -> Signed:  # noqa: ARG002  nothing to wait for
        """Add the credentials to a request, in place of its own headers and parameters of these names."""
        if self._query:
            given = url.raw_query_string
            kept = [part for part in (given.split("&") if given else ())
                    if unquote_plus(part.partition("=")[0]) not in self._query]  # fmt: skip
            query = "&".join([*kept, urlencode(self._query)])
            url = URL(f"{str(url).partition('#')[0].partition('?')[0]}?{query}", encoded=True)
        own = {name.lower() for name in self._headers}
        kept_headers = {name: value for name, value in headers.items() if name.lower() not in own}
        return Signed(url, {**kept_headers, **self._headers})

    def renews(self, refused: Signed) -> bool:  # noqa: ARG002
        """Return False: they never change."""
        return False

    def contained_in(self, text: bytes) -> bool:
        """Whether a text contains one of the secrets, in any spelling."""
        return contains_secret(self._secrets, text)


class Token:
    """An OAuth 2 access token by client credentials: fetched once for all, renewed in time and after a 401."""

    def __init__(
        self, auth: ClientCredentials, post: Post, fixed: Fixed, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._auth = auth
        self._secret = read_secret(auth.client_secret)
        self._post = post
        self._fixed = fixed
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = ""
        self._former: deque[tuple[float, str]] = deque(maxlen=FORMER_TOKENS)
        self._renew_at = 0.0
        self._refused_until = -math.inf
        self._failure: tuple[float, AnswerError] | None = None

    async def sign(self, url: URL, headers: Headers, deadline: float | None) -> Signed:
        """Add the token to a request, fetching it first if there is none. Raises AnswerError."""
        if not self._fresh():
            async with self._lock:
                if not self._fresh():  # nobody fetched it while this one waited
                    await self._fetch(deadline)
        signed = await self._fixed.sign(url, headers, deadline)
        return signed._replace(headers={**signed.headers, "Authorization": f"Bearer {self._token}"})

    def renews(self, refused: Signed) -> bool:
        """Drop a refused token; returns whether there is, or may be, another."""
        if refused.headers.get("Authorization") == f"Bearer {self._token}":
            if (now := self._clock()) < self._refused_until:
                return False
            self._refused_until = now + RENEWED_FOR
            self._replace("")
        return True

    def _replace(self, token: str) -> None:
        now = self._clock()
        while self._former and self._former[0][0] <= now - FORMER_FOR:
            self._former.popleft()
        if self._token:
            self._former.append((now, self._token))
        self._token = token

    def contained_in(self, text: bytes) -> bool:
        """Whether a text contains a token or the client's secret."""
        former = (token for _, token in self._former)
        return contains_secret((self._token, *former, self._secret), text) or self._fixed.contained_in(text)

    def _fresh(self) -> bool:
        return bool(self._token) and self._clock() < self._renew_at

    async def _fetch(self, deadline: float | None) -> None:
        if self._failure is not None and self._clock() < self._failure[0]:
            raise _again(self._failure[1])
        sent_at = self._clock()
        try:
            token, life = read_token(await self._post(self._auth.token_url, *self._form(), deadline))
        except AnswerError as error:
            failure = self._of_token(error)
            if not failure.deadline_bound:
                self._failure = self._clock() + FAILED_FOR, failure
            raise failure from None
        self._replace(token)
        self._failure = None
        self._renew_at = sent_at + max(life - RENEW_BEFORE, life * 0.8)

    def _of_token(self, error: AnswerError) -> AnswerError:
        """Return an error of the token endpoint, named as such, without its status: that is not the upstream's."""
        words = "its words repeat the credentials" if self.contained_in(str(error).encode()) else str(error)
        ours = type(error)(f"no token: {words}")
        ours.retryable, ours.deadline_bound, ours.attempts = error.retryable, error.deadline_bound, error.attempts
        return ours

    def _form(self) -> tuple[Headers, str]:
        auth = self._auth
        form = {"grant_type": "client_credentials", "scope": auth.scope, "audience": auth.audience}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if auth.place == "header":
            # RFC 6749, section 2.3.1: id and secret are form-encoded before they become a Basic login.
            headers["Authorization"] = basic(quote_plus(auth.client_id), quote_plus(self._secret))
        else:
            form |= {"client_id": auth.client_id, "client_secret": self._secret}
        return headers, urlencode({name: value for name, value in form.items() if value is not None})


def credentials_of(source: Source, post: Post) -> Credentials | None:
    """Return a source's credentials, None for none. Raises ValueError for a secret that cannot be read."""
    headers = {name: read_secret(secret) for name, secret in source.secret_headers.items()}
    secrets = list(headers.values())
    query: dict[str, str] = {}
    match source.auth:
        case ClientCredentials() as auth:
            return Token(auth, post, Fixed(headers, {}, secrets))
        case Basic(username=username, password=password):
            secret = read_secret(password)
            headers["Authorization"] = basic(username, secret)
            secrets += [secret, headers["Authorization"].removeprefix("Basic ")]
        case Bearer(token=token):
            secret = read_secret(token)
            headers["Authorization"] = f"Bearer {secret}"
            secrets.append(secret)
        case ApiKey(place=place, name=name, key=key):
            secret = read_secret(key)
            (headers if place == "header" else query)[name] = secret
            secrets.append(secret)
    return Fixed(headers, query, secrets) if secrets else None


def _again(error: AnswerError) -> AnswerError:
    """Return a copy of a remembered failure: each request sets the attempts of its own error."""
    again = type(error)(str(error))
    again.retryable, again.no_immediate_retry = error.retryable, True
    return again
