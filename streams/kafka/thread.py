"""The thread that talks to the group: polls records with the positions they end at, commits points with their metadata,
and leaves in bounded time. Faust's own thread around an AIOKafkaConsumer, opened with our settings.

Private parts of Faust and aiokafka: see streams/kafka/transport.py.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import aiokafka
import uvloop
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.conn import CloseReason
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    OffsetMetadataTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from models.errors import reason_of
from streams.config import settings as defaults
from streams.kafka.client import FETCHER_TIMEOUT_IDLE, METADATA_AGE, connection, require_tasks
from streams.kafka.cluster import identify_by
from streams.kafka.commit_metadata import Identity, signature
from streams.kafka.commits import Commits, commits
from streams.kafka.fetched import begin_poll
from streams.kafka.lease import CommitPoint, Member
from streams.kafka.membership import Coordinator
from streams.kafka.quiet import Quiet
from streams.kafka.txn_offsets import stable_commits
from streams.tasks import end_all, first

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_POLL_RECORDS = 1_000
"""Records of one poll, over all partitions: the largest batch."""
FETCH_MAX_WAIT = 0.1
"""Seconds that the broker may hold a fetch. aiokafka has one fetch in flight a broker, so an idle partition's
long poll would hold up the others on it for Faust's 1.5 s."""
FETCH_MAX_WAIT_IDLE = 1.0
"""The same where nothing comes: then every partition is in the fetch, and the first record ends its wait."""
FETCHER_TIMEOUT = 0.2
"""Seconds after which aiokafka's fetching task looks around, though nothing woke it: aiokafka's default."""
IDLE_AFTER = 5.0
"""Seconds without records after which fetches wait for so long; the first records end that, before the next fetch."""
FETCH_MAX_BYTES = 16 << 20
"""Bytes, perhaps compressed, of one fetch from one broker; a larger batch comes alone. Beside it up to 1 MiB of each
partition waits to be polled."""
NEVER_MS = 2**31 - 1
HEARTBEATS = 3
"""Heartbeats in a session timeout."""
BEGIN_TIMEOUT = 2.0
"""Seconds that the leaders of partitions may take to say where these begin."""
STOP_TIMEOUT = 5.0
"""Seconds that leaving the group may take."""


class Polled(NamedTuple):
    """What one poll brought for a partition: where it began to read, records, where reading goes on, and where the log
    ends (if known).
    """

    start: int
    records: Sequence[ConsumerRecord[bytes, bytes]]
    position: int
    end: int | None


