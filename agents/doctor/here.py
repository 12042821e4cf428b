"""Checks of this machine and what it reaches: settings, plugins, sources, store, traces, cache tiers, schema registry,
pool, web port, limits.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from agents.doctor import Finding, counted, ok, problem, warning
from models.errors import AnswerError, InvalidDocument, MillraceError, SettingsError, TooLarge, UpstreamError
from models.source import Sources
from streams.config.cache_url import MIB, FileTier, MemcachedTier, parse_tiers
from streams.config.docs import unknown_names
from streams.config.plugins import plugin_specs, try_plugins
from streams.config.secrets import secrets_of
from streams.config.settings import ANYWHERE, Settings
from streams.http.client import client_of
from streams.http.guard import guard_of, literal, why
from streams.http.policy import tls_context
from streams.kafka.client import ssl_context
from streams.pool import CheckPool
from streams.registry.registry import Registry
from streams.sources import load
from streams.telemetry.tracing import wanted
from streams.tls import Context
from streams.web.server import Server, place

CERTIFICATE_LIFE = 14 * 86_400.0
"""Seconds for which a certificate should remain valid."""
PRIME = 112_272_535_095_293
"""The number that the pool checks."""
POOL_TIMEOUT = 30.0
"""Seconds for the pool to start and return a result."""
MIN_SPACE = 256 * MIB
"""Bytes that a cache's disk should have free."""
MIN_FILES = 4096
"""Open files that a worker should be allowed: one socket per fetch, and those of Kafka, pool and web server."""
WEB_TIMEOUT = 2.0
"""Seconds for the program on the web port to respond."""
SKEW = 2.0
"""Seconds by which an upstream's Date, in whole seconds, may differ from our clock."""


def settings_known() -> Iterator[Finding]:
    """Report variables that look like settings and are none."""
    lines = list(unknown_names())
    for line in lines:
        yield warning("settings", line)
    if not lines:
        yield ok("settings", "no unknown names")


def plugins(settings: Settings) -> Iterator[Finding]:
    """Load the plugins as a worker does."""
    loaded = try_plugins(settings)
    for refused in loaded.refused:
        yield problem("plugins", str(refused), "run: millrace plugins")
    if not loaded.refused:
        yield ok("plugins", f"{len(loaded.named)} loaded" if loaded.named else "none configured")


async def sources(settings: Settings) -> AsyncIterator[Finding]:
    """Load the sources, read their secrets and resolve their hosts; sends nothing."""
    try:
        found = load(settings.sources)
    except MillraceError as exc:
        for line in str(exc).splitlines():
            yield problem("sources", line, "run: millrace config --sources")
        return
    if not found.by_name:
        yield ok("sources", "none configured")
    secured = [tls_context(source.tls) for source in found.by_name.values() if source.tls is not None]
    here = [*_secrets(found), *_certificates(secured), *_ports(settings, found)]
    for finding in [*here, *await _hosts(settings, found)]:
        yield finding


def _secrets(found: Sources) -> Iterator[Finding]:
    for source in found.by_name.values():
        try:
            secrets = len(list(secrets_of(source)))
        except ValueError as exc:
            yield problem(f"source {source.name}", str(exc), "set it, or mount the file")
        else:
            yield ok(f"source {source.name}", f"valid, {counted(secrets, 'secret')} found" if secrets else "valid")


def _places(found: Sources) -> list[tuple[str, int]]:
    """Return host and port of every source that has a URL."""
    urls = [urlsplit(source.url.text) for source in found.by_name.values() if source.url is not None]
    return sorted({(url.hostname or "", url.port or (80 if url.scheme == "http" else 443)) for url in urls})


