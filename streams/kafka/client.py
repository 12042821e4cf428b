"""Opens clients of Kafka: `consumer`, `producer` and `admin` of aiokafka, and a connection to one broker.

Every client of this process but the groups' consumers is opened here. Each is a context manager that starts the client,
translates Kafka's errors, from the start and from inside, into BrokerError, and closes it in bounded time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache, partial
from typing import Any, Self, TypeAlias

import aiokafka.client
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.api import RequestStruct
from aiokafka.protocol.metadata import MetadataRequest

from models.errors import AccessError, BrokerError, SettingsError, reason_of
from streams.config.settings import Kafka
from streams.kafka import fetched  # noqa: F401  no consumer is opened without it
from streams.kafka.connection import Connection
from streams.kafka.errors import explain
from streams.kafka.oauthbearer import Provider
from streams.tls import Context

logger = logging.getLogger(__name__)

METADATA_AGE = 10.0
"""Seconds after which brokers, partitions and leaders are looked up again: added partitions are seen within them."""
FETCHER_TIMEOUT_IDLE = 1.0
"""Seconds after which aiokafka's fetching task looks around, though nothing woke it: answers, consumed records and new
leaders do."""
STOP_TIMEOUT = 5.0
"""Seconds that closing a client may take; a producer delivers meanwhile what it has in flight."""
CONNECTION_TIMEOUT = 10.0
"""Seconds that connecting to one broker, and each request to it, may take."""
# A consumer that looks for a deleted topic would create it, with the default number of partitions, where brokers allow
# that: a later proper creation then fails because the topic exists.
aiokafka.client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)

Records: TypeAlias = Mapping[TopicPartition, list[ConsumerRecord[bytes, bytes]]]


def connection(kafka: Kafka) -> dict[str, Any]:
    """Return the arguments that every aiokafka client of this process is opened with."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in kafka.bootstrap_servers.split(",")],
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = kafka.sasl_mechanism
        if kafka.sasl_mechanism == "OAUTHBEARER":
            arguments["sasl_oauth_token_provider"] = Provider(kafka)
        else:
            arguments |= {"sasl_plain_username": kafka.sasl_username, "sasl_plain_password": kafka.sasl_password}
    if kafka.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = ssl_context(kafka)
    return arguments


def caution(kafka: Kafka) -> str | None:
    """Return a warning about credentials that anybody on the network can read; None if there are none."""
    if kafka.security_protocol == "SASL_PLAINTEXT" and not kafka.sasl_mechanism.startswith("SCRAM"):
        return (
            f"KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT sends the login of {kafka.sasl_mechanism} in the clear: "
            "use SASL_SSL, or SCRAM"
        )
    return None


@lru_cache(maxsize=8)
def ssl_context(kafka: Kafka) -> Context:
    """Return the TLS context of this process's connections to the brokers. Raises SettingsError."""
    try:
        return Context(kafka.ssl_cafile, kafka.ssl_certfile, kafka.ssl_keyfile, lambda: kafka.ssl_password or "")
    except ValueError as exc:
        msg = f"KAFKA_SSL_*: the certificates cannot be loaded: {exc}"
        raise SettingsError(msg) from exc


def places(kafka: Kafka) -> list[tuple[str, int]]:
    """Return host and port of each bootstrap server."""
    pairs = (server.strip().rpartition(":") for server in kafka.bootstrap_servers.split(","))
    return [(host.strip("[]"), int(port)) for host, _, port in pairs]


def consumer(kafka: Kafka, *topics: str, **options: Any) -> AbstractAsyncContextManager[AIOKafkaConsumer]:
    """Open a consumer that belongs to no group and reads from the beginning, unless `options` says otherwise."""
    defaults: dict[str, Any] = {"enable_auto_commit": False, "auto_offset_reset": "earliest"}
    return _open(AIOKafkaConsumer, kafka, *topics, **(defaults | options))


def producer(
    kafka: Kafka, *, stop_timeout: float = STOP_TIMEOUT, **options: Any
) -> AbstractAsyncContextManager[AIOKafkaProducer]:
    """Open an idempotent producer (acks=all)."""
    defaults: dict[str, Any] = {"acks": "all", "enable_idempotence": True}
    return _open(AIOKafkaProducer, kafka, stop_timeout=stop_timeout, **(defaults | options))


def admin(kafka: Kafka, client_id: str, request_timeout: float) -> AbstractAsyncContextManager[AIOKafkaAdminClient]:
    """Open an admin client, whose requests may take so many seconds each."""
    return _open(AIOKafkaAdminClient, kafka, client_id=client_id, request_timeout_ms=int(request_timeout * 1000))


@asynccontextmanager
async def _open(
    make: Any, kafka: Kafka, *topics: str, stop_timeout: float = STOP_TIMEOUT, **options: Any
) -> AsyncIterator[Any]:
    client = make(*topics, **connection(kafka), **options)
    try:
        try:
            await client.start()
        except (KafkaError, OSError) as exc:  # TimeoutError is an OSError
            raise await reason(exc, kafka) from exc
        if isinstance(client, AIOKafkaConsumer):
            client._fetcher._fetcher_timeout = FETCHER_TIMEOUT_IDLE
        yield client
    except BrokenPipeError:  # the reader of our output is gone
        raise
    except (KafkaError, OSError) as exc:
        raise explain(exc, kafka) from exc
    finally:
        await close(client, stop_timeout)


