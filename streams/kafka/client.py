"""Connection settings for aiokafka, and Kafka's errors in our words."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import aiokafka.client
from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.protocol.metadata import MetadataRequest

from models.errors import AccessError, BrokerError, SettingsError, reason_of
from streams.config.settings import Kafka
from streams.kafka import fetched  # noqa: F401  no consumer is opened without it
from streams.kafka.oauthbearer import Provider, TokenError
from streams.tls import Context

METADATA_AGE = 10.0
"""Seconds after which brokers, partitions and leaders are asked for again: partitions added are seen within them."""
# A consumer that looks for a deleted topic would make it anew, with the default of partitions, where brokers do that:
# whoever makes it properly is then told that it exists.
aiokafka.client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)

CONNECT_HINT = "is it running, and is KAFKA_BOOTSTRAP_SERVERS right?"


def connection(kafka: Kafka) -> dict[str, Any]:
    """Return the arguments that every aiokafka client of this process is opened with."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in kafka.bootstrap_servers.split(",")],
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = kafka.sasl_mechanism
        if kafka.sasl_mechanism == "OAUTHBEARER":
            arguments["sasl_oauth_token_provider"] = Provider(kafka)
        else:
            arguments |= {"sasl_plain_username": kafka.sasl_username, "sasl_plain_password": kafka.sasl_password}
    if kafka.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = ssl_context(kafka)
    return arguments


def caution(kafka: Kafka) -> str | None:
    """Say what of the connection everybody on the way can read and should not; None if there is nothing."""
    if kafka.security_protocol == "SASL_PLAINTEXT" and not kafka.sasl_mechanism.startswith("SCRAM"):
        return (
            f"KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT sends the login of {kafka.sasl_mechanism} in the clear: "
            "use SASL_SSL, or SCRAM"
        )
    return None


@lru_cache(maxsize=8)
def ssl_context(kafka: Kafka) -> Context:
    """Return how this process's connections to the brokers are secured. Raises SettingsError."""
    try:
        return Context(kafka.ssl_cafile, kafka.ssl_certfile, kafka.ssl_keyfile, lambda: kafka.ssl_password or "")
    except ValueError as exc:
        msg = f"KAFKA_SSL_*: the certificates cannot be loaded: {exc}"
        raise SettingsError(msg) from exc


async def stop(consumer: AIOKafkaConsumer) -> None:
    """Close a consumer. aiokafka lets the cancellation of its own fetches out while the broker is away."""
    with contextlib.suppress(asyncio.CancelledError):
        await consumer.stop()


def places(kafka: Kafka) -> list[tuple[str, int]]:
    """Return host and port of each bootstrap server."""
    pairs = (server.strip().rpartition(":") for server in kafka.bootstrap_servers.split(","))
    return [(host.strip("[]"), int(port)) for host, _, port in pairs]


def explain(exc: Exception, kafka: Kafka, place: str | None = None) -> BrokerError:
    """Translate what aiokafka raised into one sentence that says what to do.

    An AccessError is one that trying again does not mend.
    """
    if isinstance(exc, BrokerError):
        return exc
    kind: type[BrokerError] = AccessError
    match exc:
        case ssl.SSLError():
            said = _of_tls(exc)
        case TokenError():
            said = f"wants a login, and there is none: {exc}; check KAFKA_SASL_OAUTHBEARER_*"
        case errors.SaslAuthenticationFailed() | errors.AuthenticationFailedError():
            said = f"refuses the login{_login(kafka)}: check KAFKA_SASL_* ({_message(exc)})"
        case errors.UnsupportedSaslMechanismError():
            said = f"does not take KAFKA_SASL_MECHANISM={kafka.sasl_mechanism}"
        case errors.IllegalSaslStateError():
            said = "takes no login there: check KAFKA_SECURITY_PROTOCOL and the port"
        case errors.BrokerResponseError() if type(exc) in _ACLS:
            what, operations = _ACLS[type(exc)]
            said = f"refuses access to {f'{what} {_message(exc)}'.strip()}: grant{_to(kafka)} {operations}"
        case _:
            kind, said = BrokerError, _of_network(exc, kafka)
    return kind(f"Kafka at {place or kafka.bootstrap_servers} {said}")


