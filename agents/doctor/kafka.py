"""Checks of Kafka: brokers, topics, replicas, ACLs, groups, and its clock against ours."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence

from agents.doctor import Finding, ok, problem, warning
from agents.later.release import later_group, left_behind, released_group
from agents.routes.topics import find_matched
from models.errors import BrokerError
from models.retry_later import delay_topics
from models.route import Route
from streams.config.settings import Kafka, Settings
from streams.kafka.client import BrokerConnection, places
from streams.kafka.cluster import (
    OPERATIONS,
    READ,
    WRITE,
    Cluster,
    Topic,
    granted_on_group,
    may_use_transactions,
    principal,
    survey,
)
from streams.kafka.reader import Reader
from streams.kafka.topics import Admin, delay_differences, differences, route_differences
from streams.kafka.txn_offsets import require_fencing
from streams.kafka.txn_producer import transactional_id
from streams.tables.changelogs import changelogs

SLOW = 0.25
"""Seconds beyond which a broker's response time is a warning."""
FUTURE = 5.0
"""Seconds ahead of our clock beyond which a record proves that a clock is wrong."""
CREATE_HINT = "create it: millrace topics --create"


async def kafka(
    settings: Settings, routes: Sequence[Route] = (), delays: Collection[int] = ()
) -> AsyncIterator[Finding]:
    """Check Kafka for a worker with these routes and delays of retry_later; ends early if no broker can be reached."""
    later = delay_topics(settings.group, delays)
    brokers = [await _broker(settings.kafka, place) for place in places(settings.kafka)]
    for finding in brokers:
        yield finding
    if all(finding.state == "problem" for finding in brokers):
        return
    routes = await find_matched(routes, settings)
    async with BrokerConnection(settings.kafka) as connection:
        cluster = await survey(connection, {*_needed(settings, routes), *later, *_kept(settings)})
        if cluster is None:
            yield warning("cluster", "the broker is too old to report permissions", "use Apache Kafka 2.3 or later")
            return
        for finding in [*_topics(cluster, settings, routes, later), *_access(cluster, settings, routes, later)]:
            yield finding
        groups = [*_groups(settings, routes), *((later_group(settings), released_group(settings)) if later else ())]
        for group in groups:
            yield _group(settings.kafka, group, await granted_on_group(settings.kafka, connection, group))
        if settings.exactly_once:
            yield await _transactions(settings, connection)
    for broker in cluster.brokers:
        if (broker.host, broker.port) not in places(settings.kafka):
            yield await _advertised(settings.kafka, (broker.host, broker.port))
    async for finding in _differences(settings, routes, later):
        yield finding
    yield await _clock(settings, cluster)


async def _differences(settings: Settings, routes: Sequence[Route], later: Mapping[str, int]) -> AsyncIterator[Finding]:
    """Report what will not work well with the topics as they are, and what waits in those that nobody reads."""
    async with Admin(settings.kafka) as admin:
        found = await admin.describe(*_needed(settings, routes), *later)
        lines = [*differences(settings, found), *route_differences(routes, settings.dead_letters_topic, found)]
        for line in [*lines, *delay_differences(later, found)]:
            if "does not exist" not in line:
                yield warning("topics", line)
    for name, count in (await left_behind(settings, later)).items():
        seen = f"{count} records wait there, and no source or route has this delay in retry_later any more"
        yield warning(f"topic {name}", seen, "keep the delay until they are taken up: nobody reads the topic")


async def _broker(kafka: Kafka, place: tuple[str, int]) -> Finding:
    subject = f"broker {place[0]}:{place[1]}"
    try:
        async with BrokerConnection(kafka, place) as connection:
            seen = f"reachable by {kafka.security_protocol}, responds in {connection.latency * 1000:.0f} ms"
            return warning(subject, seen, "it is distant or busy") if connection.latency > SLOW else ok(subject, seen)
    except BrokerError as exc:
        return problem(subject, str(exc))


async def _advertised(kafka: Kafka, place: tuple[str, int]) -> Finding:
    found = await _broker(kafka, place)
    if found.state != "problem":
        return found
    return found._replace(advice="brokers send clients to this address: check advertised.listeners and the network")


def _needed(settings: Settings, routes: Sequence[Route]) -> list[str]:
    """Return the topics that must be there."""
    return list(dict.fromkeys([*settings.topics(), *(name for route in routes for name in route.all_topics)]))


def _groups(settings: Settings, routes: Sequence[Route]) -> list[str]:
    tables = [f"{settings.group}-tables"] if settings.role != "answer" else []
    return [settings.group, *tables, *(route.group(settings.group) for route in routes)]


def _kept(settings: Settings) -> list[str]:
    """Return the topics of workers' own: heartbeats, and the changelogs of the tables if this role keeps them."""
    tables = changelogs(settings).values() if settings.role != "answer" else ()
    return [settings.workers_topic, *tables]


