"""Metadata that aiokafka cannot request: brokers, topics with their ids, and which operations we may use (KIP-430)."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka.errors import (
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.admin import DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.types import (
    AbstractType,
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    String,
    TaggedFields,
)

from models.errors import AccessError
from streams.config.settings import Kafka
from streams.kafka.client import BrokerConnection
from streams.kafka.commit_metadata import Identity

READ, WRITE, CREATE, DESCRIBE, DESCRIBE_CONFIGS, IDEMPOTENT_WRITE = 3, 4, 5, 8, 10, 12
"""Kafka's numbers of operations (org.apache.kafka.common.acl.AclOperation)."""
OPERATIONS = {READ: "Read", WRITE: "Write", CREATE: "Create", DESCRIBE: "Describe",
              DESCRIBE_CONFIGS: "DescribeConfigs", IDEMPOTENT_WRITE: "IdempotentWrite"}  # fmt: skip
UNKNOWN = -(1 << 31)
"""The value of a broker that does not return granted operations."""
_OF_TRANSACTIONS = 1
"""Kafka's number for the coordinator of a transactional id, as opposed to a group."""
MAX_OPERATIONS = 31
MAX_STRING = (1 << 15) - 1
"""Bytes of a string on the wire."""
NO_ID = bytes(16)
"""The id of a topic that has none: its broker is older than 2.8, or no Kafka."""


class Broker(NamedTuple):
    """A broker, at the address that it advertises."""

    id: int
    host: str
    port: int


class Partition(NamedTuple):
    """A partition: its leader (-1: none), and how many replicas it has, and has in sync."""

    number: int
    leader: int
    replicas: int
    in_sync: int


class Topic(NamedTuple):
    """A topic; `granted` is None where the broker does not say, `visible` whether we may know of it at all, `id` is
    empty where it has none.
    """

    name: str
    exists: bool
    visible: bool
    partitions: tuple[Partition, ...]
    granted: frozenset[int] | None
    id: str = ""


class Cluster(NamedTuple):
    """Brokers, the requested topics, and which operations we may use on the cluster as such."""

    brokers: tuple[Broker, ...]
    topics: dict[str, Topic]
    granted: frozenset[int] | None


class _Uuid(AbstractType[bytes]):
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(len(NO_ID))


class _Metadata8Response(Response):
    API_KEY, API_VERSION = 3, 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8")))),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        ("topics", Array(
            ("error_code", Int16), ("name", String("utf-8")), ("is_internal", Boolean),
            ("partitions", Array(
                ("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32),
                ("replicas", Array(Int32)), ("isr", Array(Int32)), ("offline_replicas", Array(Int32)),
            )),
            ("authorized_operations", Int32),
        )),
        ("authorized_operations", Int32),
    )  # fmt: skip


class _Metadata8(RequestStruct):
    API_KEY, API_VERSION = 3, 8
    RESPONSE_TYPE = _Metadata8Response
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))), ("allow_auto_topic_creation", Boolean),
        ("cluster_operations", Boolean), ("topic_operations", Boolean),
    )  # fmt: skip


class _Metadata10Response(Response):
    """The first version with topic ids (KIP-516, Kafka 2.8)."""

    API_KEY, API_VERSION = 3, 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(
            ("node_id", Int32), ("host", CompactString("utf-8")), ("port", Int32), ("rack", CompactString("utf-8")),
            ("tags", TaggedFields),
        )),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        ("topics", CompactArray(
            ("error_code", Int16), ("name", CompactString("utf-8")), ("id", _Uuid), ("is_internal", Boolean),
            ("partitions", CompactArray(
                ("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32),
                ("replicas", CompactArray(Int32)), ("isr", CompactArray(Int32)),
                ("offline_replicas", CompactArray(Int32)), ("tags", TaggedFields),
            )),
            ("authorized_operations", Int32), ("tags", TaggedFields),
        )),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )  # fmt: skip