class ConsumerThread(Quiet, driver.AIOKafkaConsumerThread):
    """Faust's thread around an AIOKafkaConsumer: opened with our settings, polled and committed our way.

    `member` is who we are in the group since the last assignment, which gave us the partitions `held`.
    """

    member: Member | None = None
    held: frozenset[TP] = frozenset()
    _stopping: asyncio.Event | None = None
    _brought = 0.0
    _is_over = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ending = threading.Lock()
        super().__init__(*args, **kwargs)

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        app = self.app
        self._assignor = app.assignor if app.tables.changelog_topics else RoundRobinPartitionAssignor
        self._stopping = asyncio.Event()
        return aiokafka.AIOKafkaConsumer(
            **connection(transport.settings.kafka),
            client_id=transport.settings.worker_id,
            group_id=app.conf.id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",  # what is gone is counted, see `TopicWatch.resume`
            metadata_max_age_ms=int(METADATA_AGE * 1000),
            isolation_level="read_committed",
            max_poll_records=MAX_POLL_RECORDS,
            fetch_max_bytes=FETCH_MAX_BYTES,
            fetch_max_wait_ms=int(FETCH_MAX_WAIT * 1000),
            session_timeout_ms=int(defaults.SESSION_TIMEOUT * 1000),
            heartbeat_interval_ms=int(defaults.SESSION_TIMEOUT / HEARTBEATS * 1000),
            rebalance_timeout_ms=int(defaults.REBALANCE_TIMEOUT * 1000),
            # aiokafka leaves the group for good when nothing is polled for this long, which is what back-pressure
            # does to a worker whose results cannot be published; heartbeats say that the process lives.
            max_poll_interval_ms=NEVER_MS,
        )

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this thread's loop; called from the agents' loop.

        Raises ConsumerStoppedError once the thread has ended, as it does at once when the worker crashes.
        """
        with self._ending:
            if self._is_over:
                coroutine.close()
                raise ConsumerStoppedError
            running = asyncio.run_coroutine_threadsafe(coroutine, self.thread_loop)
        try:
            return await asyncio.shield(asyncio.wrap_future(running))
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self._post(running.cancel)  # there, where its loop cannot be closed meanwhile
                raise
            raise ConsumerStoppedError from exc  # it was cancelled there, not we here

    def _post(self, callback: Callable[[], object]) -> bool:
        """Have the thread call something soon; False if its loop is over."""
        with self._ending:
            if not self._is_over:
                self.thread_loop.call_soon_threadsafe(callback)
            return not self._is_over

    async def _keepalive2(self) -> None:
        """Do nothing: mode wakes both loops once a second, for loops that miss what other threads post to them."""

    @Service.task
    async def _thread_keepalive(self) -> None:
        """Do nothing, as above."""

    def _start_thread(self) -> None:
        """Run the thread. A crash ends it in the middle of calls: they end, too, before the loop is closed."""
        try:
            super()._start_thread()
        finally:
            with self._ending:
                self._is_over = True
            self.thread_loop.run_until_complete(end_all())
            self.thread_loop.close()

    async def poll(self, tps: set[TP], timeout: float) -> dict[TP, Polled]:
        """Return what was fetched for these partitions, and how far reading got even where nothing was.

        Positions are read in the same step in which the records are taken, so they fit each other.
        """
        consumer = self._ensure_consumer()
        kept = self.app.transport.settings.max_pending_bytes if self.app.resting else None
        starts = begin_poll(consumer, tps, kept)
        fetched = await self._fetch_records(consumer, tps, timeout=timeout, max_records=MAX_POLL_RECORDS)
        self._pace(consumer, brought=any(fetched.values()))
        subscription = consumer._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None:
            return {}
        polled: dict[TP, Polled] = {}
        for tp in tps & assignment.tps:
            state = assignment.state_value(tp)
            if state.has_valid_position:
                start = starts.get(tp, state.position)
                polled[tp] = Polled(start, fetched.get(tp, ()), state.position, state.highwater)
        return polled

    def _pace(self, consumer: aiokafka.AIOKafkaConsumer, *, brought: bool) -> None:
        """Have fetches wait longer while nothing comes: each costs the more, the more partitions there are."""
        now = time.monotonic()
        if brought:
            self._brought = now
        idle = now - self._brought >= IDLE_AFTER
        consumer._fetcher._fetch_max_wait_ms = int(1000 * (FETCH_MAX_WAIT_IDLE if idle else FETCH_MAX_WAIT))
        consumer._fetcher._fetcher_timeout = FETCHER_TIMEOUT_IDLE if idle else FETCHER_TIMEOUT

    async def check_group(self) -> None:
        """Raise what has kept this member from taking part in its group, if anything has."""
        if self._consumer is not None and self._consumer._coordinator is not None:  # None until it has found brokers
            self._consumer._coordinator.check_errors()
            require_tasks(self._consumer)

    @property
    def is_member(self) -> bool:
        """Whether the group still counts this member; callable from any thread."""
        coordinator = None if self._consumer is None else self._consumer._coordinator
        return not isinstance(coordinator, Coordinator) or coordinator.is_member

    async def reconnect(self) -> None:
        """Close the connections: what waits for an answer over them fails, and is sent again over new ones."""
        for each in list(self._ensure_consumer()._client._conns.values()):
            each.close(reason=CloseReason.CONNECTION_TIMEOUT)

    async def committed(self, tps: Iterable[TP]) -> Commits:
        """Return the group's commits, with their metadata, of those partitions that have one."""
        partitions = [TopicPartition(*tp) for tp in tps]
        if not partitions:
            return {}
        read = stable_commits if self.app.exactly_once else commits
        return await read(self._ensure_consumer()._coordinator, partitions)

    async def identities(self) -> Mapping[str, Identity | None]:
        """Return which topics those subscribed to are now, None for one that does not exist."""
        consumer = self._ensure_consumer()
        return await identify_by(consumer._client, consumer.subscription())

    async def outlook(self, tps: Iterable[TP]) -> tuple[Mapping[str, Identity], Commits]:
        """Return which topics these partitions are of, requested first, and the group's commits.

        Raises UnknownTopicOrPartitionError if there is no such topic.
        """
        identities = {name: identity for name, identity in (await self.identities()).items() if identity is not None}
        missing = {tp.topic for tp in tps} - identities.keys()
        if missing:
            raise UnknownTopicOrPartitionError(*missing)
        return identities, await self.committed(tps)

    async def span(self, tp: TP) -> tuple[int, int]:
        """Return the first offset that a log has, and its end."""
        consumer, place = self._ensure_consumer(), TopicPartition(*tp)
        begin = await consumer.beginning_offsets([place])
        return begin[place], (await consumer.end_offsets([place]))[place]

    async def begins(self, tps: Iterable[TP]) -> Mapping[TP, int]:
        """Return the first offsets that the logs have."""
        found = await self._ensure_consumer().beginning_offsets([TopicPartition(*tp) for tp in tps])
        return {TP(*tp): begin for tp, begin in found.items()}

    async def known_begins(self, tps: Collection[TP]) -> Mapping[TP, int]:
        """Do the same, without partitions whose leader does not say so in time: they must not hold up the others."""
        found: dict[TP, int] = {}

        async def learn(*some: TP) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEGIN_TIMEOUT):
                    found.update(await self.begins(some))

        await learn(*tps)
        if not found:
            await asyncio.gather(*map(learn, tps))
        return found

    async def ends(self, tps: Iterable[TP]) -> Mapping[TP, int]:
        """Return where the logs end."""
        found = await self._ensure_consumer().end_offsets([TopicPartition(*tp) for tp in tps])
        return {TP(*tp): end for tp, end in found.items()}

    async def seek_all(self, positions: Mapping[TP, int]) -> None:
        """Move reading of each partition that is still ours."""
        consumer = self._ensure_consumer()
        for tp, position in positions.items():
            if tp in consumer.assignment():
                consumer.seek(TopicPartition(*tp), position)

    async def commit_points(self, points: Mapping[TP, CommitPoint]) -> bool | None:
        """Commit; False if the broker did not take it, which the next commit mends, None if the group has moved on."""
        consumer = self._ensure_consumer()
        held = {tp: point for tp, point in points.items() if tp in consumer.assignment()}
        if not held:  # aiokafka refuses to commit nothing
            return None
        try:
            try:
                await consumer.commit({TopicPartition(*tp): OffsetAndMetadata(*point) for tp, point in held.items()})
            except OffsetMetadataTooLargeError:  # a broker with a lower limit than the default
                await consumer.commit({
                    TopicPartition(*tp): OffsetAndMetadata(point.offset, signature(point.metadata))
                    for tp, point in held.items()
                })  # fmt: skip
        except (CommitFailedError, IllegalStateError) as exc:
            logger.info("commit refused, the group has moved on (%s)", type(exc.__cause__ or exc).__name__)
            return None
        except KafkaError as exc:
            logger.warning(
                "commit failed, the next one will carry it: %s; a crash before that repeats what it holds",
                reason_of(exc),
            )
            return False
        return True if len(held) == len(points) else None

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let the agents' loop drain and commit. If the worker stops it does both on its own, and Faust returns at
        once: wait all the same, since a member that has joined the next generation may not commit for the last. Then
        do not join any more: the answer comes when the last member has joined, and the others wait for who has gone.
        """
        await self._unless_stopping(super().on_partitions_revoked(revoked))
        if self.app.should_stop and self._stopping is not None:
            await self._stopping.wait()
            self._ensure_consumer()._coordinator._max_poll_interval = 0  # as one that has not polled for long

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Tell the agents' loop, unless the worker stops."""
        coordinator = self._ensure_consumer()._coordinator
        coordinator.confirmed = coordinator.requested
        self.member = Member(generation_id, coordinator.member_id)
        self.held = frozenset(assigned)
        await self._unless_stopping(super().on_partitions_assigned(assigned, generation_id))

    async def _unless_stopping(self, callback: Coroutine[Any, Any, None]) -> None:
        # The agents' loop may have stopped answering for good: a callback that waits for it then would keep the
        # coordinator from leaving the group, and the whole group standing still.
        stopping = self._stopping
        assert stopping is not None
        if stopping.is_set():
            callback.close()
            return
        await first(callback, stopping.wait())

    def leave(self) -> None:
        """Stop waiting for the agents' loop; called from there once it has drained and committed."""
        if self._stopping is not None:
            self._post(self._stopping.set)

    def _stopped_set(self) -> None:
        if not self._post(self._stopped.set):  # its loop has ended with the thread, as both do when the worker crashes
            self._stopped.set()

    async def on_thread_stop(self) -> None:
        """Leave the group, in bounded time."""
        if self._stopping is not None:
            self._stopping.set()
        try:
            await asyncio.wait_for(super().on_thread_stop(), STOP_TIMEOUT)
        except TimeoutError:
            logger.warning("leaving the group took over %g s; its partitions wait for the session timeout",
                           STOP_TIMEOUT)  # fmt: skip


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a loop for the thread."""
    loop = uvloop.new_event_loop()
    loop.set_exception_handler(_on_loop_error)
    return loop


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log the end of a commit that was given up at DEBUG only: aiokafka shields it, and nothing awaits it any more."""
    if isinstance(context.get("exception"), KafkaError):
        logger.debug("%s: %r", context.get("message"), context["exception"])
    else:
        loop.default_exception_handler(context)