def _topics(
    cluster: Cluster, settings: Settings, routes: Sequence[Route], later: Collection[str] = ()
) -> Iterator[Finding]:
    for name in (*_needed(settings, routes), *later):
        topic = cluster.topics[name]
        if not topic.visible:
            yield problem(f"topic {name}", "missing, or hidden by ACLs", "grant the ACLs named below, or create it")
        elif not topic.exists:
            yield problem(f"topic {name}", "does not exist", CREATE_HINT)
        else:
            yield _health(topic, len(cluster.brokers))
    for name in _kept(settings):
        topic = cluster.topics[name]
        if topic.exists:
            yield _health(topic, len(cluster.brokers))
        elif topic.visible:
            yield warning(f"topic {name}", "does not exist", "a worker creates it if allowed, else runs without it")


def _health(topic: Topic, brokers: int) -> Finding:
    subject, seen = f"topic {topic.name}", f"{len(topic.partitions)} partitions"
    leaderless = [each.number for each in topic.partitions if each.leader < 0]
    behind = [each.number for each in topic.partitions if each.in_sync < each.replicas]
    copies = min(each.replicas for each in topic.partitions)
    if leaderless:
        return problem(subject, f"no leader for partitions {leaderless}", "a broker is down: these are unavailable")
    if behind:
        return warning(subject, f"replicas behind in partitions {behind}", "a broker is down or slow")
    if copies < 2 <= brokers:  # noqa: PLR2004  a second replica
        return warning(subject, f"{seen}, one replica each", "a lost broker loses data: raise the replication")
    return ok(subject, f"{seen}, {copies} in sync")


def _needs(settings: Settings, routes: Sequence[Route], later: Collection[str] = ()) -> list[tuple[int, str, bool]]:
    """Return what must be granted on topics, and whether a worker answers nothing without it."""
    requests, results, letters = settings.topics()
    needs = [(READ, requests, True), (WRITE, results, True), (WRITE, letters, True)]
    for route in routes:
        needs += [(READ, name, True) for name in route.topics]
        needs += [(WRITE, name, True) for name in filter(None, (route.results, route.failures))]
    needs += [(operation, name, True) for name in later for operation in (READ, WRITE)]
    needs += [(READ, results, False)]
    needs += [(operation, name, False) for name in _kept(settings) for operation in (WRITE, READ)]
    return list(dict.fromkeys(needs))


def _access(
    cluster: Cluster, settings: Settings, routes: Sequence[Route], later: Collection[str] = ()
) -> Iterator[Finding]:
    who = principal(settings.kafka) or "this login"
    missing = False
    for operation, name, needed in _needs(settings, routes, later):
        topic = cluster.topics[name]
        if not topic.visible or (topic.exists and topic.granted is not None and operation not in topic.granted):
            missing = True
            what, advice = f"{OPERATIONS[operation]} on topic {name} is not granted", f"grant it to {who}"
            subject = f"access to {name}"
            yield problem(subject, what, advice) if needed else warning(subject, what, f"{advice}: the tables need it")
    if not missing:
        yield ok("access to topics", "all that is required is granted" if _cluster_summary(cluster) else "not denied")


def _cluster_summary(cluster: Cluster) -> bool:
    return all(topic.granted is not None for topic in cluster.topics.values())


def _group(kafka: Kafka, group: str, granted: frozenset[int] | None) -> Finding:
    subject = f"group {group}"
    if granted is None:
        return ok(subject, "not denied")
    if READ in granted:
        return ok(subject, "can be joined")
    return problem(subject, "permission Read is not granted", f"grant it to {principal(kafka) or 'this login'}")


async def _transactions(settings: Settings, connection: BrokerConnection) -> Finding:
    """Check what MILLRACE_DELIVERY=exactly-once needs: fenced offsets, and an ACL."""
    subject = "transactions"
    try:
        await require_fencing(settings.kafka)
    except BrokerError as exc:
        return problem(subject, str(exc))
    name = transactional_id(settings.group, settings.worker_id)
    if not await may_use_transactions(connection, name):
        who = principal(settings.kafka) or "this login"
        seen = f"Write on the transactional id {name} is not granted"
        return problem(subject, seen, f"grant Write and Describe to {who} on those that begin with {settings.group}-")
    return ok(subject, "offsets are fenced by generation; readers need isolation.level=read_committed")


async def _clock(settings: Settings, cluster: Cluster) -> Finding:
    """Look for records from the future: Kafka has no request for the broker's time, but such a record proves a skew."""
    readable = [topic for topic in cluster.topics.values() if topic.exists and READ in (topic.granted or {READ})]
    async with Reader(settings.kafka) as reader:
        for topic in readable:
            if await reader.spans(topic.name, len(topic.partitions), since=time.time() + FUTURE):
                seen = f"{topic.name} has records from over {FUTURE:g} s ahead of this machine's clock"
                return warning("clock", seen, "this clock is slow, or a producer's is fast: check NTP on both")
    return ok("clock", "no record is ahead of it")