def _ports(settings: Settings, found: Sources) -> Iterator[Finding]:
    guard = guard_of(settings)
    denied = [(host, port) for host, port in _places(found) if not guard.opens(port)]
    ports = ",".join(dict.fromkeys([*filter(None, [settings.allow_ports]), *(str(port) for _, port in denied)]))
    for host, port in denied:
        seen = f"port {port} is denied: not 80, 443 or in MILLRACE_ALLOW_PORTS"
        yield problem(f"host {host}:{port}", seen, f"to allow it, set MILLRACE_ALLOW_PORTS={ports}")


async def _hosts(settings: Settings, found: Sources) -> list[Finding]:
    if settings.proxy:
        return []  # the proxy resolves the names
    hosts = dict(_places(found))
    return [await _host(settings, host, port) for host, port in hosts.items()]


async def _host(settings: Settings, host: str, port: int) -> Finding:
    subject = f"host {host}"
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        return problem(subject, f"does not resolve: {exc.strerror or exc}", "check the name and this machine's DNS")
    guard = guard_of(settings)
    for info in infos:
        address = literal(str(info[4][0]))
        network = None if address is None else guard.denied(address)
        if network is not None:
            networks = ",".join([*filter(None, [settings.allow_networks]), str(address)])
            advice = f"to allow it, set MILLRACE_ALLOW_NETWORKS={networks}"
            return problem(subject, f"resolves to {address}, which is denied: {why(network)}", advice)
    return ok(subject, f"resolves to {infos[0][4][0]}")


async def cache(settings: Settings) -> AsyncIterator[Finding]:
    """Check that folders are writable and have space, and that memcached responds."""
    for tier in parse_tiers(settings.cache):
        if isinstance(tier, FileTier):
            yield _folder("cache", tier.path)
        elif isinstance(tier, MemcachedTier):
            for host, port in tier.servers:
                yield await _memcached(host, port)


def _folder(what: str, path: Path) -> Finding:
    subject = f"{what} {path}"
    there = next(folder for folder in (path, *path.absolute().parents) if os.path.exists(folder))  # noqa: PTH110  False if it may not be entered
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return problem(subject, "not writable", f"let user {os.getuid()} write to {there}")
    free = shutil.disk_usage(there).free
    seen = f"writable, {free // MIB:,} MiB free"
    return ok(subject, seen) if free >= MIN_SPACE else warning(subject, seen, "free some disk space")


async def _memcached(host: str, port: int) -> Finding:
    subject = f"memcached {host}:{port}"
    writer = None
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"version\r\n")
            answer = await reader.readline()
    except (OSError, TimeoutError) as exc:
        return warning(subject, f"does not respond: {exc or type(exc).__name__}", "workers run without it, more slowly")
    finally:
        if writer is not None:
            writer.close()
    if not answer.startswith(b"VERSION "):
        return problem(subject, "the server there is not memcached", "check MILLRACE_CACHE")
    return ok(subject, f"responds, version {answer[8:].decode(errors='replace').strip()}")


def store(settings: Settings) -> Finding:
    """Check that the folder of the tables is writable and has space."""
    _, _, path = settings.store.partition("rocksdb://")
    if not path:
        return ok("store", "in memory")
    if find_spec("rocksdict") is None:
        return problem("store", "rocksdb:// needs the package rocksdict", "install millrace-kafka[rocksdb]")
    return _folder("store", Path(path))


def traces(settings: Settings) -> Iterator[Finding]:
    """Check that traces can be made, if they are wanted."""
    # a package's parents are imported to find it
    if wanted(settings.traces) and (find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None):
        yield problem("traces", "MILLRACE_TRACES needs OpenTelemetry", "install millrace-kafka[traces]")


