"""Every setting, declared once: name, type, default, meaning, how it is validated, whether it is secret.

They are read once, from the environment, into frozen dataclasses; all problems are reported together, by name.
A secret may also come from a file named by `<NAME>_FILE`. Seconds and bytes throughout.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import urlsplit

from marshmallow.validate import Length, OneOf, Range

from models.errors import SettingsError
from models.request import MAX_TIMEOUT
from models.retry_later import is_delay_topic
from models.source import MAX_REDIRECTS, NEGATIVE_TTL
from streams.config import validators as values
from streams.config.cache_url import MIB, parse_bytes, parse_tiers
from streams.config.declaration import LOGIN, WHOLE, Declaration, Setting, declared, read

EVERYWHERE = "*"
"""All addresses of the machine, IPv4 and IPv6."""
ANYWHERE = frozenset({"0.0.0.0", "::", EVERYWHERE})  # noqa: S104  recognised, not bound
"""Addresses that, bound, are all of a machine's, and the name of none."""
ROLES = ("all", "answer", "tables")
AT_LEAST_ONCE, EXACTLY_ONCE = "at-least-once", "exactly-once"
DEFAULT_MAX_IN_FLIGHT = 256
DEFAULT_MAX_WAITING_PER_HOST = 1_000  # what a host that takes a second answers before the default deadline, 32 at once
DEFAULT_TIMEOUT = 30.0
DEFAULT_MAX_BYTES = 8 * MIB
DEFAULT_MAX_REDIRECTS = 5
DEFAULT_CACHE = "memory://?entries=10000&bytes=64MiB"
# With what parsing adds to bodies that are being sent, and the default cache, a worker stays under the 1.5 GiB of
# deploy/kubernetes.
DEFAULT_MAX_PENDING_BYTES = 128 * MIB

# What is fixed; docs/configuration.md lists these with their meanings.
# fmt: off
MAX_NEGATIVE_TTL: Annotated[float, "Most seconds that a failure may be cached."] = 86_400.0
MAX_PENDING: Annotated[
    int, "Records that may be taken and not finished before a worker polls no more; one partition gets what the others "
         "leave."] = 40_000
LARGE: Annotated[int, "Size in bytes, headers included, from which a record counts towards pending bytes."] = 1_024
MAX_UNREMEMBERED: Annotated[
    int, "Finished records of one partition that do not fit into the commit's metadata before a worker polls no more; "
         "as many are repeated after a crash."] = 10_000
COMMIT_EVERY: Annotated[float, "Seconds between commits."] = 1.0
SESSION_TIMEOUT: Annotated[
    float, "Seconds without a heartbeat after which the group gives a member's partitions to others."] = 10.0
REBALANCE_TIMEOUT: Annotated[float, "Seconds that the group waits for a member to give up its partitions."] = 60.0
DRAIN_DEADLINE: Annotated[
    float, "Seconds that work in progress may take to finish when its partition is revoked."] = 10.0
SHUTDOWN_DEADLINE: Annotated[float, "Seconds after SIGTERM at which the process exits whatever is still open."] = 25.0
CHECK_TIMEOUT: Annotated[float, "Seconds that one check may run."] = 5.0
# fmt: on

_positive = Range(min=0, min_inclusive=False)


