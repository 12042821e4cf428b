"""Every setting: its name, default, unit and meaning. Read once from the environment into frozen dataclasses;
all problems are reported together, by name. A secret may also come from a file named by `<NAME>_FILE`.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from environs import Env, EnvValidationError, FileAwareEnv
from marshmallow import validate

from models.errors import SettingsError
from models.source import MAX_REDIRECTS, NEGATIVE_TTL
from streams.config import validators as values
from streams.config.cache_url import MIB, parse_tiers
from streams.config.networks import parse_nat64, parse_networks, parse_ports

EVERYWHERE = "*"
"""All of a machine's addresses, of IPv4 and IPv6."""
ANYWHERE = frozenset({"0.0.0.0", "::", EVERYWHERE})  # noqa: S104  what is recognised, not bound
"""Addresses that, bound, are all of a machine's, and the name of none."""
DEFAULT_MAX_IN_FLIGHT = 256
"""Fetches that one worker has under way at once."""
DEFAULT_MAX_WAITING_PER_HOST = 1_000
"""Requests that wait for one host: as many as one that takes a second answers before the usual deadline, 32 at once."""
DEFAULT_TIMEOUT = 30.0
"""Seconds for a request that names no `timeout`: everything from taking it to its answer."""
DEFAULT_MAX_BYTES = 8 * MIB
"""Bytes of a decoded body that are read before the request ends `too_large`."""
DEFAULT_MAX_REDIRECTS = 5
"""Redirects that are followed for one request."""
MAX_NEGATIVE_TTL = 86_400.0
"""Seconds that a failure may be remembered at most."""
DEFAULT_CACHE = "memory://?entries=10000&bytes=64MiB"
MAX_PENDING = 40_000
"""Records that may be taken and not finished before no more are taken: of one partition, as many as are left for
others."""
DEFAULT_MAX_PENDING_BYTES = 128 * MIB
"""Bytes of those records, counted from LARGE on. With what parsing adds to bodies that are being sent, and the default
cache, a worker stays under the 1.5 GiB of deploy/kubernetes."""
LARGE = 1_024
"""Bytes of a record, headers included, from which on they are counted."""
MAX_UNREMEMBERED = 10_000
"""Finished records of one partition that its commit has no room to remember before no more are taken: so many are
repeated after a crash."""
COMMIT_EVERY = 1.0
"""Seconds between commits."""
SESSION_TIMEOUT = 10.0
"""Seconds without a heartbeat after which the group gives a member's partitions to others."""
REBALANCE_TIMEOUT = 60.0
"""Seconds that the group waits for a member to give up its partitions."""
DRAIN_DEADLINE = 10.0
"""Seconds that work under way may take to finish once its partition is being given up."""
SHUTDOWN_DEADLINE = 25.0
"""Seconds after SIGTERM at which the process exits whatever is still open."""
CHECK_TIMEOUT = 5.0
"""Seconds that one check may run."""
ROLES = ("all", "answer", "tables")
"""What a worker does: answer requests, keep the tables of results, or both."""
DEFAULT_ANSWERS_AGE = 7 * 86_400.0
"""Seconds after which an answer leaves its table."""
DEFAULT_ANSWERS_ROWS = 100_000
"""Answers that the table keeps of one results partition."""

MASK = "********"
_LOGIN = re.compile(r"\A(https?://)[^/?#]*@")  # up to the last @: a password may hold others


