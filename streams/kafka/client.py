"""Connection settings for aiokafka, and Kafka's errors in our words."""

from __future__ import annotations

import ssl
from typing import Any, cast

from aiokafka import TopicPartition, errors
from aiokafka.helpers import create_ssl_context

from models.errors import BrokerError, SettingsError
from streams.settings import Kafka

CONNECT_HINT = "is it running, and is KAFKA_BOOTSTRAP_SERVERS right?"


def connection(kafka: Kafka) -> dict[str, Any]:
    """Return the arguments that every aiokafka client of this process is opened with."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in kafka.bootstrap_servers.split(",")],
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.startswith("SASL"):
        arguments |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.sasl_password,
        }
    if kafka.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(kafka)
    return arguments


def _ssl_context(kafka: Kafka) -> ssl.SSLContext:
    try:
        return cast(
            "ssl.SSLContext",
            create_ssl_context(
                cafile=kafka.ssl_cafile,
                certfile=kafka.ssl_certfile,
                keyfile=kafka.ssl_keyfile,
                password=kafka.ssl_password,
            ),
        )
    except (OSError, ValueError) as exc:
        msg = f"KAFKA_SSL_*: the certificates cannot be loaded: {exc}"
        raise SettingsError(msg) from exc


def explain(exc: Exception, kafka: Kafka) -> BrokerError:
    """Translate what aiokafka raised while connecting into one sentence that says what to do."""
    where = f"Kafka at {kafka.bootstrap_servers}"
    match exc:
        case errors.TopicAuthorizationFailedError() | errors.GroupAuthorizationFailedError():
            return BrokerError(f"{where} refuses access: {exc}; grant the missing ACL")
        case errors.SaslAuthenticationFailed() | errors.AuthenticationFailedError():
            return BrokerError(f"{where} refuses the login: check KAFKA_SASL_* ({exc})")
        case errors.KafkaConnectionError() | errors.NodeNotReadyError() | OSError() | TimeoutError():
            return BrokerError(f"{where} cannot be reached: {CONNECT_HINT}")
    return BrokerError(f"{where}: {type(exc).__name__}: {exc}")


__all__ = ["TopicPartition", "connection", "explain"]