@dataclass(frozen=True, slots=True)
class Kafka:
    """Where the broker is and how to log in to it."""

    # fmt: off
    bootstrap_servers: Annotated[
        str, Setting("Brokers to connect to first, `host:port`, separated by commas.",
                     values.servers, values.bracketed_servers)] = "localhost:9092"
    security_protocol: Annotated[
        str, Setting("`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`: TLS or not, a login or not.",
                     OneOf(("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")))] = "PLAINTEXT"
    sasl_mechanism: Annotated[
        str, Setting("How to log in: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`.",
                     OneOf(("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")))] = "PLAIN"
    sasl_username: Annotated[str | None, Setting("User name for `PLAIN` and `SCRAM-*`.")] = None
    sasl_password: Annotated[str | None, Setting("Password of that user.", secret=WHOLE)] = None
    sasl_oauthbearer_token_endpoint_url: Annotated[
        str | None, Setting("URL of the token endpoint for `OAUTHBEARER` by client credentials (RFC 6749, 4.4).",
                            values.endpoint)] = None
    sasl_oauthbearer_client_id: Annotated[str | None, Setting("Client id for the token endpoint.")] = None
    sasl_oauthbearer_client_secret: Annotated[str | None, Setting("Secret of that client.", secret=WHOLE)] = None
    sasl_oauthbearer_scope: Annotated[str | None, Setting("Scope of the token to request; none unless set.")] = None
    ssl_cafile: Annotated[
        str | None, Setting("File of the certificate authorities (PEM) that verify brokers and token endpoint; "
                            "unless set, the system's.")] = None
    ssl_certfile: Annotated[
        str | None, Setting("File of the client certificate (PEM) for the brokers, for mutual TLS.")] = None
    ssl_keyfile: Annotated[str | None, Setting("File of that certificate's key (PEM).")] = None
    ssl_password: Annotated[str | None, Setting("Password of that key.", secret=WHOLE)] = None
    # fmt: on


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings of one process."""

    kafka: Kafka = Kafka()
    # fmt: off
    group: Annotated[
        str, Setting("Consumer group of the workers that answer; the tables' group is this with `-tables`. A new group "
                     "begins at the earliest record.", values.group)] = "millrace"
    requests_topic: Annotated[str, Setting("Topic of requests.", values.topic)] = "requests"
    results_topic: Annotated[str, Setting("Topic of results.", values.topic)] = "results"
    dead_letters_topic: Annotated[
        str, Setting("Topic of dead letters: copies of requests whose outcome is not `ok`.",
                     values.topic)] = "dead-letters"
    workers_topic: Annotated[
        str, Setting("Compacted topic of one partition for the workers' heartbeats.",
                     values.topic)] = "millrace-workers"
    role: Annotated[
        str, Setting("What a worker does: `answer` requests, keep the `tables`, or `all` of it.", OneOf(ROLES))] = "all"
    delivery: Annotated[
        str, Setting("`at-least-once`, or `exactly-once`: results, dead letters and offsets are committed in one Kafka "
                     "transaction, which readers with `isolation.level=read_committed` see as a whole. Needs Kafka "
                     "2.5; see docs/delivery.md.", OneOf((AT_LEAST_ONCE, EXACTLY_ONCE)))] = AT_LEAST_ONCE
    store: Annotated[
        str, Setting("Where the tables are kept: `memory://`, or `rocksdb://PATH` (needs the extra `rocksdb`).",
                     values.store)] = "memory://"
    answers_age: Annotated[float, Setting("Seconds after which an answer leaves its table.", _positive)] = 7 * 86_400.0
    answers_rows: Annotated[
        int, Setting("Answers that the table keeps of one results partition; the oldest leave first.",
                     Range(min=1))] = 100_000
    plugins: Annotated[
        tuple[str, ...], Setting("Modules to import for their checks and schemas, separated by commas.",
                                 parse=values.split)] = ()
    sources: Annotated[str, Setting("File of named sources (TOML); none unless set.", values.file)] = ""
    cache: Annotated[
        str, Setting("Tiers of the cache in order, separated by spaces: `memory://`, `file:///folder`, "
                     "`memcached://host:port`.", values.validator(parse_tiers))] = DEFAULT_CACHE
    negative_ttl: Annotated[
        float, Setting("Seconds that a failure is cached if neither its upstream nor its source says how long; "
                       "0: not at all.", Range(0, MAX_NEGATIVE_TTL))] = NEGATIVE_TTL
    max_in_flight: Annotated[
        int, Setting("Fetches that one worker may have in flight.", Range(min=1))] = DEFAULT_MAX_IN_FLIGHT
    max_waiting_per_host: Annotated[
        int, Setting("Requests that may wait for one host or source that answers more slowly than requests arrive; "
                     "beyond them they end `overloaded`. Those of a host that keeps up stay in Kafka. A source's "
                     "`limits.waiting` takes precedence.", Range(min=1))] = DEFAULT_MAX_WAITING_PER_HOST
    timeout: Annotated[
        float, Setting("Seconds from receipt to result for a request without a `timeout` of its own; at most 300.",
                       Range(min=0, max=MAX_TIMEOUT, min_inclusive=False))] = DEFAULT_TIMEOUT
    max_bytes: Annotated[
        int, Setting("Largest decoded body, such as `8388608` or `8MiB`; a larger one ends the request `too_large`.",
                     parse=parse_bytes)] = DEFAULT_MAX_BYTES
    max_pending_bytes: Annotated[
        int, Setting("Bytes of requests, such as `128MiB`, that may be taken and not answered before a worker polls no "
                     "more; one partition gets what the others leave.", parse=parse_bytes)] = DEFAULT_MAX_PENDING_BYTES
    order: Annotated[
        str, Setting("`none`, or `key`: results of requests with the same key come in the order of their requests. A "
                     "request waits for the one before it of its key, others go on.", OneOf(("none", "key")))] = "none"
    max_redirects: Annotated[
        int, Setting("Redirects to follow for one request, at most 20; a source's `redirects` takes precedence.",
                     Range(0, MAX_REDIRECTS))] = DEFAULT_MAX_REDIRECTS
    carry_headers: Annotated[
        tuple[str, ...], Setting("Record headers that go from a request to its result, separated by commas, beside "
                                 "those of its trace: `tenant,reply-to`. Names are case-sensitive.",
                                 values.carried, values.split)] = ()
    allow_networks: Annotated[
        str, Setting("Networks beside the public internet that may be fetched from, separated by commas: "
                     "`10.1.0.0/16`.", values.validator(values.parse_networks))] = ""
    allow_ports: Annotated[
        str, Setting("Ports beside 80 and 443 that may be fetched from, separated by commas: `8080,9000-9010`.",
                     values.validator(values.parse_ports))] = ""
    nat64_prefixes: Annotated[
        str, Setting("Prefixes by which this network reaches IPv4 (NAT64, RFC 6052), separated by commas: an address "
                     "in one is allowed or denied by the IPv4 address inside. `64:ff9b::/96` always counts.",
                     values.validator(values.parse_nat64))] = ""
    proxy: Annotated[
        str | None, Setting("Proxy for every fetch, `http://user:password@host:port`; none unless set. Its login is "
                            "secret.", values.proxy, values.or_none, LOGIN)] = None
    registry_url: Annotated[
        str, Setting("URL of the schema registry, Confluent's API, for `avro`, `protobuf` and `json-schema`; several "
                     "of one cluster separated by commas. Needs the extra `registry`.", values.registry)] = ""
    registry_username: Annotated[str | None, Setting("User name for the schema registry.", parse=values.or_none)] = None
    registry_password: Annotated[
        str | None, Setting("Password of that user.", parse=values.or_none, secret=WHOLE)] = None
    registry_token: Annotated[
        str | None, Setting("Bearer token for the schema registry, instead of user and password.",
                            parse=values.or_none, secret=WHOLE)] = None
    registry_ca: Annotated[
        str, Setting("File of the certificate authorities (PEM) that verify the schema registry; unless set, the "
                     "system's.", values.file)] = ""
    registry_cert: Annotated[
        str, Setting("File of the client certificate (PEM) for the schema registry.", values.file)] = ""
    registry_key: Annotated[
        str, Setting("File of that certificate's key (PEM), unless the certificate's file has it.", values.file)] = ""
    pool_workers: Annotated[int, Setting("Processes that run checks; 0: one for each core.", Range(min=0))] = 0
    web_host: Annotated[
        str, Setting("Address that the web server listens on; `*`: all, IPv4 and IPv6. Any but loopback needs "
                     "`MILLRACE_WEB_TOKEN`.", Length(1), values.unbracketed)] = "127.0.0.1"
    web_port: Annotated[int, Setting("Port that it listens on; 0: any free port.", Range(0, values.MAX_PORT))] = 6066
    web_url: Annotated[
        str, Setting("URL by which other workers reach this one; unless set, made of host and port.",
                     values.url, values.bracketed_url)] = ""
    web_hosts: Annotated[
        tuple[str, ...], Setting("Further host names that the web server accepts, separated by commas; it refuses "
                                 "others (421).", values.hosts, values.split)] = ()
    web_token: Annotated[
        str | None, Setting("Token for every change over HTTP; unless set, nothing can be changed.",
                            parse=values.or_none, secret=WHOLE)] = None
    log_level: Annotated[
        str, Setting("`DEBUG`, `INFO`, `WARNING` or `ERROR`.", OneOf(("DEBUG", "INFO", "WARNING", "ERROR")))] = "INFO"
    log_format: Annotated[
        str, Setting("`console`, for people, or `json`, one object a line.", OneOf(("console", "json")))] = "console"
    traces: Annotated[
        str, Setting("`auto`: export traces if `OTEL_EXPORTER_OTLP_ENDPOINT` is set; `on`, `off`. Needs the extra "
                     "`traces`.", OneOf(("auto", "on", "off")))] = "auto"
    worker_id: Annotated[
        str, Setting("Name of this worker in Kafka, tables and logs; unless set, made of host name, process id and a "
                     "random part.")] = ""
    # fmt: on

    @property
    def exactly_once(self) -> bool:
        """Whether results, dead letters and offsets are committed in transactions."""
        return self.delivery == EXACTLY_ONCE

    def topics(self) -> tuple[str, str, str]:
        """Return the names of the three topics of the contract: requests, results, dead letters."""
        return self.requests_topic, self.results_topic, self.dead_letters_topic

    def web_names(self) -> frozenset[str]:
        """Return the host names, beside loopback ones, that the web server accepts: among them the one in this
        worker's record, which other workers use.
        """
        names = {urlsplit(self.web_url).hostname or ""} if self.web_url else set()
        if self.web_host in ANYWHERE:
            names.add(socket.gethostname())
        return frozenset(name.lower() for name in {*self.web_hosts, *names})

    def processes(self) -> int:
        """Return how many pool processes run: one for each core unless set."""
        return self.pool_workers or len(os.sched_getaffinity(0))


DECLARED: tuple[Declaration, ...] = (*declared(Kafka, "KAFKA"), *declared(Settings, "MILLRACE"))
"""Every setting, in the order of the reference."""

_LOGINS = (
    ("sasl_username", "sasl_password"),
    ("sasl_oauthbearer_token_endpoint_url", "sasl_oauthbearer_client_id", "sasl_oauthbearer_client_secret"),
)
"""What a login needs: with a password, and for OAUTHBEARER."""


def load() -> Settings:
    """Read the settings from the environment. Raises SettingsError listing every problem, one a line."""
    given, problems = read(DECLARED)
    settings = Settings(kafka=Kafka(**given[Kafka]), **given[Settings])
    problems = problems or [
        *_login_problems(settings.kafka), *_topic_problems(settings), *_registry_problems(settings)]  # fmt: skip
    if problems:
        raise SettingsError("\n".join(problems))
    made_up = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    return settings if settings.worker_id else replace(settings, worker_id=made_up)


def names(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield the variable of every setting with its effective value, secrets masked."""
    for each in DECLARED:
        value = each.value(settings)
        yield each.variable, each.secret.mask(value) if each.secret and value else value


