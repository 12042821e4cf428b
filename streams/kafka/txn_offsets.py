"""A group's offsets in transactions, as brokers fence them since 2.5 (KIP-447), which aiokafka does not speak.

TxnOffsetCommit 3 carries generation and member id: the group's coordinator refuses a member that the group has left
behind. OffsetFetch 7 does not return an offset as long as a transaction that would change it is open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition, errors
from aiokafka.client import CoordinationType
from aiokafka.producer.sender import TxnOffsetCommitHandler
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)
from aiokafka.structs import OffsetAndMetadata

from models.errors import BrokerError
from streams.config.settings import Kafka
from streams.kafka.client import BrokerConnection
from streams.kafka.commits import Commits, fetched
from streams.kafka.lease import Member

MOVED_ON = {22: "ILLEGAL_GENERATION", 25: "UNKNOWN_MEMBER_ID", 27: "REBALANCE_IN_PROGRESS", 82: "FENCED_INSTANCE_ID",
            113: "STALE_MEMBER_EPOCH"}  # fmt: skip
"""Errors by which the coordinator says that the group goes on without us."""
PRODUCER_FENCED = 90
"""The newer of two codes; the older one is INVALID_PRODUCER_EPOCH."""


class GroupMovedOn(errors.KafkaError):
    """The group has other members or another generation now: what this transaction did is another's to do."""


class _CommitResponse(Response):
    API_KEY, API_VERSION = 28, 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("topics", CompactArray(
            ("name", CompactString("utf-8")),
            ("partitions", CompactArray(("partition", Int32), ("error_code", Int16), ("tags", TaggedFields))),
            ("tags", TaggedFields),
        )),
        ("tags", TaggedFields),
    )  # fmt: skip


class _CommitStruct(RequestStruct):
    API_KEY, API_VERSION = 28, 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _CommitResponse
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")), ("group_id", CompactString("utf-8")),
        ("producer_id", Int64), ("producer_epoch", Int16), ("generation_id", Int32),
        ("member_id", CompactString("utf-8")), ("group_instance_id", CompactString("utf-8")),
        ("topics", CompactArray(
            ("name", CompactString("utf-8")),
            ("partitions", CompactArray(
                ("partition", Int32), ("offset", Int64), ("leader_epoch", Int32),
                ("metadata", CompactString("utf-8")), ("tags", TaggedFields),
            )),
            ("tags", TaggedFields),
        )),
        ("tags", TaggedFields),
    )  # fmt: skip


class _CommitRequest(Request[_CommitStruct]):
    API_KEY = 28

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, struct: type[_CommitStruct]) -> _CommitStruct:
        return struct(*self._fields, {})


class _FetchResponse(Response):
    API_KEY, API_VERSION = 9, 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("topics", CompactArray(
            ("name", CompactString("utf-8")),
            ("partitions", CompactArray(
                ("partition", Int32), ("offset", Int64), ("leader_epoch", Int32),
                ("metadata", CompactString("utf-8")), ("error_code", Int16), ("tags", TaggedFields),
            )),
            ("tags", TaggedFields),
        )),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )  # fmt: skip


class _FetchStruct(RequestStruct):
    API_KEY, API_VERSION = 9, 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _FetchResponse
    SCHEMA = Schema(
        ("group_id", CompactString("utf-8")),
        ("topics", CompactArray(
            ("name", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields),
        )),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )  # fmt: skip


class _FetchRequest(Request[_FetchStruct]):
    API_KEY = 9

    def __init__(self, group: str, partitions: Iterable[TopicPartition]) -> None:
        self._group = group
        self._topics = _by_topic((tp, tp.partition) for tp in partitions)

    def build(self, struct: type[_FetchStruct]) -> _FetchStruct:
        return struct(self._group, self._topics, True, {})  # noqa: FBT003  in the order of the schema


def _by_topic(entries: Iterable[tuple[Any, Any]]) -> list[tuple[str, list[Any], dict[int, bytes]]]:
    topics: defaultdict[str, list[Any]] = defaultdict(list)
    for tp, entry in entries:
        topics[tp.topic].append(entry)
    return [(topic, found, {}) for topic, found in topics.items()]


class _FencedCommit(TxnOffsetCommitHandler):
    """aiokafka's step of a transaction, with generation and member id."""

    def __init__(
        self, sender: Any, offsets: Mapping[TopicPartition, OffsetAndMetadata], group: str, member: Member
    ) -> None:
        super().__init__(sender, offsets, group)
        self._member = member

    def create_request(self) -> _CommitRequest:
        manager = self._sender._txn_manager
        topics = _by_topic((tp, (tp.partition, each.offset, -1, each.metadata, {}))
                           for tp, each in sorted(self._offsets.items()))  # fmt: skip
        return _CommitRequest(
            manager.transactional_id, self._group_id, manager.producer_id, manager.producer_epoch,
            self._member.generation, self._member.id, None, topics,
        )  # fmt: skip

    def handle_response(self, response: Any) -> float | None:
        """Return the seconds until another try, None if there is none. Raises KafkaError for what ends the producer."""
        manager = self._sender._txn_manager
        found = {TopicPartition(topic, each[0]): each[1] for topic, entries, _ in response.topics for each in entries}
        if codes := {*found.values()} - {0}:
            if moved := codes & MOVED_ON.keys():
                manager.error_transaction(GroupMovedOn(MOVED_ON[min(moved)]))
                return None
            return self._refused(min(codes))
        for tp in found:
            manager.offset_committed(tp, self._offsets[tp].offset, self._group_id)
        return None

    def _refused(self, code: int) -> float | None:
        error = errors.for_code(code)
        if code == PRODUCER_FENCED or error is errors.InvalidProducerEpoch:
            raise errors.ProducerFenced
        if error in (errors.OffsetMetadataTooLargeError, errors.GroupAuthorizationFailedError):
            self._sender._txn_manager.error_transaction(error(self._group_id))
            return None
        if not getattr(error, "retriable", False):
            raise error(self._group_id)
        if error is not errors.UnknownTopicOrPartitionError:
            self._sender._coordinator_dead(CoordinationType.GROUP)
        return float(self._default_backoff)


def fence_offsets(producer: Any, member: Member) -> None:
    """Have the offsets that a producer of aiokafka sends from now on be those of a member of their group."""
    sender = producer._sender

    async def commit(offsets: Mapping[TopicPartition, OffsetAndMetadata], group: str) -> None:
        try:
            node = await sender._find_coordinator(CoordinationType.GROUP, group)
        except errors.GroupAuthorizationFailedError as exc:
            sender._txn_manager.error_transaction(exc)
            return
        await _FencedCommit(sender, offsets, group, member).do(node)

    sender._do_txn_offset_commit = commit


async def stable_commits(coordinator: Any, partitions: Sequence[TopicPartition]) -> Commits:
    """Do what `commits` does. Raises UnstableOffsets as long as a transaction may still change one of them."""
    return await fetched(coordinator, _FetchRequest(coordinator.group_id, partitions))


async def require_fencing(kafka: Kafka) -> None:
    """Raise BrokerError if the broker is too old to fence a transaction's offsets."""
    async with BrokerConnection(kafka) as connection:
        if connection.takes(_CommitStruct) and connection.takes(_FetchStruct):
            return
    msg = (
        f"Kafka at {kafka.bootstrap_servers} is too old for MILLRACE_DELIVERY=exactly-once, which needs Kafka "
        "2.5 or newer: set at-least-once, or upgrade the brokers"
    )
    raise BrokerError(msg)
