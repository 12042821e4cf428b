"""Is Kafka there, does it let us in, are topics, copies and ACLs as they must be, and do its clocks and ours agree?"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

from agents.checkup.finding import Finding, ok, problem, warning
from models.errors import BrokerError
from streams.config.settings import Kafka, Settings
from streams.kafka.broker_connection import BrokerConnection
from streams.kafka.client import places
from streams.kafka.cluster import OPERATIONS, READ, WRITE, Cluster, Topic, granted_on_group, principal, survey
from streams.kafka.reader import Reader
from streams.kafka.topics import Admin, differences
from streams.tables.changelogs import changelogs

SLOW = 0.25
"""Seconds of an answer of the broker beyond which that is worth a word."""
FUTURE = 5.0
"""Seconds by which a record may be ahead of our clock before somebody's clock is wrong."""
CREATE_HINT = "create it: millrace topics --create"


async def kafka(settings: Settings) -> AsyncIterator[Finding]:
    """Look at all that Kafka has to be; ends early where nothing more can be seen."""
    found = [await _broker(settings.kafka, place) for place in places(settings.kafka)]
    for finding in found:
        yield finding
    if all(finding.state == "problem" for finding in found):
        return
    async with BrokerConnection(settings.kafka) as door:
        cluster = await survey(door, {*settings.topics(), *_kept(settings)})
        if cluster is None:
            yield warning("cluster", "the broker is too old to say what we may do", "use Apache Kafka 2.3 or later")
            return
        for finding in [*_topics(cluster, settings), *_access(cluster, settings)]:
            yield finding
        for group in (settings.group, *([f"{settings.group}-tables"] if settings.role != "answer" else ())):
            yield _group(settings.kafka, group, await granted_on_group(settings.kafka, door, group))
    for broker in cluster.brokers:
        if (broker.host, broker.port) not in places(settings.kafka):
            yield await _advertised(settings.kafka, (broker.host, broker.port))
    async with Admin(settings.kafka) as admin:
        for line in differences(settings, await admin.describe(*settings.topics())):
            if "does not exist" not in line:
                yield warning("topics", line)
    yield await _clock(settings, cluster)


async def _broker(kafka: Kafka, place: tuple[str, int]) -> Finding:
    subject = f"broker {place[0]}:{place[1]}"
    try:
        async with BrokerConnection(kafka, place) as door:
            seen = f"lets us in, by {kafka.security_protocol}, and answers in {door.latency * 1000:.0f} ms"
            return warning(subject, seen, "it is far away, or busy") if door.latency > SLOW else ok(subject, seen)
    except BrokerError as exc:
        return problem(subject, str(exc))


async def _advertised(kafka: Kafka, place: tuple[str, int]) -> Finding:
    found = await _broker(kafka, place)
    if found.state != "problem":
        return found
    return found._replace(advice="clients are sent there: see advertised.listeners of the broker, and the network")


def _kept(settings: Settings) -> list[str]:
    """Return the topics that workers keep for themselves: each tells of itself, and those of the tables role count."""
    counted = changelogs(settings).values() if settings.role != "answer" else ()
    return [settings.workers_topic, *counted]


def _topics(cluster: Cluster, settings: Settings) -> Iterator[Finding]:
    for name in settings.topics():
        topic = cluster.topics[name]
        if not topic.visible:
            yield problem(f"topic {name}", "we may not see it", "grant the ACLs named below, or create it")
        elif not topic.exists:
            yield problem(f"topic {name}", "does not exist", CREATE_HINT)
        else:
            yield _health(topic, len(cluster.brokers))
    for name in _kept(settings):
        topic = cluster.topics[name]
        if topic.exists:
            yield _health(topic, len(cluster.brokers))
        elif topic.visible:
            yield warning(f"topic {name}", "does not exist", "a worker makes it where it may, or does without")


def _health(topic: Topic, brokers: int) -> Finding:
    subject, seen = f"topic {topic.name}", f"{len(topic.partitions)} partitions"
    leaderless = [each.number for each in topic.partitions if each.leader < 0]
    behind = [each.number for each in topic.partitions if each.in_sync < each.replicas]
    copies = min(each.replicas for each in topic.partitions)
    if leaderless:
        return problem(subject, f"no leader for partitions {leaderless}", "a broker is away: nothing moves there")
    if behind:
        return warning(subject, f"replicas behind in partitions {behind}", "a broker is away, or slow")
    if copies < 2 <= brokers:  # noqa: PLR2004  a copy beside the first
        return warning(subject, f"{seen}, of which there is one copy", "it is lost with its broker: raise replication")
    return ok(subject, f"{seen}, {copies} in sync")


def _access(cluster: Cluster, settings: Settings) -> Iterator[Finding]:
    requests, results, letters = settings.topics()
    needs = [(READ, requests, True), (WRITE, results, True), (WRITE, letters, True), (READ, results, False)]
    needs += [(operation, name, False) for name in _kept(settings) for operation in (WRITE, READ)]
    who = principal(settings.kafka) or "this login"
    missing = False
    for operation, name, needed in needs:
        topic = cluster.topics[name]
        if not topic.visible or (topic.exists and topic.granted is not None and operation not in topic.granted):
            missing = True
            what, advice = f"{OPERATIONS[operation]} on topic {name} is not granted", f"grant it to {who}"
            subject = f"access to {name}"
            yield problem(subject, what, advice) if needed else warning(subject, what, f"{advice}: the tables need it")
    if not missing:
        yield ok("access to topics", "all that is needed is granted" if _cluster_summary(cluster) else "not refused")


def _cluster_summary(cluster: Cluster) -> bool:
    return all(topic.granted is not None for topic in cluster.topics.values())


def _group(kafka: Kafka, group: str, granted: frozenset[int] | None) -> Finding:
    subject = f"group {group}"
    if granted is None:
        return ok(subject, "not refused")
    if READ in granted:
        return ok(subject, "may be joined")
    return problem(subject, "Read on it is not granted", f"grant it to {principal(kafka) or 'this login'}")


async def _clock(settings: Settings, cluster: Cluster) -> Finding:
    """Look for records that come from the future: nobody tells a client the broker's time, but this proves a skew."""
    readable = [topic for topic in cluster.topics.values() if topic.exists and READ in (topic.granted or {READ})]
    async with Reader(settings.kafka) as reader:
        for topic in readable:
            if await reader.spans(topic.name, len(topic.partitions), since=time.time() + FUTURE):
                seen = f"{topic.name} has records from over {FUTURE:g} s ahead of this machine's clock"
                return warning("clock", seen, "this clock is behind, or a producer's ahead: see NTP on both")
    return ok("clock", "no record is ahead of it")
