"""A group's commits, read so that an error of its coordinator is not taken for a group that has committed nothing.

From OffsetFetch 2 on (KIP-88), what fails for a whole group, as at a coordinator that has moved or is loading, is at
the top of the response, and its list of topics is empty. aiokafka 0.14 looks at the topics alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition, errors
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

UNSTABLE_OFFSET_COMMIT = 88

Commits = Mapping[TP, OffsetAndMetadata]
"""By partition, of those that have one."""


class UnstableOffsets(errors.KafkaError):
    """A transaction that commits these offsets is open."""

    retriable = True

    def __str__(self) -> str:
        return "a former owner's transaction is open, until Kafka ends it"


async def commits(coordinator: Any, partitions: Sequence[TopicPartition]) -> Commits:
    """Return a group's commits of these partitions, by the group's coordinator of an aiokafka consumer.

    Raises KafkaError, which is retriable where another try may help.
    """
    topics: defaultdict[str, list[int]] = defaultdict(list)
    for tp in partitions:
        topics[tp.topic].append(tp.partition)
    return await fetched(coordinator, OffsetFetchRequest(coordinator.group_id, list(topics.items())))


async def all_commits(admin: Any, group: str) -> Commits:
    """Return all commits of a group, by an admin client of aiokafka. Raises KafkaError."""
    node = await admin.find_coordinator(group)
    return _found(group, await admin._send_request(OffsetFetchRequest(group, None), node))


async def fetched(coordinator: Any, request: Any) -> Commits:
    """Return what a group's coordinator answers to an OffsetFetch of any version."""
    await coordinator.ensure_coordinator_known()
    response = await coordinator._send_req(request)
    try:
        return _found(coordinator.group_id, response)
    except errors.NotCoordinatorForGroupError:
        coordinator.coordinator_dead()  # it is looked for again
        raise


def _found(group: str, response: Any) -> Commits:
    _require(getattr(response, "error_code", 0), group)
    found = {}
    for topic, partitions, *_ in response.topics:
        for partition, offset, metadata, code in map(_fields, partitions):
            _require(code, group)
            if offset >= 0 and not code:
                found[TP(topic, partition)] = OffsetAndMetadata(offset, metadata or "")
    return found


def _fields(partition: Sequence[Any]) -> Iterable[Any]:
    """Return partition, offset, metadata and code: from version 5 on, an epoch is behind the offset, and tags last."""
    number, offset, *rest = partition
    metadata, code = rest[-3:-1] if len(rest) > 2 else rest  # noqa: PLR2004
    return number, offset, metadata, code


def _require(code: int, group: str) -> None:
    if code == UNSTABLE_OFFSET_COMMIT:
        raise UnstableOffsets
    error = errors.for_code(code)
    if code and error is not errors.UnknownTopicOrPartitionError:
        raise error(group)
