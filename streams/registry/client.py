"""What is fetched from the schema registry, by confluent-kafka's client, and what a failure means. Blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from models.errors import RegistryUnavailable, SettingsError, reason_of
from streams import DISTRIBUTION
from streams.config.settings import Settings
from streams.registry.framing import SchemaId
from streams.tls import Context

TIMEOUT = 5.0
"""Seconds for a connection to the registry, and for each part of its answer."""
MAX_REFERENCES = 500
"""Schemas that one schema may refer to, directly or not."""

_UNKNOWN: Final = frozenset({40401, 40402, 40403})
"""Error codes for an unknown subject, version and id."""
_MAYBE_UNKNOWN: Final = frozenset({400, 404, 422})
_REFUSED: Final = frozenset({401, 403})


class UnknownSchema(Exception):
    """The registry answers, and has no such schema; or what it has cannot be read. The message says what and why."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A schema: its number (None if unknown), its type (`AVRO`, `PROTOBUF`, `JSON`), its text, and the texts that it
    refers to by name, each after those that it refers to itself.
    """

    number: int | None
    kind: str
    text: str
    references: Mapping[str, str]


class RegistryClient:
    """Opens no connection before it is first used. Raises SettingsError where the extra is missing, or a file is of no
    use.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            import fastavro  # noqa: F401, PLC0415
            import google.protobuf  # noqa: F401, PLC0415
            from confluent_kafka.schema_registry import (  # noqa: PLC0415  the extra
                SchemaRegistryClient,
                SchemaRegistryError,
            )
            from confluent_kafka.schema_registry.common._httpx_compat import httpx  # noqa: PLC0415  the extra
        except ImportError as exc:
            msg = f"MILLRACE_REGISTRY_URL: needs the extra: pip install '{DISTRIBUTION}[registry]' ({exc})"
            raise SettingsError(msg) from None
        self._error = SchemaRegistryError
        self._session = httpx.Client(timeout=TIMEOUT, trust_env=False, **_access(settings))
        # The client keeps what it fetched by id alone; a Protobuf schema is another text if it is to be serialized.
        self._clients = {}
        for form in (None, "serialized"):
            client = SchemaRegistryClient(
                {"url": settings.registry_url, "max.retries": 0, "timeout": TIMEOUT, "ssl.ca.location": False}
            )
            client.close()
            # Its own would not follow replaced TLS files, and go by SSL_CERT_FILE; this one verifies by our settings.
            client._rest_client.session = self._session
            self._clients[form] = client

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def check(self) -> None:
        """Look whether the registry answers. Raises RegistryUnavailable."""
        with self._translated("the registry"):
            self._clients[None].get_schema_types()

    def fetch(self, number: SchemaId, form: str | None) -> Registered:
        """Return a schema by its id. Raises UnknownSchema, RegistryUnavailable."""
        client = self._clients[form]
        with self._translated(f"schema {number}"):
            if isinstance(number, UUID):
                schema = client.get_schema_by_guid(str(number), form)
            else:
                schema = client.get_schema(number, None, form)
            return self._registered(client, schema, None if isinstance(number, UUID) else number, form)

    def latest(self, subject: str, form: str | None) -> Registered:
        """Return a subject's latest schema. Raises UnknownSchema, RegistryUnavailable."""
        client = self._clients[form]
        with self._translated(f"subject {subject!r}"):
            found = client.get_version(subject, "latest", False, form)  # noqa: FBT003
            return self._registered(client, found.schema, found.schema_id, form)

    def _registered(self, client: Any, schema: Any, number: int | None, form: str | None) -> Registered:
        references: dict[str, str] = {}
        self._collect(client, schema, form, references, ())
        client.clear_caches()  # what is known is kept decoded, in a number that is bounded
        return Registered(number, schema.schema_type or "AVRO", schema.schema_str, references)

    def _collect(self, client: Any, schema: Any, form: str | None, into: dict[str, str], path: tuple[str, ...]) -> None:
        """Fetch what a schema refers to."""
        for each in schema.references or ():
            if each.name in into or each.name in path:
                continue
            if len(into) + len(path) >= MAX_REFERENCES:
                msg = f"it refers to more than {MAX_REFERENCES} schemas"
                raise UnknownSchema(msg)
            with self._translated(
                f"{each.name}, version {each.version} of subject {each.subject!r}, to which it refers,"
            ):
                found = client.get_version(each.subject, each.version, True, form).schema  # noqa: FBT003  deleted too
            self._collect(client, found, form, into, (*path, each.name))
            into[each.name] = found.schema_str

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (UnknownSchema, RegistryUnavailable):
            raise
        except self._error as exc:
            raise self._meaning(what, exc) from None
        except Exception as exc:  # noqa: BLE001  no answer, or one that the client cannot read
            msg = f"the schema registry does not answer: {reason_of(exc)}: check MILLRACE_REGISTRY_URL"
            raise RegistryUnavailable(msg) from None

    def _meaning(self, what: str, exc: Any) -> Exception:
        status, code = exc.http_status_code, exc.error_code
        if status in _MAYBE_UNKNOWN and what != "the registry":
            if code not in _UNKNOWN:
                self.check()  # else the URL may be wrong
            return UnknownSchema(f"{what} is not in the registry")
        advice = "the login or the token (MILLRACE_REGISTRY_*)" if status in _REFUSED else "MILLRACE_REGISTRY_URL"
        return RegistryUnavailable(f"the schema registry answers {status}: {exc.error_message}: check {advice}")


def _access(settings: Settings) -> dict[str, Any]:
    """Return what the HTTP client needs for TLS and login. Raises SettingsError."""
    options: dict[str, Any] = {}
    if settings.registry_url.startswith("https:") or ",https:" in settings.registry_url.replace(" ", ""):
        ca, cert, key = settings.registry_ca, settings.registry_cert, settings.registry_key
        try:
            options["verify"] = Context(ca or None, cert or None, key or None)
        except ValueError as exc:
            msg = f"MILLRACE_REGISTRY_CA, MILLRACE_REGISTRY_CERT, MILLRACE_REGISTRY_KEY: {exc}"
            raise SettingsError(msg) from None
    else:
        options["verify"] = False  # no TLS
    if settings.registry_token is not None:
        options["headers"] = {"Authorization": f"Bearer {settings.registry_token}"}
    elif settings.registry_username is not None:
        options["auth"] = (settings.registry_username, settings.registry_password or "")
    return options
