from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace

import pytest
import trustme
from aiohttp import web
from aiokafka import conn
from aiokafka.errors import SaslAuthenticationFailed

from models.errors import BrokerError
from streams.config.settings import Kafka
from streams.kafka.errors import explain, may_pass
from streams.kafka.oauthbearer import Provider, TokenError, TokenRefused, Tokens


class Endpoint:
    """A token endpoint on loopback that answers what a test wants."""

    def __init__(self, tls=None, ca=None):
        self._tls, self._ca = tls, ca
        self.answer, self.status, self.asked = {"access_token": "t1", "expires_in": 100}, 200, []
        self.halting = False

    async def __aenter__(self):
        app = web.Application()
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.kafka = Kafka(
            ssl_cafile=self._ca,
            sasl_oauthbearer_token_endpoint_url=f"{'https' if self._tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}/token",
            sasl_oauthbearer_client_id="a:b", sasl_oauthbearer_client_secret="hunter2", sasl_oauthbearer_scope="kafka",
        )  # fmt: skip
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _token(self, request):
        self.asked.append((request.headers["Authorization"], dict(await request.post())))
        answer = web.json_response(self.answer, status=self.status)
        if not self.halting:
            return answer
        parts = web.StreamResponse(headers={"Content-Type": "application/json"})
        await parts.prepare(request)
        for part in (answer.body[:9], answer.body[9:]):
            await parts.write(part)
            await asyncio.sleep(0.05)
        return parts


@pytest.fixture
async def endpoint():
    async with Endpoint() as opened:
        yield opened


async def test_a_token_is_asked_for_once_and_renewed_before_it_ends(endpoint, monkeypatch):
    """One token serves every connection until shortly before its end; id and secret are form-encoded in the login."""
    now = 1000.0
    monkeypatch.setattr("streams.kafka.oauthbearer.time.monotonic", lambda: now)
    tokens = Tokens(endpoint.kafka)
    assert [await tokens.get() for _ in range(3)] == ["t1"] * 3
    assert endpoint.asked == [("Basic YSUzQWI6aHVudGVyMg==", {"grant_type": "client_credentials", "scope": "kafka"})]
    now += 75
    assert await tokens.get() == "t1"
    endpoint.answer = {"access_token": "t2", "expires_in": 100}
    now += 10
    assert await tokens.get() == "t2"


@pytest.mark.slow
async def test_authorities_of_the_token_endpoint_may_be_replaced(tmp_path):
    """What is on the disk when a token is asked for is what the endpoint is judged by; a bad file is told as such."""
    path = tmp_path / "ca.pem"

    async def asked(endpoint_of, trusted):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        endpoint_of.issue_cert("127.0.0.1").configure_cert(context)
        async with Endpoint(context, str(path)) as endpoint:
            tokens._kafka = endpoint.kafka
            tokens._renew_at = tokens._ends_at = 0.0
            tokens._failure = 0.0, TokenError("")
            path.write_bytes(trusted)
            return await tokens.get()

    old, new = trustme.CA(), trustme.CA()
    tokens = Tokens(Kafka())
    with pytest.raises(TokenError, match=r"no token from .*: .*ca\.pem: "):
        await asked(old, b"garbage")
    assert await asked(old, old.cert_pem.bytes()) == "t1"
    assert await asked(new, new.cert_pem.bytes()) == "t1"
    with pytest.raises(TokenError, match="CERTIFICATE_VERIFY_FAILED"):
        await asked(old, new.cert_pem.bytes())


async def test_an_answer_may_come_in_parts(endpoint):
    """What comes later belongs to the answer as well."""
    endpoint.halting = True
    assert await Tokens(endpoint.kafka).get() == "t1"


async def test_all_connections_of_a_process_share_it(endpoint):
    """Every client has a provider of its own; the token behind them is one."""
    assert [await Provider(endpoint.kafka).token() for _ in range(3)] == ["t1"] * 3
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (401, {"error": "invalid_client", "error_description": "hunter2"}, "it answered 401: invalid_client"),
        (500, [], "it answered 500: no reason given"),
        (400, {"error": "a\nb"}, "it answered 400: unreadable"),
        (200, {"token": "t"}, "the token endpoint's answer is not a bearer token"),
    ],
)
async def test_why_there_is_no_token_is_told_and_remembered(endpoint, status, answer, reason):
    """The error code is told, other words and our secret are not; who tries again at once does not ask again."""
    endpoint.status, endpoint.answer = status, answer
    tokens = Tokens(endpoint.kafka)
    for _ in range(3):
        with pytest.raises(TokenError) as caught:
            await tokens.get()
        assert str(caught.value) == f"no token from {endpoint.kafka.sasl_oauthbearer_token_endpoint_url}: {reason}"
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, TokenRefused), (401, TokenRefused), (429, TokenError), (500, TokenError), (503, TokenError)],
)
async def test_an_endpoint_that_is_busy_or_away_is_waited_for(endpoint, status, kind):
    """A refusal is final, as that of a login is; a server that restarts is not, nor is one that does not answer."""
    endpoint.status, endpoint.answer = status, {}
    with pytest.raises(TokenError) as caught:
        await Tokens(endpoint.kafka).get()
    assert type(caught.value) is kind
    assert may_pass(caught.value) is (kind is TokenError)
    away = replace(endpoint.kafka, sasl_oauthbearer_token_endpoint_url="http://127.0.0.1:1/token")
    with pytest.raises(TokenError) as caught:
        await Tokens(away).get()
    assert type(explain(caught.value, away)) is BrokerError


async def test_a_token_is_good_to_its_end_while_there_is_no_other(endpoint, monkeypatch):
    """A renewal that fails costs no connection before the old token has ended."""
    now = 1000.0
    monkeypatch.setattr("streams.kafka.oauthbearer.time.monotonic", lambda: now)
    tokens = Tokens(endpoint.kafka)
    assert await tokens.get() == "t1"
    endpoint.status = 503
    for then in (1085.0, 1086.0, 1099.0):
        now = then
        assert await tokens.get() == "t1"
    assert len(endpoint.asked) == 3, "not within seconds of the failure"
    now = 1100.0
    with pytest.raises(TokenError, match="it answered 503"):
        await tokens.get()


async def test_a_refused_token_is_heeded(endpoint):
    """Aiokafka itself takes the broker's refusal, which is text, for success."""
    authenticator = conn.OAuthAuthenticator(sasl_oauth_token_provider=Provider(endpoint.kafka))
    sent, expects = await authenticator.step(None)
    assert (sent, expects) == (b"n,,\x01auth=Bearer t1\x01\x01", True)
    with pytest.raises(SaslAuthenticationFailed, match="invalid_token"):
        await authenticator.step(b'{"status":"invalid_token"}')
    assert await authenticator.step(b"") is None
