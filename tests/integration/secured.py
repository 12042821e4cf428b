"""An Apache Kafka that lets nobody in without a login or a certificate, and an endpoint that hands out tokens."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import trustme
from aiohttp import BasicAuth, web
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives import serialization

from agents.testing.broker import Apache

MODULES = "org.apache.kafka.common.security."
PASSWORD = "s3cret"
KEY_PASSWORD = "k3y"
SESSION_MS = 4_000
"""How long a login by token lasts: the broker ends the connection after it (KIP-368)."""
READ, WRITE = AclOperation.READ, AclOperation.WRITE
DESCRIBE = AclOperation.DESCRIBE


@dataclass
class Secured:
    """A broker with a listener of each kind; on the plain one everybody may do everything."""

    apache: Apache
    folder: Path

    def way(self, name: str, user: str = "worker") -> dict[str, str]:
        """Return the settings by which `user` gets in by one of the ways."""
        ca = {"KAFKA_SSL_CAFILE": str(self.folder / "ca.pem")}
        if name == "MTLS":
            return ca | {
                "KAFKA_BOOTSTRAP_SERVERS": self.apache.listening["MTLS"], "KAFKA_SECURITY_PROTOCOL": "SSL",
                "KAFKA_SSL_CERTFILE": str(self.folder / "worker.pem"),
                "KAFKA_SSL_KEYFILE": str(self.folder / "worker.key"), "KAFKA_SSL_PASSWORD": KEY_PASSWORD,
            }  # fmt: skip
        listener, _, mechanism = name.partition(" ")
        return ca | {
            "KAFKA_BOOTSTRAP_SERVERS": self.apache.listening[listener],
            "KAFKA_SECURITY_PROTOCOL": {"SASL": "SASL_PLAINTEXT", "SASLTLS": "SASL_SSL"}[listener],
            "KAFKA_SASL_MECHANISM": mechanism, "KAFKA_SASL_USERNAME": user, "KAFKA_SASL_PASSWORD": PASSWORD,
        }  # fmt: skip

    def grant(self, user: str, *acls: tuple[ResourceType, str, AclOperation]) -> None:
        """Give a user what is named."""
        admin = AdminClient({"bootstrap.servers": self.apache.servers})
        _done(admin.create_acls([
            AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
            for kind, name, operation in acls
        ]))  # fmt: skip

    def revoke(self, user: str, kind: ResourceType, name: str) -> None:
        """Take from a user all that concerns one topic or group."""
        admin = AdminClient({"bootstrap.servers": self.apache.servers})
        _done(admin.delete_acls([
            AclBindingFilter(kind, name, ResourcePatternType.LITERAL, f"User:{user}", None, AclOperation.ANY,
                             AclPermissionType.ANY)
        ]))  # fmt: skip


def _done(futures: dict[object, object]) -> None:
    for future in futures.values():
        future.result(30)  # type: ignore[attr-defined]


def everything(group: str, requests: str, *others: str) -> list[tuple[ResourceType, str, AclOperation]]:
    """Return what a worker needs."""
    return [(ResourceType.TOPIC, requests, READ), (ResourceType.GROUP, group, READ),
            *((ResourceType.TOPIC, name, WRITE) for name in others)]  # fmt: skip


def secured(folder: Path, users: Iterable[str]) -> Apache:
    """Return such a broker, not yet started."""
    issue(folder)
    trustme.CA().cert_pem.write_to_path(str(folder / "other-ca.pem"))
    stores = {"keystore": "server.pem", "truststore": "ca.pem"}
    settings = {f"ssl.{store}.type": "PEM" for store in stores}
    settings |= {f"ssl.{store}.location": str(folder / name) for store, name in stores.items()}
    settings |= {
        "listener.name.mtls.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^.*CN=([a-zA-Z0-9-]+).*$/$1/,DEFAULT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
    }
    known = " ".join(f'user_{user}="{PASSWORD}"' for user in users)
    for listener in ("sasl", "sasltls"):
        logins = {
            "plain": f"plain.PlainLoginModule required {known};",
            "scram-sha-256": "scram.ScramLoginModule required;",
            "scram-sha-512": "scram.ScramLoginModule required;",
            "oauthbearer": 'oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
        }
        settings |= {
            f"listener.name.{listener}.{name}.sasl.jaas.config": MODULES + each for name, each in logins.items()
        }
        settings[f"listener.name.{listener}.oauthbearer.connections.max.reauth.ms"] = str(SESSION_MS)
    listeners = {"SASL": "SASL_PLAINTEXT", "SASLTLS": "SASL_SSL", "TLS": "SSL", "MTLS": "SSL"}
    return Apache(listeners, dict.fromkeys(users, PASSWORD), **settings)


def issue(folder: Path) -> None:
    """Write the files of a new authority, and of what it issued for broker and worker, in place of those there are."""
    ca = trustme.CA()
    server = ca.issue_cert("127.0.0.1", "localhost", common_name="broker")
    worker = ca.issue_cert("worker@example.com", common_name="worker")
    files = {"ca.pem": ca.cert_pem.bytes(), "server.pem": _key(server, None) + _chain(server),
             "worker.pem": _chain(worker), "worker.key": _key(worker, KEY_PASSWORD)}  # fmt: skip
    for name, content in files.items():
        (folder / f"{name}.new").write_bytes(content)
        (folder / f"{name}.new").replace(folder / name)


def _key(certificate: trustme.LeafCert, password: str | None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(part.bytes() for part in certificate.cert_chain_pems)


class TokenEndpoint:
    """Hands out unsecured tokens (RFC 7519, section 6), which Kafka takes unless told to verify them, for client
    credentials: `worker` with the password; `garbage` gets no token that a broker takes.
    """

    def __init__(self, life: int = 300) -> None:
        self.life = life
        self.asked: Counter[str] = Counter()

    async def __aenter__(self) -> TokenEndpoint:
        app = web.Application()
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/token"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _token(self, request: web.Request) -> web.Response:
        login = BasicAuth.decode(request.headers["Authorization"])
        form = await request.post()
        self.asked[login.login] += 1
        if login.password != PASSWORD or form["grant_type"] != "client_credentials":
            return web.json_response({"error": "invalid_client"}, status=401)
        now = int(time.time())
        claims = {"sub": login.login, "iat": now, "exp": now + self.life, "scope": form.get("scope", "")}
        token = "x.y." if login.login == "garbage" else f"{_part({'alg': 'none'})}.{_part(claims)}."
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": self.life})

    def way(
        self, secured: Secured, listener: str = "SASL", client: str = "worker", secret: str = PASSWORD
    ) -> dict[str, str]:
        """Return the settings by which a client gets in with a token."""
        settings = secured.way(f"{listener} OAUTHBEARER")
        del settings["KAFKA_SASL_USERNAME"], settings["KAFKA_SASL_PASSWORD"]
        return settings | {
            "KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL": self.url, "KAFKA_SASL_OAUTHBEARER_CLIENT_ID": client,
            "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET": secret, "KAFKA_SASL_OAUTHBEARER_SCOPE": "kafka",
        }  # fmt: skip


def _part(claims: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