def secret_values(settings: Settings) -> Iterator[str]:
    """Yield the texts that no log may show: the secrets' values, and of a proxy its password."""
    for each in DECLARED:
        if each.secret and (value := each.value(settings)):
            yield from each.secret.texts(value)


def _topic_problems(settings: Settings) -> list[str]:
    """Report topics that share a name, or have one of the group's own: its redrive marks, its delay topics, its tables'
    changelogs.
    """
    topics = {f"MILLRACE_{name.upper()}": getattr(settings, name)
              for name in ("requests_topic", "results_topic", "dead_letters_topic", "workers_topic")}  # fmt: skip
    if len(set(topics.values())) < len(topics):
        return ["MILLRACE_*_TOPIC: requests, results, dead letters and workers need a topic each"]
    group = settings.group
    return [
        f"{variable}: {topic!r} is a topic that MILLRACE_GROUP={group} keeps for itself; give another name"
        for variable, topic in topics.items()
        if topic == f"{group}-redriven"
        or (topic.startswith(f"{group}-tables-") and topic.endswith("-changelog"))
        or is_delay_topic(group, topic)
    ]


def _login_problems(kafka: Kafka) -> list[str]:
    if kafka.security_protocol.startswith("SASL"):
        needed = _LOGINS[kafka.sasl_mechanism == "OAUTHBEARER"]
        missing = [f"KAFKA_{name.upper()}" for name in needed if getattr(kafka, name) is None]
        if missing:
            return [f"{', '.join(missing)}: needed for {kafka.sasl_mechanism}"]
    if (kafka.ssl_keyfile is None) != (kafka.ssl_certfile is None):
        return ["KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE: set both or neither"]
    return []


def _registry_problems(settings: Settings) -> list[str]:
    if (settings.registry_username is None) != (settings.registry_password is None):
        return ["MILLRACE_REGISTRY_USERNAME, MILLRACE_REGISTRY_PASSWORD: set both or neither"]
    if settings.registry_token is not None and settings.registry_username is not None:
        return ["MILLRACE_REGISTRY_TOKEN: MILLRACE_REGISTRY_USERNAME is given too; give one of them"]
    if settings.registry_key and not settings.registry_cert:
        return ["MILLRACE_REGISTRY_KEY: needs MILLRACE_REGISTRY_CERT"]
    return []