def _of_network(exc: Exception, kafka: Kafka) -> str:
    match exc:
        case socket.gaierror():
            return f"cannot be reached: its name does not resolve; {CONNECT_HINT}"
        case errors.KafkaConnectionError() if "closed" in str(exc):
            return f"closes the connection: {_WANTS[kafka.security_protocol]}"
        case ConnectionResetError() if kafka.security_protocol.endswith("SSL"):
            return f"closes the connection: {_WANTS[kafka.security_protocol]}"
        case errors.KafkaTimeoutError() | errors.RequestTimedOutError():
            return f"does not answer in time: {CONNECT_HINT}"
        case errors.KafkaConnectionError() | errors.NodeNotReadyError() | OSError() | TimeoutError():
            return f"cannot be reached: {CONNECT_HINT}"
    return f"fails: {reason_of(exc)}"


_ACLS: Mapping[type[Exception], tuple[str, str]] = {
    errors.TopicAuthorizationFailedError: ("topic", "Read on it, or Write if it is to be written"),
    errors.GroupAuthorizationFailedError: ("group", "Read on it"),
    errors.ClusterAuthorizationFailedError: ("cluster", "IdempotentWrite on it, or Write on a topic"),
    errors.TransactionalIdAuthorizationFailed: ("transactional id", "Write and Describe on it"),
}
"""What is granted on what where an access is refused; docs/security.md lists all that is needed."""

_WANTS: Mapping[str, str] = {
    "PLAINTEXT": "it may want TLS or a login there; check KAFKA_SECURITY_PROTOCOL and the port",
    "SSL": "it may want a client's certificate (KAFKA_SSL_CERTFILE), a login, or no TLS (KAFKA_SECURITY_PROTOCOL)",
    "SASL_PLAINTEXT": "it may want TLS there, or no login; check KAFKA_SECURITY_PROTOCOL and the port",
    "SASL_SSL": "it may want a client's certificate (KAFKA_SSL_CERTFILE), or no TLS (KAFKA_SECURITY_PROTOCOL)",
}
"""What a broker that hangs up may want, by the protocol that was spoken to it."""


def _of_tls(exc: ssl.SSLError) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {exc.verify_message.rstrip('.')}; check KAFKA_SSL_CAFILE"
    reason = (getattr(exc, "reason", None) or str(exc)).replace("_", " ").lower()
    if "alert" in reason:
        return (
            f"refuses our certificate or has none to go by ({reason}): check KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
        )
    return f"does not speak TLS there ({reason}): check KAFKA_SECURITY_PROTOCOL and the port"


def _message(exc: Exception) -> str:
    """Return what an error names, without its number and name."""
    named = exc.args[0] if exc.args else ""
    return ", ".join(sorted(map(repr, named))) if isinstance(named, set | frozenset | list | tuple) else str(named)


def _login(kafka: Kafka) -> str:
    if not kafka.security_protocol.startswith("SASL"):
        return ""
    who = kafka.sasl_oauthbearer_client_id if kafka.sasl_mechanism == "OAUTHBEARER" else kafka.sasl_username
    return f" of {who!r} by {kafka.sasl_mechanism}"


def _to(kafka: Kafka) -> str:
    named = kafka.security_protocol.startswith("SASL") and kafka.sasl_mechanism != "OAUTHBEARER"
    return f" User:{kafka.sasl_username}" if named else ""


def require_fetching(consumer: AIOKafkaConsumer) -> None:
    """Raise KafkaError if aiokafka's fetching task has failed: it says so to nobody, and polls bring nothing more."""
    fetching = consumer._fetcher._fetch_task
    if fetching.done() and not fetching.cancelled() and (fault := fetching.exception()) is not None:
        msg = f"fetching has failed: {fault.__cause__ or fault!r}"
        raise errors.KafkaError(msg) from fault


__all__ = ["TopicPartition", "caution", "connection", "explain", "places", "require_fetching", "stop"]
