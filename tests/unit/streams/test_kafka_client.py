from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
from aiokafka import errors

from models.errors import AccessError, BrokerError, SettingsError
from streams.config.settings import Kafka
from streams.kafka.client import caution, close, connection, places
from streams.kafka.errors import explain
from streams.kafka.oauthbearer import TokenRefused

LOGIN = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "user", "sasl_password": "hunter2"}


def test_a_plain_connection_has_servers_and_protocol_alone():
    """Without login and TLS nothing of either is passed on, and servers are a list without the spaces around them."""
    assert connection(Kafka("a:1, b:2,[::1]:3", **LOGIN)) == {
        "bootstrap_servers": ["a:1", "b:2", "[::1]:3"],
        "security_protocol": "PLAINTEXT",
    }


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_login_is_passed_on_where_the_protocol_has_one(protocol):
    """Mechanism, user and password reach aiokafka under its names."""
    arguments = connection(Kafka("a:1", protocol, **LOGIN))
    assert arguments["security_protocol"] == protocol
    assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (arguments["sasl_plain_username"], arguments["sasl_plain_password"]) == ("user", "hunter2")
    assert ("ssl_context" in arguments) is (protocol == "SASL_SSL")


@pytest.mark.parametrize(
    ("protocol", "mechanism", "readable"),
    [("SASL_PLAINTEXT", "PLAIN", True), ("SASL_PLAINTEXT", "OAUTHBEARER", True),
     ("SASL_PLAINTEXT", "SCRAM-SHA-256", False), ("SASL_SSL", "PLAIN", False), ("PLAINTEXT", "PLAIN", False)],
)  # fmt: skip
def test_a_login_that_others_can_read_is_cautioned_of(protocol, mechanism, readable):
    """A password or token without TLS; SCRAM sends neither."""
    said = caution(Kafka("a:1", protocol, mechanism, sasl_username="user", sasl_password="hunter2"))
    assert (said is not None) is readable
    assert said is None or ("KAFKA_SECURITY_PROTOCOL" in said and "hunter2" not in said)


def test_tls_checks_certificate_and_host():
    """TLS without files trusts the system's authorities, and never less than a checked certificate and name."""
    arguments = connection(Kafka("a:1", "SSL", **LOGIN))
    context = arguments["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert [name for name in arguments if name.startswith("sasl")] == []


@pytest.mark.parametrize("name", ["ssl_cafile", "ssl_certfile"])
@pytest.mark.parametrize("what", ["gone", "garbage", "a directory"])
def test_certificates_that_cannot_be_loaded_are_a_settings_error(tmp_path, name, what):
    """A file that is missing, garbage or none is told under the settings' names, and shows no password."""
    path = tmp_path / "file"
    if what == "garbage":
        path.write_text("garbage")
    elif what == "a directory":
        path.mkdir()
    with pytest.raises(SettingsError, match=r"^KAFKA_SSL_\*: the certificates cannot be loaded: ") as caught:
        connection(Kafka("a:1", "SSL", ssl_password="hunter2", **{name: str(path)}))
    assert "hunter2" not in str(caught.value)


HERE = Kafka("a:1,b:2")
AWAY = "cannot be reached: is it running, and is KAFKA_BOOTSTRAP_SERVERS right?"


@pytest.mark.parametrize(
    ("exc", "sentence"),
    [
        (errors.KafkaConnectionError("x"), AWAY),
        (errors.NodeNotReadyError("x"), AWAY),
        (ConnectionRefusedError(), AWAY),
        (ConnectionResetError(), AWAY),
        (TimeoutError(), AWAY),
        (socket.gaierror("x"), "cannot be reached: its name does not resolve; is it running"),
        (errors.KafkaTimeoutError("x"), "does not answer in time: is it running"),
        (errors.KafkaConnectionError("Connection at a:1 closed"), "closes the connection: it may require TLS"),
        (errors.UnsupportedVersionError("too old"), "fails: [Error 35] UnsupportedVersionError: too old"),
    ],
)
def test_what_may_mend_itself_says_what_to_look_at(exc, sentence):
    """Whoever cannot connect is told where to and what to look at; trying again may help."""
    said = explain(exc, HERE)
    assert type(said) is BrokerError
    assert str(said).startswith(f"Kafka at a:1,b:2 {sentence}")


SASL = Kafka("a:1", "SASL_SSL", sasl_username="bob", sasl_password="hunter2")
OAUTH = Kafka("a:1", "SASL_SSL", "OAUTHBEARER", sasl_oauthbearer_client_id="app")


@pytest.mark.parametrize(
    ("exc", "kafka", "sentence"),
    [
        (errors.SaslAuthenticationFailed("bad"), SASL, "refuses the login of 'bob' by PLAIN: check KAFKA_SASL_* (bad)"),
        (errors.AuthenticationFailedError("bad"), OAUTH, "refuses the login of 'app' by OAUTHBEARER: check "),
        (errors.UnsupportedSaslMechanismError(), SASL, "does not take KAFKA_SASL_MECHANISM=PLAIN"),
        (errors.IllegalSaslStateError(), SASL, "expects no login there: check KAFKA_SECURITY_PROTOCOL and the port"),
        (TokenRefused("no token from u: it answered 401: invalid_client"), OAUTH,
         "requires authentication: no token from u: it answered 401: invalid_client; check KAFKA_SASL_OAUTH"),
        (errors.TopicAuthorizationFailedError("t"), SASL, "refuses access to topic t: grant User:bob Read on it"),
        (errors.TopicAuthorizationFailedError({"t"}), OAUTH, "refuses access to topic 't': grant Read on it, or Write"),
        (errors.GroupAuthorizationFailedError("g"), SASL, "refuses access to group g: grant User:bob Read on it"),
        (errors.ClusterAuthorizationFailedError(), SASL, "refuses access to cluster: grant User:bob Idem"),
        (errors.TransactionalIdAuthorizationFailed("x"), SASL, "refuses access to transactional id x: grant User:bob "),
        (ssl.SSLError(1, "wrong version number"), SASL, "does not speak TLS there"),
    ],
)  # fmt: skip
def test_what_does_not_mend_itself_is_an_access_error(exc, kafka, sentence):
    """A refused login, certificate or access says whose, which and what to do, and is known as final."""
    said = explain(exc, kafka)
    assert type(said) is AccessError
    assert str(said).startswith(f"Kafka at a:1 {sentence}")
    assert "hunter2" not in str(said)


def test_an_explained_error_stays_what_it_is():
    """What was explained where it happened is not explained again."""
    error = AccessError("x")
    assert explain(error, HERE) is error


def test_places_are_hosts_and_ports():
    """The bootstrap servers, one by one, IPv6 without its brackets."""
    assert places(Kafka("a:1, [::1]:2")) == [("a", 1), ("::1", 2)]


class _Stuck:
    """A client of aiokafka, whose closing waits for its connections' ends, each time for the same futures."""

    def __init__(self) -> None:
        self.ends = [asyncio.get_running_loop().create_future()]
        self._client = self
        self._sync_task = self._md_update_fut = None
        self.closed = 0

    async def stop(self) -> None:
        await self.close()

    async def close(self) -> None:
        self.closed += 1
        await asyncio.gather(*self.ends)


async def test_a_client_that_does_not_close_in_time_costs_no_task():
    """What waited for its connections is given up, which cancels their futures; closing again meets those."""
    client = _Stuck()
    await close(client, 0.01)
    assert client.closed == 2


async def test_closing_a_client_can_be_cancelled():
    """Whoever cancels the task that closes gets that, however the client ends."""
    client = _Stuck()
    closing = asyncio.create_task(close(client, 10))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