@dataclass(frozen=True, slots=True)
class Kafka:
    """Where the broker is and how to log in to it."""

    bootstrap_servers: str = "localhost:9092"
    """Brokers to begin with, `host:port`, with commas between them."""
    security_protocol: str = "PLAINTEXT"
    """`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`: with TLS or without, with a login or without."""
    sasl_mechanism: str = "PLAIN"
    """How to log in: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`."""
    sasl_username: str | None = None
    """User to log in as, for `PLAIN` and `SCRAM-*`."""
    sasl_password: str | None = None
    """Password of that user."""
    sasl_oauthbearer_token_endpoint_url: str | None = None
    """Where the token for `OAUTHBEARER` is asked for, by client credentials (RFC 6749, section 4.4)."""
    sasl_oauthbearer_client_id: str | None = None
    """Client that asks for the token."""
    sasl_oauthbearer_client_secret: str | None = None
    """Secret of that client."""
    sasl_oauthbearer_scope: str | None = None
    """Scope that the token is asked for with; none unless set."""
    ssl_cafile: str | None = None
    """File of the authorities (PEM) by which brokers and token endpoint are judged; else the system's."""
    ssl_certfile: str | None = None
    """File of the certificate (PEM) that is shown to the brokers, for mutual TLS."""
    ssl_keyfile: str | None = None
    """File of that certificate's key (PEM)."""
    ssl_password: str | None = None
    """Password of that key."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings of one process. Seconds and bytes throughout."""

    kafka: Kafka = Kafka()
    group: str = "millrace"
    """Consumer group of the workers that answer; the tables' is this with `-tables`. A new one begins at the earliest
    record."""
    requests_topic: str = "requests"
    """Topic that requests come on."""
    results_topic: str = "results"
    """Topic that results go to."""
    dead_letters_topic: str = "dead-letters"
    """Topic that requests which were not answered `ok` go to, as they came."""
    workers_topic: str = "millrace-workers"
    """Compacted topic of one partition on which workers tell of themselves."""
    role: str = "all"
    """What a worker does: `answer` requests, keep the `tables`, or `all` of it."""
    store: str = "memory://"
    """Where the tables are: `memory://`, or `rocksdb://PATH` (needs the extra `rocksdb`)."""
    answers_age: float = DEFAULT_ANSWERS_AGE
    """Seconds after which an answer leaves its table."""
    answers_rows: int = DEFAULT_ANSWERS_ROWS
    """Answers that the table keeps of one results partition; the oldest go first."""
    plugins: tuple[str, ...] = ()
    """Modules to import for their checks and schemas, with commas between them."""
    sources: str = ""
    """File of named sources (TOML); none unless set."""
    cache: str = DEFAULT_CACHE
    """Tiers of the cache in order, with spaces between them: `memory://`, `file:///folder`, `memcached://host:port`."""
    negative_ttl: float = NEGATIVE_TTL
    """Seconds that a failure is remembered which says nothing of that itself, nor its source; 0: not at all."""
    max_in_flight: int = DEFAULT_MAX_IN_FLIGHT
    """Fetches that one worker has under way at once."""
    max_waiting_per_host: int = DEFAULT_MAX_WAITING_PER_HOST
    """Requests that may wait for one host or source that does not answer as fast as they come; beyond them they are
    refused as `overloaded`. Those of a host that keeps up stay in Kafka. A source's `limits.waiting` goes before it."""
    timeout: float = DEFAULT_TIMEOUT
    """Seconds for a request that names no `timeout`: everything from taking it to its answer."""
    max_bytes: int = DEFAULT_MAX_BYTES
    """Bytes of a decoded body, such as `8388608` or `8MiB`, that are read before the request ends `too_large`."""
    max_pending_bytes: int = DEFAULT_MAX_PENDING_BYTES
    """Bytes of requests, such as `128MiB`, that may be taken and not answered before no more are taken from Kafka: of
    one partition, as many as are left for others."""
    max_redirects: int = DEFAULT_MAX_REDIRECTS
    """Redirects that are followed for one request, at most 20; a source may say otherwise (`redirects`)."""
    allow_networks: str = ""
    """Networks that may be fetched from beyond the public internet, with commas between them: `10.1.0.0/16`."""
    allow_ports: str = ""
    """Ports that may be fetched from beside 80 and 443, with commas between them: `8080,9000-9010`."""
    nat64_prefixes: str = ""
    """Prefixes by which this network reaches IPv4 (NAT64, RFC 6052), with commas between them: an address in one is
    judged by the IPv4 address inside, as in `64:ff9b::/96`, which is always known."""
    proxy: str | None = None
    """Proxy that every fetch goes through, `http://user:password@host:port`; none unless set. Its login is secret."""
    pool_workers: int = 0
    """Processes that run checks; 0: one a core."""
    web_host: str = "127.0.0.1"
    """Address that the web server listens on; `*`: any, IPv4 or IPv6. Any but loopback needs `MILLRACE_WEB_TOKEN`."""
    web_port: int = 6066
    """Port that it listens on; 0: any that is free."""
    web_url: str = ""
    """URL by which other workers reach this one; unless set, made of host and port."""
    web_hosts: tuple[str, ...] = ()
    """Further names by which the web server may be asked, with commas between them; others are refused (421)."""
    web_token: str | None = None
    """Token that changing something over HTTP needs; unset: nothing can be changed."""
    log_level: str = "INFO"
    """`DEBUG`, `INFO`, `WARNING` or `ERROR`."""
    log_format: str = "console"
    """`console`, for people, or `json`, one object a line."""
    traces: str = "auto"
    """`auto`: traces are made where `OTEL_EXPORTER_OTLP_ENDPOINT` says where they go; `on`, `off`. Needs the extra."""
    worker_id: str = ""
    """Name of this worker, to Kafka and in tables and logs; unless set, made of host, process and chance."""

    def topics(self) -> tuple[str, str, str]:
        """Return the names of the three topics of the contract: requests, results, dead letters."""
        return self.requests_topic, self.results_topic, self.dead_letters_topic

    def web_names(self) -> frozenset[str]:
        """Return the names, beside loopback ones, by which the web server may be asked: among them those by which
        other workers ask it, because its record says so.
        """
        names = {urlsplit(self.web_url).hostname or ""} if self.web_url else set()
        if self.web_host in ANYWHERE:
            names.add(socket.gethostname())
        return frozenset(name.lower() for name in {*self.web_hosts, *names})

    def processes(self) -> int:
        """Return how many pool children run: one a core unless set."""
        return self.pool_workers or len(os.sched_getaffinity(0))


