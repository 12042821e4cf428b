"""The contract's topics: create them, or verify them and say what differs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidPartitionsError, KafkaError, TopicAlreadyExistsError, for_code

from models.errors import BrokerError, reason_of
from models.route import Route
from streams.config.settings import Kafka, Settings
from streams.kafka import client
from streams.kafka.cluster import require_access
from streams.kafka.errors import explain

DEFAULT_PARTITIONS = 8
"""Partitions of a topic that `millrace topics --create` makes: the most workers that can share it."""
REQUEST_TIMEOUT = 15.0
"""Seconds that one request to the broker may take."""
SETTLE_TRIES, SETTLE_PAUSE = 50, 0.1
"""How often and at what interval, in seconds, a new topic is looked for."""
SIZE_SETTING = "max.message.bytes"
NOT_USED = ", so workers make dead letters at once"
"""What is added about a delay topic that does not keep what waits there."""
SPARE = 86_400
"""Seconds beyond its delay for which a delay topic should keep a record: workers may be away for so long."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the broker has it. `max_bytes` is None where the broker does not say (no permission, no support)."""

    name: str
    partitions: int
    replication: int
    max_bytes: int | None = None
    cleanup: str | None = None
    retention_ms: int | None = None


class Admin:
    """An admin connection, opened with `async with`. Raises BrokerError when the broker is not there.

    Its limits are `timeout`s: Python 3.11's `wait_for` loses a stop that comes together with the answer.
    """

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        opening = client.admin(self._kafka, "millrace-admin", REQUEST_TIMEOUT)
        self._client = await self._stack.enter_async_context(opening)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def describe(self, *names: str) -> dict[str, Topic]:
        """Return those of the topics that exist.

        Requests all topics: a broker with auto-creation, Kafka's default, creates one that is requested by name.
        """
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                found = await self._client.describe_topics()
        except (KafkaError, TimeoutError) as exc:
            raise explain(exc, self._kafka) from exc
        topics: dict[str, Topic] = {}
        for each in found:
            if each["topic"] in names and each["error_code"] == 0 and each["partitions"]:
                replicas = each["partitions"][0]["replicas"]
                settings = await self._settings(each["topic"])
                size, kept = settings.get(SIZE_SETTING), settings.get("retention.ms")
                topics[each["topic"]] = Topic(
                    each["topic"], len(each["partitions"]), len(replicas),
                    int(size) if size else None, settings.get("cleanup.policy"),
                    int(kept) if kept else None,
                )  # fmt: skip
        return topics

    async def mention(self, *names: str) -> None:
        """Ask for topics by name, which makes them on a mock cluster: it has no other way."""
        async with asyncio.timeout(REQUEST_TIMEOUT):
            await self._client.describe_topics(list(names))

    async def settled(self, *names: str, grown: Mapping[str, int] = MappingProxyType({})) -> dict[str, Topic]:
        """Return the topics once all are there, and those `grown` have their partitions: a broker lists what is new a
        moment after creating it.
        """
        for _ in range(SETTLE_TRIES):
            found = await self.describe(*names)
            if len(found) == len(names) and all(found[name].partitions >= size for name, size in grown.items()):
                break
            await asyncio.sleep(SETTLE_PAUSE)
        return found

    async def create(self, name: str, partitions: int, replication: int = -1, **config: str) -> bool:
        """Create a topic; False if it is there already. A replication of -1 is the broker's default (KIP-464)."""
        topic = NewTopic(name, partitions, 1, topic_configs=config)
        topic.replication_factor = replication  # its constructor refuses -1, the protocol does not
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                response = await self._client.create_topics([topic])
            for _, code, *message in response.topic_errors:
                if code:
                    raise for_code(code)(*message)
        except TopicAlreadyExistsError:
            return False
        except (KafkaError, TimeoutError) as exc:
            msg = f"topic {name!r} could not be created: {reason_of(exc)}"
            raise BrokerError(msg) from exc
        except AttributeError:  # aiokafka sends this to the controller, which a mock cluster has not
            await self.mention(name)
        return True

    async def enlarge(self, name: str, partitions: int) -> bool:
        """Give a topic more partitions; False if somebody else did so a moment ago. Raises BrokerError."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                response = await self._client.create_partitions({name: NewPartitions(partitions)})
            for _, code, *message in response.topic_errors:
                if code:
                    raise for_code(code)(*message)
        except InvalidPartitionsError:  # a topic with as many, or more, refuses them so
            return False
        except (KafkaError, TimeoutError) as exc:
            msg = f"topic {name!r} could not be given {partitions} partitions: {reason_of(exc)}"
            raise BrokerError(msg) from exc
        return True

    async def _settings(self, name: str) -> dict[str, str]:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                responses = await self._client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        except (KafkaError, TimeoutError, NotImplementedError):
            return {}  # a broker may refuse this: the defaults apply
        return {
            entry[0]: entry[1]
            for response in responses
            for code, _, _, _, entries in response.resources
            if code == 0
            for entry in entries
        }


async def require(
    kafka: Kafka, *others: str, read: Collection[str] = (), write: Collection[str] = (), groups: Collection[str] = ()
) -> dict[str, Topic]:
    """Return topics that must be there, some of them to be read and written by us, as members of these groups.

    Raises BrokerError naming those that are not, or what we may not do with them, and what to do about it.
    """
    names = list(dict.fromkeys([*others, *read, *write]))
    await require_access(kafka, read=read, write=write, groups=groups)
    async with Admin(kafka) as admin:
        found = await admin.describe(*names)
    missing = [repr(name) for name in names if name not in found]
    if missing:
        msg = f"no topic {', '.join(missing)} at {kafka.bootstrap_servers}; create it with: millrace topics --create"
        raise BrokerError(msg)
    return found


def differences(settings: Settings, found: Mapping[str, Topic]) -> list[str]:
    """Say, a line each, what is missing and what will not work well as it is."""
    lines = [f"topic {name!r} does not exist" for name in settings.topics() if name not in found]
    requests, results, letters = (found.get(name) for name in settings.topics())
    if requests and results and requests.partitions != results.partitions:
        lines.append(
            f"topic {results.name!r} has {results.partitions} partitions, {requests.name!r} has {requests.partitions}: "
            "results go to the request's partition modulo theirs"
        )
    if requests and letters and letters.max_bytes and requests.max_bytes and letters.max_bytes < requests.max_bytes:
        lines.append(
            f"topic {letters.name!r} takes {letters.max_bytes} bytes a record, {requests.name!r} {requests.max_bytes}: "
            "the value of larger dead letters is left out"
        )
    lines += [
        f"topic {topic.name!r} is compacted: a result without a key is refused by the broker"
        for topic in (results, letters)
        if topic and "compact" in (topic.cleanup or "")
    ]
    return lines


def keeps(topic: Topic, delay: int) -> bool:
    """Whether a delay topic still has, as far as known, what has waited there for so many seconds."""
    expires = topic.retention_ms is not None and 0 <= topic.retention_ms <= delay * 1000
    return not expires and "compact" not in (topic.cleanup or "")


def delay_differences(delays: Mapping[str, int], found: Mapping[str, Topic]) -> Iterator[str]:
    """Say, a line each, what will not work with delay topics; `delays` has the seconds of each."""
    for name, delay in delays.items():
        topic = found.get(name)
        if topic is None:
            continue
        if "compact" in (topic.cleanup or ""):
            yield (
                f"topic {name!r} is compacted: Kafka deletes requests that wait there, so workers make dead letters of "
                "them at once; set cleanup.policy=delete"
            )
        if topic.retention_ms is not None and 0 <= topic.retention_ms < (delay + SPARE) * 1000:
            yield (
                f"topic {name!r} keeps records for {topic.retention_ms / 1000:g} s, and they wait there for {delay} s: "
                f"what is not taken up in time is lost{'' if keeps(topic, delay) else NOT_USED}; raise retention.ms"
            )


def route_differences(routes: Iterable[Route], dead_letters: str, found: Mapping[str, Topic]) -> list[str]:
    """Say, a line each, what will not work well with the topics of routes; `dead_letters` are the worker's."""
    lines: list[str] = []
    for route in routes:
        results, failures = found.get(route.results), found.get(route.failures or dead_letters)
        for read in filter(None, map(found.get, route.topics)):
            lines += [f"route {route.name}: {line}" for line in _misfits(read, results, failures)]
        own = (results, failures) if route.failures else (results,)
        lines += [
            f"route {route.name}: topic {topic.name!r} is compacted: a record without a key is refused by the broker"
            for topic in own
            if topic and "compact" in (topic.cleanup or "")
        ]
    return lines


def _misfits(read: Topic, results: Topic | None, failures: Topic | None) -> Iterator[str]:
    """Say where what is read from a topic does not fit the topics of the outputs and dead letters."""
    if results and results.partitions != read.partitions:
        yield (
            f"topic {results.name!r} has {results.partitions} partitions, {read.name!r} has {read.partitions}: "
            "outputs go to their key's partition"
        )
    for topic, outcome in ((results, "a larger output is too_large"),
                           (failures, "the value of larger dead letters is left out")):  # fmt: skip
        if topic and topic.max_bytes and read.max_bytes and topic.max_bytes < read.max_bytes:
            sizes = f"takes {topic.max_bytes} bytes a record, {read.name!r} {read.max_bytes}"
            yield f"topic {topic.name!r} {sizes}: {outcome}"