async def pool(settings: Settings) -> Finding:
    """Start one process with the plugins of a worker, and check a prime."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(POOL_TIMEOUT), CheckPool(1, plugin_specs(settings)) as opened:
            outcome = await opened.submit("is_prime", PRIME, {})
    except (MillraceError, TimeoutError, OSError) as exc:
        return problem("pool", f"does not start: {exc or type(exc).__name__}", "check the plugins and the free memory")
    if outcome.value is not True:
        return problem("pool", f"is_prime({PRIME}) is {outcome.value!r}: {outcome.error}", "please report this bug")
    return ok("pool", f"started and checked a prime in {time.monotonic() - started:.1f} s")


async def web(settings: Settings) -> Finding:
    """Listen where a worker would; a port in use by a worker is fine."""
    host, port = settings.web_host, settings.web_port
    subject = f"web {place(host, port)}"
    try:
        server = Server(host, port, dict, token=settings.web_token)
    except MillraceError as exc:
        return problem(subject, str(exc))
    try:
        async with server:
            return ok(subject, "free")
    except MillraceError as exc:
        if await _worker_answers("localhost" if host in ANYWHERE else host, port):
            return ok(subject, "a worker answers here; a second one needs its own MILLRACE_WEB_PORT")
        return problem(subject, str(exc), "another program listens there: set MILLRACE_WEB_PORT")


async def _worker_answers(host: str, port: int) -> bool:
    timeout = aiohttp.ClientTimeout(total=WEB_TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(URL.build(scheme="http", host=host, port=port, path="/livez")) as response,
        ):
            return response.ok and response.headers.get("Server") == "millrace"
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def certificates(settings: Settings) -> Iterator[Finding]:
    """Check how long the certificates for Kafka remain valid."""
    with suppress(SettingsError):  # the check of the broker reports what is wrong
        if settings.kafka.security_protocol.endswith("SSL"):
            yield from _certificates([ssl_context(settings.kafka)])


def _certificates(contexts: Iterable[Context]) -> Iterator[Finding]:
    for path, at in {path: at for context in contexts for path, at in context.expires().items()}.items():
        subject, seen = f"certificate {path}", f"valid until {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
        if at < time.time() + CERTIFICATE_LIFE:
            yield warning(subject, seen, "replace the file: no restart is needed")
        else:
            yield ok(subject, seen)


async def registry(settings: Settings) -> AsyncIterator[Finding]:
    """Check that the schema registry answers, if there is one."""
    if not settings.registry_url:
        return
    try:
        async with Registry(settings) as opened:
            await opened.check()
    except MillraceError as exc:
        yield problem("schema registry", str(exc))
    else:
        yield ok("schema registry", f"answers at {settings.registry_url}")


def limits() -> Finding:
    """Check how many files may be open: a worker raises the soft limit to the hard one itself."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < MIN_FILES:
        return warning("open files", f"{files:,} allowed", f"ulimit -Hn {MIN_FILES}, or LimitNOFILE of the unit")
    return ok("open files", f"{files:,} allowed")


async def upstream(settings: Settings, url: str) -> AsyncIterator[Finding]:
    """Fetch a URL as a worker would, and compare its clock with ours."""
    subject = f"upstream {url}"
    try:
        async with asyncio.timeout(settings.timeout), client_of(settings) as client:
            response = await client.fetch("GET", url, {}, deadline=time.monotonic() + settings.timeout)
    except (AnswerError, TimeoutError) as exc:
        reached = isinstance(exc, UpstreamError | TooLarge | InvalidDocument)
        advice = "check MILLRACE_ALLOW_NETWORKS, MILLRACE_ALLOW_PORTS and MILLRACE_PROXY"
        yield problem(subject, f"{type(exc).__name__}: {exc}",
                      "it was reached: see what it answers there" if reached else advice)  # fmt: skip
        return
    yield ok(subject, f"answered with {len(response.body.content)} bytes")
    date = response.headers.get("Date")
    if date is not None:
        try:
            skew = time.time() - parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            yield warning("clock", "that upstream's Date is no date", "freshness takes it for none; see its server")
            return
        if abs(skew) > SKEW:
            yield warning("clock", f"{skew:+.0f} s from that upstream's", "check NTP: freshness depends on the clock")
        else:
            yield ok("clock", "agrees with that upstream's")
