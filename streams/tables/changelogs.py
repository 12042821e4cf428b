"""The tables' changelogs on Kafka: their names, and making them where the broker lets us.

One a table, compacted, with as many partitions as results have: partition N of each has what counts results' N.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from models.errors import BrokerError
from streams.kafka.cluster import require_access
from streams.kafka.topics import Admin, Topic
from streams.settings import Settings

logger = logging.getLogger(__name__)

TABLES = ("answers", "hosts", "outcomes", "checks")
CONFIG = {
    "cleanup.policy": "compact",
    # Only whole segments are compacted: with Kafka's 1 GiB, a recovery would read many rows that are long replaced.
    "segment.bytes": str(64 << 20),
    "min.cleanable.dirty.ratio": "0.2",
}


def changelogs(settings: Settings) -> dict[str, str]:
    """Return each table's changelog, named after the group, as Faust would: two installations do not collide."""
    return {table: f"{settings.group}-tables-{table}-changelog" for table in TABLES}


async def prepare(settings: Settings) -> Sequence[Topic]:
    """Return the changelogs, made if they were missing. Raises BrokerError saying what to do about what cannot be."""
    names = list(changelogs(settings).values())
    group = f"{settings.group}-tables"
    await require_access(settings.kafka, read=[settings.results_topic], groups=[group])
    async with Admin(settings.kafka) as admin:
        found = await admin.describe(settings.results_topic, *names)
        results = found.get(settings.results_topic)
        if results is None:
            msg = f"no topic {settings.results_topic!r}; create it with: millrace topics --create"
            raise BrokerError(msg)
        if not all(name in found for name in names):
            await create(admin, results, [name for name in names if name not in found])
            found = await admin.settled(*names)
    await require_access(settings.kafka, read=names, write=names)
    for name in names:
        topic = found.get(name)
        if topic is None:
            msg = (
                f"no topic {name!r}, and the broker does not let us make it; create it with: millrace topics --create; "
                "or answer without tables: --role answer"
            )
            raise BrokerError(msg)
        if topic.partitions != results.partitions:
            msg = (
                f"topic {name!r} has {topic.partitions} partitions, {results.name!r} has {results.partitions}: "
                "they must be as many; delete it, and a worker counts anew from the results that are still there"
            )
            raise BrokerError(msg)
        if topic.cleanup is not None and topic.cleanup != "compact":
            logger.warning("topic %r has cleanup.policy=%s: rows that Kafka deletes are missing after a restart",
                           name, topic.cleanup)  # fmt: skip
    return [found[name] for name in names]


async def create(admin: Admin, results: Topic, names: Sequence[str], replication: int = -1) -> None:
    """Make changelogs for this results topic, as far as the broker lets us."""
    sizes = {} if results.max_bytes is None else {"max.message.bytes": str(results.max_bytes)}
    for name in names:
        try:
            await admin.create(name, results.partitions, replication, **CONFIG, **sizes)
        except BrokerError as exc:
            logger.warning("%s", exc)
        else:
            logger.info("created topic %s", name)
