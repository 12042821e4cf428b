"""Topics that patterns match: found at the start, and read as they appear, while the rest goes on.

Every worker looks at the same moments, so that the group is rebalanced once. The rebalance is one like any other: what
is in progress is finished and committed before. A topic that nobody has committed is read from its first record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import ConsumerStoppedError, KafkaError

from models.errors import BrokerError
from streams.config.settings import Kafka
from streams.kafka.client import METADATA_AGE, BrokerConnection
from streams.kafka.cluster import READ, Topic, all_topics

logger = logging.getLogger(__name__)

LOOK_TIMEOUT = 5.0
"""Seconds that one look may take."""
LISTED = 20
"""Names in a line of the log."""

Matches = Callable[[str], bool]


async def existing(kafka: Kafka) -> Mapping[str, Topic]:
    """Return all topics that we may know of. Raises BrokerError."""
    async with BrokerConnection(kafka) as connection:
        try:
            return await all_topics(connection.send)
        except NotImplementedError:
            msg = f"Kafka at {kafka.bootstrap_servers} is too old for patterns of topics: use Apache Kafka 2.3 or later"
            raise BrokerError(msg) from None


class PatternTopics:
    """The topics of one app that patterns match: `topics`, those that are read now, by name; `partitions`: how many
    each was found with.

    `matches` decides on names; `named` are read in any case.
    """

    def __init__(self, app: Any, what: str, matches: Matches, named: Collection[str]) -> None:
        self._app = app
        self._what = what
        self._matches = matches
        self._named = frozenset(named)
        self._gone: frozenset[str] = frozenset()
        self._refused: frozenset[str] = frozenset()
        self.topics: Mapping[str, Topic] = {}
        self.partitions: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """Return the names of all topics that are read now."""
        return sorted({*self._named, *self.topics})

    def find(self, existing: Mapping[str, Topic]) -> dict[str, Topic]:
        """Return those that match and may be read. Logs those that may not, once."""
        matching = {name: topic for name, topic in existing.items() if self._matches(name) and name not in self._named}
        refused = {name for name, topic in matching.items() if topic.granted is not None and READ not in topic.granted}
        if new := refused - self._refused:
            logger.warning("%s: not read, as Read is not granted: %s", self._what, _listed(new))
        self._refused = frozenset(refused)
        found = {name: topic for name, topic in matching.items() if name not in refused}
        self.partitions.update((name, len(topic.partitions)) for name, topic in found.items())
        return found

    def begin(self, existing: Mapping[str, Topic]) -> None:
        """Take what matches before the app subscribes."""
        self.topics = self.find(existing)
        self._admit()
        logger.info("%s: its patterns match %s", self._what, _listed(self.topics) or "no topic yet")

    async def follow(self) -> None:
        """Look again and again, and read what has appeared; what is gone is read no more."""
        while True:
            await asyncio.sleep(METADATA_AGE - time.time() % METADATA_AGE)
            if self._app.started and not self._app.should_stop and not self._app.rebalancing:
                try:
                    async with asyncio.timeout(LOOK_TIMEOUT):
                        await self.look()
                except (KafkaError, TimeoutError, ConsumerStoppedError) as exc:
                    logger.debug("%s: topics could not be listed: %r", self._what, exc)  # TopicWatch reports it

    async def look(self) -> None:
        """Look once."""
        self._app.holder.watch.may_go |= frozenset(self.topics)
        thread = self._app.holder._thread
        found = self.find(await thread.call(_topics_of(thread._ensure_consumer())))
        gone = self.topics.keys() - found.keys()
        kept = {name: self.topics[name] for name in gone - self._gone}  # a broker that starts may not know all of them
        self._gone = frozenset(gone)
        if not await self._read({**found, **kept}):
            return
        if new := found.keys() - self.topics.keys():
            logger.info("%s: new topics match its patterns: %s", self._what, _listed(new))
        if lost := gone - kept.keys():
            logger.warning("%s: topics are gone: %s", self._what, _listed(lost))
        self.topics = {**found, **kept}
        self._app.holder.watch.may_go |= frozenset(self.topics)  # also what is gone: the watch may have seen it last

    async def _read(self, topics: Mapping[str, Topic]) -> bool:
        """Have the app read these and no others; returns whether it does: a rebalance in progress has to end first."""
        if topics.keys() == self.topics.keys():
            return True
        before, self.topics = self.topics, {**self.topics, **topics}
        self._admit()
        self.topics = before
        thread, names = self._app.holder._thread, {*self._named, *topics}
        if not before and not self._named:
            await thread.subscribe(names)
            return True
        return bool(await thread.call(_change(thread._ensure_consumer(), names)))

    def _admit(self) -> None:
        """Let the app's channels take what comes from the topics; nothing comes that is not subscribed to."""
        for channel in (*self._app.topics, *(agent.channel for agent in self._app.agents.values())):
            channel.topics = self.names


async def _topics_of(consumer: AIOKafkaConsumer) -> Mapping[str, Topic]:
    client = consumer._client
    return await all_topics(lambda request: client.send(client.get_random_node(), request))


async def _change(consumer: AIOKafkaConsumer, topics: Collection[str]) -> bool:  # a coroutine, for the thread's loop
    """Change what a member subscribes to and let it join its group again: by a rebalance like any other, in which it
    commits first. aiokafka's `subscribe` would end its assignment before. False while a rebalance is in progress.
    """
    subscription = consumer._subscription.subscription
    if subscription is None or subscription._reassignment_in_progress:
        return False
    subscription._topics = frozenset(topics)
    consumer._client.set_topics(topics)
    consumer._coordinator.request_rejoin()
    return True


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"