class _Metadata10(RequestStruct):
    API_KEY, API_VERSION = 3, 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Metadata10Response
    SCHEMA = Schema(
        ("topics", CompactArray(("id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean), ("cluster_operations", Boolean), ("topic_operations", Boolean),
        ("tags", TaggedFields),
    )  # fmt: skip


class _MetadataRequest(Request[_Metadata8 | _Metadata10]):
    API_KEY = 3

    def __init__(self, topics: Collection[str] | None, *, operations: bool = False) -> None:
        self._topics = None if topics is None else sorted(topics)
        self._operations = operations

    def build(self, struct: type[_Metadata8 | _Metadata10]) -> _Metadata8 | _Metadata10:
        operations = self._operations
        if struct is _Metadata8:
            return struct(self._topics, False, operations, operations)  # noqa: FBT003  in the order of the schema
        topics: list[Any] | None = None if self._topics is None else [(NO_ID, name, {}) for name in self._topics]
        return struct(topics, False, operations, operations, {})  # noqa: FBT003  in the order of the schema


class _GroupsStruct(RequestStruct):
    API_KEY, API_VERSION = 15, 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3  # aiokafka's own request reads it as version 2
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("operations", Boolean))


class _GroupsRequest(Request[_GroupsStruct]):
    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, struct: type[_GroupsStruct]) -> _GroupsStruct:
        return struct([self._group], True)  # noqa: FBT003  in the order of the schema


async def survey(connection: BrokerConnection, topics: Collection[str]) -> Cluster | None:
    """Return brokers and these topics, none of which is made by asking; None if the broker is too old to say."""
    if not (connection.takes(_Metadata8) or connection.takes(_Metadata10)):
        return None
    answer = await connection.send(_MetadataRequest(topics, operations=True))
    return Cluster(
        tuple(Broker(*each[:3]) for each in answer.brokers),
        {topic.name: topic for topic in _topics(answer)},
        _operations(answer.authorized_operations),
    )


def _topics(answer: Any) -> Iterator[Topic]:
    fields = answer.SCHEMA.fields[4].array_of.names
    for values in answer.topics:
        each = dict(zip(fields, values, strict=True))
        error = each["error_code"]
        yield Topic(
            each["name"], not error, error != TopicAuthorizationFailedError.errno,
            tuple(Partition(found[1], found[2], len(found[4]), len(found[5])) for found in each["partitions"]),
            _operations(each["authorized_operations"]),
            "" if each.get("id", NO_ID) == NO_ID else base64.urlsafe_b64encode(each["id"]).decode().rstrip("="),
        )  # fmt: skip


async def identify(send: Callable[[Any], Awaitable[Any]], topics: Collection[str]) -> Mapping[str, Identity | None]:
    """Return which topics these names are now, None for one that does not exist; none is made by asking.

    `send` sends a request to any broker and returns the response. Raises what it raises.
    """
    try:
        response = await send(_MetadataRequest(topics))
    except NotImplementedError:  # a broker too old to say
        return {name: Identity("", "") for name in topics}
    cluster = response.cluster_id or ""
    return {topic.name: Identity(cluster, topic.id) if topic.exists else None for topic in _topics(response)}


async def identify_by(client: Any, topics: Collection[str]) -> Mapping[str, Identity | None]:
    """Do the same by one of aiokafka's clients. Raises KafkaError."""
    return await identify(lambda request: client.send(client.get_random_node(), request), topics)


async def all_topics(send: Callable[[Any], Awaitable[Any]]) -> Mapping[str, Topic]:
    """Return all topics that we may know of. Raises NotImplementedError before Kafka 2.3, and what `send` raises."""
    response = await send(_MetadataRequest(None, operations=True))
    return {topic.name: topic for topic in _topics(response) if topic.exists}


async def granted_on_group(kafka: Kafka, connection: BrokerConnection, group: str) -> frozenset[int] | None:
    """Return what we may do with a group, None if nobody says."""
    if not connection.takes(_GroupsStruct) or len(group.encode()) > MAX_STRING:
        return None
    place = await connection.send(FindCoordinatorRequest(group, 0))
    if place.error_code == GroupAuthorizationFailedError.errno:
        return frozenset()
    if place.error_code == CoordinatorNotAvailableError.errno:  # the first group of a cluster
        return None
    async with BrokerConnection(kafka, (place.host, place.port)) as coordinator:
        [answer] = (await coordinator.send(_GroupsRequest(group))).groups
    return frozenset() if answer[0] == GroupAuthorizationFailedError.errno else _operations(answer[-1])


async def may_use_transactions(connection: BrokerConnection, transactional_id: str) -> bool:
    """Whether we may describe a transactional id, as all may that may write with it."""
    place = await connection.send(FindCoordinatorRequest(transactional_id, _OF_TRANSACTIONS))
    return bool(place.error_code != TransactionalIdAuthorizationFailed.errno)


def _operations(bits: int) -> frozenset[int] | None:
    return None if bits == UNKNOWN else frozenset(n for n in range(MAX_OPERATIONS) if bits >> n & 1)


async def require_access(
    kafka: Kafka, *, read: Collection[str] = (), write: Collection[str] = (), groups: Collection[str] = ()
) -> None:
    """See that we may read and write these topics and belong to these groups. Raises AccessError naming all that is
    missing; what the broker does not say is taken to be granted.
    """
    async with BrokerConnection(kafka) as connection:
        cluster = await survey(connection, {*read, *write})
        missing = [] if cluster is None else list(_missing(cluster, read, write))
        for group in groups:
            granted = await granted_on_group(kafka, connection, group)
            if granted is not None and READ not in granted:
                missing.append(f"Read on group {group!r}")
    if missing:
        raise AccessError(refusal(kafka, missing))


def refusal(kafka: Kafka, missing: Collection[str]) -> str:
    """Return a message that names the missing ACLs, and the principal to grant them to."""
    who = principal(kafka)
    return f"Kafka at {kafka.bootstrap_servers} refuses access: grant{f' {who}' if who else ''} {', '.join(missing)}"


def principal(kafka: Kafka) -> str | None:
    """Return our principal, where the settings say it."""
    if not kafka.security_protocol.startswith("SASL"):
        return "User:ANONYMOUS" if kafka.security_protocol == "PLAINTEXT" else None
    return None if kafka.sasl_mechanism == "OAUTHBEARER" else f"User:{kafka.sasl_username}"


def _missing(cluster: Cluster, read: Collection[str], write: Collection[str]) -> Iterator[str]:
    for operation, names in ((READ, read), (WRITE, write)):
        for name in names:
            topic = cluster.topics.get(name)
            if topic is None or (topic.visible and not topic.exists):
                continue  # `require` reports it
            if not topic.visible or (topic.granted is not None and operation not in topic.granted):
                yield f"{OPERATIONS[operation]} on topic {name!r}"