SECRETS = frozenset({
    "KAFKA_SASL_PASSWORD", "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET", "KAFKA_SSL_PASSWORD", "MILLRACE_PROXY",
    "MILLRACE_WEB_TOKEN",
})  # fmt: skip
"""Settings that may come from a `_FILE` and are never printed; of a proxy, the login."""

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_LOGINS = (
    ("sasl_username", "sasl_password"),
    ("sasl_oauthbearer_token_endpoint_url", "sasl_oauthbearer_client_id", "sasl_oauthbearer_client_secret"),
)
"""What must be given for a login: with a password, and for OAUTHBEARER."""
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_FORMATS = ("console", "json")
_TRACES = ("auto", "on", "off")


def load() -> Settings:
    """Read the settings from the environment. Raises SettingsError listing every problem, one a line."""
    problems = _file_problems()
    env = Env(eager=False) if problems else FileAwareEnv(eager=False, strip_whitespace=True)
    try:
        kafka = _kafka(env)
        settings = _settings(env, kafka)
        env.seal()
    except EnvValidationError as exc:
        found = cast("Mapping[str, list[str]]", exc.error_messages)
        problems += [f"{name}: {reason}" for name, reasons in found.items() for reason in reasons]
    if not problems:
        problems += _login_problems(settings.kafka)
    if not problems and len({*settings.topics(), settings.workers_topic}) <= len(settings.topics()):
        problems.append("MILLRACE_*_TOPIC: requests, results, dead letters and workers need a topic each")
    if not problems:
        problems += _taken(settings)
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _taken(settings: Settings) -> list[str]:
    """Say which topics have a name that the group has for one of its own: its marks and its tables' changelogs."""
    group = settings.group
    named = {f"MILLRACE_{name.upper()}": getattr(settings, name)
             for name in ("requests_topic", "results_topic", "dead_letters_topic", "workers_topic")}  # fmt: skip
    return [
        f"{variable}: {topic!r} is a topic that MILLRACE_GROUP={group} keeps for itself; give another name"
        for variable, topic in named.items()
        if topic == f"{group}-redriven" or (topic.startswith(f"{group}-tables-") and topic.endswith("-changelog"))
    ]


