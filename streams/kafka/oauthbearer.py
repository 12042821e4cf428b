"""The token of an OAUTHBEARER login: fetched with client credentials, shared by all connections of the process, renewed
before it expires. aiokafka requests it whenever it connects.
"""

from __future__ import annotations

import ssl
import time
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from aiokafka import conn
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError, SaslAuthenticationFailed

from models import strictjson
from models.errors import AnswerError
from streams.config.settings import Kafka
from streams.oauth import FAILED_FOR, RENEW_BEFORE, basic, read_token
from streams.tls import Context

if TYPE_CHECKING:
    import aiohttp

TOKEN_TIMEOUT = 10.0
"""Seconds that the token endpoint may take."""
MAX_ANSWER = 1 << 20
"""Bytes of its answer that are read."""
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
"""Statuses below 500 that say nothing about the next attempt."""
MAX_CODE = 200
"""Characters of a refusal's reason that are reported."""


class TokenError(KafkaError):
    """No token could be obtained; the message says why, without secrets. Later there may be one."""

    retriable = True

    def __str__(self) -> str:
        return str(self.args[0])


class TokenRefused(TokenError):
    """The token endpoint does not give us any, or we do not trust it: a retry does not help."""

    retriable = False


class Tokens:
    """The token of one set of settings, for every connection of this process."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._context: Context | None = None
        self._token = ""
        self._renew_at = self._ends_at = 0.0
        self._failure = 0.0, TokenError("")

    async def get(self) -> str:
        """Return a token that lives for a while yet, or at all if there is no other. Raises TokenError."""
        import aiohttp  # noqa: PLC0415  a third of what a command imports, and only this login needs it

        now = time.monotonic()
        if self._token and now < self._renew_at:
            return self._token
        if now >= self._failure[0]:  # frequent reconnects must not flood the token endpoint
            try:
                token, life = read_token(await self._fetch())
            except (aiohttp.ClientError, AnswerError, OSError, TimeoutError, TokenError, ValueError) as exc:
                self._failure = now + FAILED_FOR, self._failed(exc)
            else:
                self._token, self._renew_at = token, now + max(life - RENEW_BEFORE, life * 0.8)
                self._ends_at = now + life
                return token
        if time.monotonic() < self._ends_at:  # the fetch may have taken long
            return self._token
        raise self._failure[1] from None

    def _failed(self, exc: Exception) -> TokenError:
        final = isinstance(exc, TokenRefused | ValueError | ssl.SSLCertVerificationError) or isinstance(
            getattr(exc, "certificate_error", None), ssl.SSLCertVerificationError
        )
        reason = f"no token from {self._kafka.sasl_oauthbearer_token_endpoint_url}: {exc or type(exc).__name__}"
        return (TokenRefused if final else TokenError)(reason)

    async def _fetch(self) -> bytes:
        import aiohttp  # noqa: PLC0415  see `get`

        kafka = self._kafka
        form = {"grant_type": "client_credentials"}
        if kafka.sasl_oauthbearer_scope:
            form["scope"] = kafka.sasl_oauthbearer_scope
        if self._context is None:
            self._context = Context(kafka.ssl_cafile, system=True)
        # RFC 6749, section 2.3.1: id and secret are form-encoded before they become a Basic login.
        login = basic(
            *map(quote_plus, (kafka.sasl_oauthbearer_client_id or "", kafka.sasl_oauthbearer_client_secret or ""))
        )
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TOKEN_TIMEOUT)) as session,
            session.post(
                kafka.sasl_oauthbearer_token_endpoint_url or "", data=form, ssl=self._context,
                headers={"Accept": "application/json", "Authorization": login}, allow_redirects=False,
            ) as response,
        ):  # fmt: skip
            body = await _read(response.content)
            if not response.ok:
                passing = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status in _PASSING
                raise (TokenError if passing else TokenRefused)(_refusal(response.status, body))
            return body


class Provider(AbstractTokenProvider):
    """Hands the process's token to one of aiokafka's clients."""

    def __init__(self, kafka: Kafka) -> None:
        self._tokens = _tokens_of(kafka)

    async def token(self) -> str:
        """Return the token. Raises TokenError."""
        return await self._tokens.get()


@lru_cache(maxsize=8)
def _tokens_of(kafka: Kafka) -> Tokens:
    return Tokens(kafka)


async def _read(content: aiohttp.StreamReader) -> bytes:
    """Return the body as far as MAX_ANSWER: one read returns what happens to be there."""
    body = bytearray()
    async for chunk in content.iter_chunked(MAX_ANSWER):
        body += chunk
        if len(body) >= MAX_ANSWER:
            break
    return bytes(body[:MAX_ANSWER])


def _refusal(status: int, body: bytes) -> str:
    """Say what a token endpoint answered: its error code (RFC 6749, section 5.2), no other words of it."""
    try:
        code = str(strictjson.loads(body)["error"])
    except (ValueError, TypeError, KeyError):
        code = "no reason given"
    return f"it answered {status}: {code[:MAX_CODE] if code.isascii() and code.isprintable() else 'unreadable'}"


class _RefusalCheckingClient(conn.OAuthAuthenticator):
    """aiokafka takes whatever the broker answers to a token for a yes; a refusal is text (RFC 7628, section 3.2.3)."""

    async def step(self, payload: bytes | None) -> Any:
        """Return what to send next. Raises SaslAuthenticationFailed when the token was refused."""
        if payload:
            msg = f"the token is refused: {payload[:MAX_CODE].decode(errors='replace')}"
            raise SaslAuthenticationFailed(msg)
        return await super().step(payload)


conn.OAuthAuthenticator = _RefusalCheckingClient
