"""Kafka's errors, as one sentence that says what to do."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping

from aiokafka import errors

from models.errors import AccessError, BrokerError, reason_of
from streams.config.settings import Kafka
from streams.kafka.oauthbearer import TokenError, TokenRefused

CONNECT_HINT = "is it running, and is KAFKA_BOOTSTRAP_SERVERS right?"


def explain(exc: Exception, kafka: Kafka, place: str | None = None) -> BrokerError:
    """Translate an error of aiokafka. An AccessError is one that a retry does not mend."""
    if isinstance(exc, BrokerError):
        return exc
    kind: type[BrokerError] = AccessError
    match exc:
        case ssl.SSLError():
            problem = _of_tls(exc)
        case TokenError():
            kind = AccessError if isinstance(exc, TokenRefused) else BrokerError
            problem = f"requires authentication: {exc}; check KAFKA_SASL_OAUTHBEARER_*"
        case errors.SaslAuthenticationFailed() | errors.AuthenticationFailedError():
            problem = f"refuses the login{_login(kafka)}: check KAFKA_SASL_* ({_message(exc)})"
        case errors.UnsupportedSaslMechanismError():
            problem = f"does not take KAFKA_SASL_MECHANISM={kafka.sasl_mechanism}"
        case errors.IllegalSaslStateError():
            problem = "expects no login there: check KAFKA_SECURITY_PROTOCOL and the port"
        case errors.BrokerResponseError() if type(exc) in _ACLS:
            what, operations = _ACLS[type(exc)]
            problem = f"refuses access to {f'{what} {_message(exc)}'.strip()}: grant{_to(kafka)} {operations}"
        case _:
            kind, problem = BrokerError, _of_network(exc, kafka)
    return kind(f"Kafka at {place or kafka.bootstrap_servers} {problem}")


def may_pass(exc: Exception) -> bool:
    """Whether the same call may succeed later. A time-out at the end of its retries is final for aiokafka."""
    return isinstance(exc, errors.KafkaTimeoutError) or bool(getattr(exc, "retriable", True))


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
    "PLAINTEXT": "it may require TLS or a login there; check KAFKA_SECURITY_PROTOCOL and the port",
    "SSL": "it may require a client certificate (KAFKA_SSL_CERTFILE), a login, or no TLS (KAFKA_SECURITY_PROTOCOL)",
    "SASL_PLAINTEXT": "it may require TLS there, or no login; check KAFKA_SECURITY_PROTOCOL and the port",
    "SASL_SSL": "it may require a client certificate (KAFKA_SSL_CERTFILE), or no TLS (KAFKA_SECURITY_PROTOCOL)",
}
"""What a broker that hangs up may want, by the protocol that was spoken to it."""


def _of_tls(exc: ssl.SSLError) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {exc.verify_message.rstrip('.')}; check KAFKA_SSL_CAFILE"
    reason = (getattr(exc, "reason", None) or str(exc)).replace("_", " ").lower()
    if "alert" in reason:
        return f"rejects our certificate, or requires one ({reason}): check KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
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