async def close(client: Any, seconds: float = STOP_TIMEOUT) -> None:
    """Close a client of aiokafka; what it holds open beneath is closed when that takes too long, or fails."""
    try:
        async with asyncio.timeout(seconds):
            await (client.stop() if hasattr(client, "stop") else client.close())
    except asyncio.CancelledError:
        await _close_beneath(client)
        if _is_cancelled():
            raise  # else aiokafka let out the cancellation of its own fetches, as it does while the broker is away
    except Exception as exc:  # noqa: BLE001  aiokafka raises whatever has ended its tasks
        logger.info("closing the %s failed: %s", type(client).__name__, reason_of(exc))
        await _close_beneath(client)


async def _close_beneath(client: Any) -> None:
    if hasattr(client, "_sender"):
        abandon(client)
    beneath = _beneath(client)
    if beneath._sync_task is not None and beneath._sync_task.done():
        beneath._sync_task = None  # its error would be raised before any connection is closed
    try:
        await beneath.close()
    except asyncio.CancelledError:
        if _is_cancelled():
            raise  # else a connection that was already closing let out that nobody waited for it any longer
    finally:
        _end_look_up(beneath)


def _end_look_up(beneath: Any) -> None:
    """Have who waits for news of the brokers, now or later, go on without: nobody looks them up any more."""
    looked_up = beneath._md_update_fut or asyncio.get_running_loop().create_future()
    if not looked_up.done():
        looked_up.set_result(False)
    beneath._md_update_fut = looked_up


def abandon(producer: AIOKafkaProducer) -> None:
    """Have a producer send nothing any more. Else it goes on in the background, over connections that it opens anew:
    batches for partitions that come back would be written again, behind newer ones.
    """
    task = producer._sender.sender_task
    if task is None or task.done():
        return
    task.cancel()
    pending = producer._message_accumulator
    batches = _Batches(pending._pending_batches).union(*pending._batches.values())
    pending._pending_batches = _Batches(batches)
    pending.fail_all(errors.ProducerClosed())
    for batch in batches:
        for future in (batch.future, batch._drain_waiter):
            if future.done():
                future.exception()  # else asyncio reports that nobody awaits it


class _Batches(set[Any]):
    """Batches under way: what aiokafka does at the end of one that waits to be sent again looks for it here in vain."""

    remove = set.discard


def _beneath(client: Any) -> Any:
    """Return what has the connections of a consumer, a producer or an admin client."""
    return client.client if hasattr(client, "client") else client._client


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def poll(consumer: Any, *tps: TopicPartition, seconds: float, limit: int | None = None) -> Records:
    """Return the next records, of these partitions if any are named; empty after so many seconds without one.

    Unlike aiokafka's `getmany` it raises KafkaError if the fetching task has failed, after which nothing comes.
    """
    require_tasks(consumer)
    found: Records = await consumer.getmany(*tps, timeout_ms=int(seconds * 1000), max_records=limit)
    return found


def require_tasks(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Raise KafkaError if a task of aiokafka has failed that it does not report: then polls stay empty, or nobody finds
    out any more which broker coordinates the group or leads a partition.
    """
    tasks = {"looking up brokers": _beneath(client)._sync_task}
    if hasattr(client, "_fetcher"):
        tasks["fetching"] = client._fetcher._fetch_task
    for what, task in tasks.items():
        if task is not None and task.done() and not task.cancelled() and (fault := task.exception()) is not None:
            msg = f"{what} has failed: {fault.__cause__ or fault!r}"
            raise errors.KafkaError(msg) from fault


class BrokerConnection:
    """An authenticated connection to the first bootstrap server that accepts one, or to a given place: for requests
    that aiokafka's clients cannot send, and to learn why they cannot connect, which they only log.

    Opened with `async with`. Raises BrokerError saying why there is none, and what to do about it.
    """

    def __init__(self, kafka: Kafka, place: tuple[str, int] | None = None) -> None:
        self._kafka = kafka
        self._places = places(kafka) if place is None else [place]
        self._connection: Connection | None = None
        self.place = self._places[0]
        self.latency = 0.0

    async def __aenter__(self) -> Self:
        failures: list[Exception] = []
        for place in self._places:
            try:
                await self._open(place)
            except (KafkaError, OSError, TimeoutError) as exc:
                failures.append(explain(exc, self._kafka, f"{place[0]}:{place[1]}"))
            else:
                return self
        # A server that refuses says more than one that is away.
        raise next((each for each in failures if isinstance(each, AccessError)), failures[0])

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _open(self, place: tuple[str, int]) -> None:
        arguments = {name: value for name, value in connection(self._kafka).items() if name != "bootstrap_servers"}
        opened = await create_conn(
            *place, client_id="millrace", request_timeout_ms=int(CONNECTION_TIMEOUT * 1000), **arguments
        )
        self._connection = opened
        began = time.monotonic()
        try:
            # Only now does a broker that requires a login, or a client's certificate, say so.
            await opened.send(MetadataRequest([]))
        except BaseException:
            opened.close()
            raise
        self.place, self.latency = place, time.monotonic() - began

    def takes(self, struct: type[RequestStruct]) -> bool:
        """Whether the broker takes a request in the version of `struct`."""
        assert self._connection is not None
        first, last = self._connection._versions.get(struct.API_KEY, (0, -1))
        return bool(first <= struct.API_VERSION <= last)

    async def send(self, request: Any) -> Any:
        """Send a request and return the response. Raises BrokerError."""
        assert self._connection is not None
        try:
            return await self._connection.send(request)
        except (KafkaError, OSError, TimeoutError) as exc:
            raise explain(exc, self._kafka, f"{self.place[0]}:{self.place[1]}") from exc


async def reason(exc: Exception, kafka: Kafka) -> BrokerError:
    """Return why one of aiokafka's clients could not connect: it only logs that, so we try a connection of our own."""
    try:
        async with BrokerConnection(kafka):
            return explain(exc, kafka)
    except BrokerError as found:
        return found