def _login_problems(kafka: Kafka) -> list[str]:
    if kafka.security_protocol.startswith("SASL"):
        needed = _LOGINS[kafka.sasl_mechanism == "OAUTHBEARER"]
        missing = [f"KAFKA_{name.upper()}" for name in needed if getattr(kafka, name) is None]
        if missing:
            return [f"{', '.join(missing)}: needed for {kafka.sasl_mechanism}"]
    if (kafka.ssl_keyfile is None) != (kafka.ssl_certfile is None):
        return ["KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE: one is of no use without the other"]
    return []


def _file_problems() -> list[str]:
    """Say which `<NAME>_FILE` cannot be read, or is given beside the variable itself."""
    problems: list[str] = []
    for name, path in os.environ.items():
        variable = name.removesuffix("_FILE")
        if variable == name or not variable.startswith(("KAFKA_", "MILLRACE_")):
            continue
        if variable in os.environ:
            problems.append(f"{name}: {variable} is given too; give one of them")
        try:
            Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            problems.append(f"{name}: {path!r} cannot be read: {getattr(exc, 'strerror', None) or 'not UTF-8'}")
    return problems


def names(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield every setting as the environment names it with its effective value, secrets masked."""
    for field in fields(Kafka):
        yield _shown(f"KAFKA_{field.name.upper()}", getattr(settings.kafka, field.name))
    for field in fields(Settings):
        if field.name != "kafka":
            yield _shown(f"MILLRACE_{field.name.upper()}", getattr(settings, field.name))


def secret_values(settings: Settings) -> Iterator[str]:
    """Yield what must be told to nobody: the secrets' values, and of a proxy its password."""
    for name in SECRETS - {"MILLRACE_PROXY"}:
        kafka = name.startswith("KAFKA_")
        field = name.removeprefix("KAFKA_" if kafka else "MILLRACE_").lower()
        if value := getattr(settings.kafka if kafka else settings, field):
            yield value
    if settings.proxy and (password := urlsplit(settings.proxy).password):
        yield from {password, unquote(password)}


def _shown(name: str, value: Any) -> tuple[str, Any]:
    if name in SECRETS and value:
        return name, _LOGIN.sub(rf"\1{MASK}@", value) if name == "MILLRACE_PROXY" else MASK
    return name, value


def _kafka(env: Env) -> Kafka:
    given = {field.name: env.str(f"KAFKA_{field.name.upper()}", None) for field in fields(Kafka)[3:]}
    token_url = env.str("KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", None, validate=values.endpoint)
    return Kafka(
        bootstrap_servers=values.bracketed_servers(
            env.str("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092", validate=values.servers) or ""
        ),
        security_protocol=env.str("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", validate=validate.OneOf(_PROTOCOLS)),
        sasl_mechanism=env.str("KAFKA_SASL_MECHANISM", "PLAIN", validate=validate.OneOf(_MECHANISMS)),
        **given | {"sasl_oauthbearer_token_endpoint_url": token_url},
    )


def _settings(env: Env, kafka: Kafka) -> Settings:
    positive = validate.Range(min=0, min_inclusive=False)
    return Settings(
        kafka=kafka,
        group=env.str("MILLRACE_GROUP", "millrace", validate=validate.Length(1)),
        requests_topic=env.str("MILLRACE_REQUESTS_TOPIC", "requests", validate=values.topic),
        results_topic=env.str("MILLRACE_RESULTS_TOPIC", "results", validate=values.topic),
        dead_letters_topic=env.str("MILLRACE_DEAD_LETTERS_TOPIC", "dead-letters", validate=values.topic),
        workers_topic=env.str("MILLRACE_WORKERS_TOPIC", "millrace-workers", validate=values.topic),
        role=env.str("MILLRACE_ROLE", "all", validate=validate.OneOf(ROLES)),
        store=env.str("MILLRACE_STORE", "memory://", validate=values.store),
        answers_age=env.float("MILLRACE_ANSWERS_AGE", DEFAULT_ANSWERS_AGE, validate=positive),
        answers_rows=env.int("MILLRACE_ANSWERS_ROWS", DEFAULT_ANSWERS_ROWS, validate=validate.Range(min=1)),
        plugins=values.split(env.str("MILLRACE_PLUGINS", "")),
        sources=env.str("MILLRACE_SOURCES", "", validate=values.file),
        cache=env.str("MILLRACE_CACHE", DEFAULT_CACHE, validate=values.validator(parse_tiers)),
        negative_ttl=env.float("MILLRACE_NEGATIVE_TTL", NEGATIVE_TTL, validate=validate.Range(0, MAX_NEGATIVE_TTL)),
        max_in_flight=env.int("MILLRACE_MAX_IN_FLIGHT", DEFAULT_MAX_IN_FLIGHT, validate=validate.Range(min=1)),
        max_waiting_per_host=env.int(
            "MILLRACE_MAX_WAITING_PER_HOST", DEFAULT_MAX_WAITING_PER_HOST, validate=validate.Range(min=1)
        ),
        timeout=env.float("MILLRACE_TIMEOUT", DEFAULT_TIMEOUT, validate=positive),
        max_bytes=values.read_bytes(env, "MILLRACE_MAX_BYTES", DEFAULT_MAX_BYTES),
        max_pending_bytes=values.read_bytes(env, "MILLRACE_MAX_PENDING_BYTES", DEFAULT_MAX_PENDING_BYTES),
        max_redirects=env.int(
            "MILLRACE_MAX_REDIRECTS", DEFAULT_MAX_REDIRECTS, validate=validate.Range(0, MAX_REDIRECTS)
        ),
        allow_networks=env.str("MILLRACE_ALLOW_NETWORKS", "", validate=values.validator(parse_networks)),
        allow_ports=env.str("MILLRACE_ALLOW_PORTS", "", validate=values.validator(parse_ports)),
        nat64_prefixes=env.str("MILLRACE_NAT64_PREFIXES", "", validate=values.validator(parse_nat64)),
        proxy=env.str("MILLRACE_PROXY", "", validate=values.proxy) or None,
        pool_workers=env.int("MILLRACE_POOL_WORKERS", 0, validate=validate.Range(min=0)),
        web_host=(env.str("MILLRACE_WEB_HOST", "127.0.0.1", validate=validate.Length(1)) or "").strip("[]"),
        web_port=env.int("MILLRACE_WEB_PORT", 6066, validate=validate.Range(0, 65535)),
        web_url=values.bracketed_url(env.str("MILLRACE_WEB_URL", "", validate=values.url) or ""),
        web_hosts=values.split(env.str("MILLRACE_WEB_HOSTS", "", validate=values.hosts)),
        web_token=env.str("MILLRACE_WEB_TOKEN", "") or None,
        log_level=env.str("MILLRACE_LOG_LEVEL", "INFO", validate=validate.OneOf(_LEVELS)),
        traces=env.str("MILLRACE_TRACES", "auto", validate=validate.OneOf(_TRACES)),
        log_format=env.str("MILLRACE_LOG_FORMAT", "console", validate=validate.OneOf(_FORMATS)),
        worker_id=env.str("MILLRACE_WORKER_ID", "") or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
    )
