"""The tables' changelogs on Kafka: their names, and their creation where the broker allows it.

One a table, compacted, with at least as many partitions as the results: partition N of each belongs to partition N of
the results.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import NamedTuple

from models.errors import BrokerError
from streams.config.settings import Settings
from streams.kafka.cluster import require_access
from streams.kafka.topics import Admin, Topic

logger = logging.getLogger(__name__)

TABLES = ("answers", "hosts", "outcomes", "checks")
CONFIG = {
    "cleanup.policy": "compact",
    # Only whole segments are compacted: with Kafka's 1 GiB, a recovery would read many outdated rows.
    "segment.bytes": str(64 << 20),
    "min.cleanable.dirty.ratio": "0.2",
}


def changelogs(settings: Settings) -> dict[str, str]:
    """Return each table's changelog, named after the group, as Faust would: two installations do not collide."""
    return {table: f"{settings.group}-tables-{table}-changelog" for table in TABLES}


class Changelogs(NamedTuple):
    """The changelogs as they are, and how many partitions results have."""

    topics: Sequence[Topic]
    partitions: int

    @property
    def covered(self) -> int:
        """Return how many partitions of the results every changelog covers."""
        return min(self.partitions, *(topic.partitions for topic in self.topics))

    def missing_partitions(self, results: str, partitions: Collection[int]) -> str:
        """Return why these partitions of the results cannot be counted, and what to do."""
        short = [topic for topic in self.topics if topic.partitions < self.partitions]
        have = ", ".join(f"topic {topic.name!r} has {topic.partitions} partitions" for topic in short)
        return (
            f"partitions {', '.join(map(str, sorted(partitions)))} of {results!r} are not counted: {have}, and the "
            f"broker does not let us add any; give each {self.partitions}, and start this worker again"
        )


async def prepare(settings: Settings) -> Changelogs:
    """Return the changelogs; creates missing ones, and enlarges them to the partitions of the results, where the broker
    allows it. Raises BrokerError with what is missing and what to do.
    """
    names = list(changelogs(settings).values())
    async with Admin(settings.kafka) as admin:
        found = await admin.describe(settings.results_topic, *names)
        results = found.get(settings.results_topic)
        if results is None:
            msg = f"no topic {settings.results_topic!r}; create it with: millrace topics --create"
            raise BrokerError(msg)
        if not all(name in found for name in names):
            await create(admin, results, [name for name in names if name not in found])
            found = await admin.settled(*names)
        grown = await enlarge(admin, results, [found[name] for name in names if name in found])
        if grown:
            found = await admin.settled(*names, grown=dict.fromkeys(grown, results.partitions))
    await require_access(settings.kafka, read=names, write=names)
    for name in names:
        topic = found.get(name)
        if topic is None:
            msg = (
                f"no topic {name!r}, and the broker does not let us; create it with: millrace topics --create; "
                "or answer without tables: --role answer"
            )
            raise BrokerError(msg)
        if topic.cleanup is not None and topic.cleanup != "compact":
            logger.warning(
                "topic %r has cleanup.policy=%s: rows that Kafka deletes are missing from the tables after a "
                "restart; set cleanup.policy=compact",
                name,
                topic.cleanup,
            )
    return Changelogs([found[name] for name in names], results.partitions)


async def enlarge(admin: Admin, results: Topic, topics: Sequence[Topic]) -> list[str]:
    """Give changelogs as many partitions as the results have, as far as the broker allows; returns those that grew, by
    this worker or, at the same moment, by another. Rows of the existing partitions stay where they are.
    """
    grown = []
    for topic in topics:
        if topic.partitions < results.partitions:
            try:
                ours = await admin.enlarge(topic.name, results.partitions)
            except BrokerError as exc:
                logger.warning("%s", exc)
                continue
            grown.append(topic.name)
            if ours:
                logger.info("topic %s: %d partitions, as many as %s has, were %d",
                            topic.name, results.partitions, results.name, topic.partitions)  # fmt: skip
    return grown


async def create(admin: Admin, results: Topic, names: Sequence[str], replication: int = -1) -> None:
    """Create changelogs for this results topic, as far as the broker allows."""
    sizes = {} if results.max_bytes is None else {"max.message.bytes": str(results.max_bytes)}
    for name in names:
        try:
            await admin.create(name, results.partitions, replication, **CONFIG, **sizes)
        except BrokerError as exc:
            logger.warning("%s", exc)
        else:
            logger.info("created topic %s", name)
