from __future__ import annotations

import ssl

import pytest
from aiokafka import errors

from models.errors import BrokerError, SettingsError
from streams.kafka.client import connection, explain
from streams.settings import Kafka

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


@pytest.mark.parametrize(
    ("exc", "sentence"),
    [
        (errors.KafkaConnectionError("x"), "cannot be reached: is it running, and is KAFKA_BOOTSTRAP_SERVERS right?"),
        (errors.NodeNotReadyError("x"), "cannot be reached: is it running, and is KAFKA_BOOTSTRAP_SERVERS right?"),
        (ConnectionRefusedError(), "cannot be reached: is it running, and is KAFKA_BOOTSTRAP_SERVERS right?"),
        (TimeoutError(), "cannot be reached: is it running, and is KAFKA_BOOTSTRAP_SERVERS right?"),
        (errors.SaslAuthenticationFailed("bad"), "refuses the login: check KAFKA_SASL_*"),
        (errors.AuthenticationFailedError("bad"), "refuses the login: check KAFKA_SASL_*"),
        (errors.TopicAuthorizationFailedError("t"), "refuses access: "),
        (errors.GroupAuthorizationFailedError("g"), "refuses access: "),
    ],
)
def test_each_error_of_connecting_says_what_to_do(exc, sentence):
    """Whoever cannot connect is told where to and what to look at."""
    said = explain(exc, HERE)
    assert type(said) is BrokerError
    assert str(said).startswith(f"Kafka at a:1,b:2 {sentence}")


def test_a_missing_acl_is_named_with_what_it_is_for():
    """The topic or group that may not be used is in the message, with what to grant."""
    said = str(explain(errors.TopicAuthorizationFailedError("requests"), HERE))
    assert "requests" in said
    assert said.endswith("; grant the missing ACL")


def test_any_other_error_of_kafka_is_passed_on_by_name():
    """What has no sentence of its own keeps its name and text."""
    said = explain(errors.UnsupportedVersionError("too old"), HERE)
    assert str(said).startswith("Kafka at a:1,b:2: UnsupportedVersionError: ")
    assert "too old" in str(said)
