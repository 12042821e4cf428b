"""The Faust transport that hands an agent a run of records of one partition as ONE event.

Stock Faust pays 190 to 300 µs of CPU an event and loses records when they finish out of order, so this replaces
its delivery, acknowledgement and commit. Everything private that we touch of Faust 0.15.3 and aiokafka 0.14 is in
this file, and `tests/unit/test_faust_pins.py` fails when any of it changes under us:

  Consumer: `_drain_messages`, `perform_seek`, `wait_empty`, `commit`, `force_commit`, `verify_event_path`,
            `on_buffer_full`, `on_buffer_drop`, `_new_consumer_thread`, `_is_changelog_tp`
  Thread:   `_create_worker_consumer`, `_fetch_records`, `_ensure_consumer`, `on_partitions_*`, `on_thread_stop`
  Topic:    `_compile_decode`, `_create_event`        App: `_on_rebalance_when_stopped` (in streams/app.py)
  aiokafka: `_coordinator.fetch_committed_offsets` and `.check_errors`, `_subscription`, `_max_poll_records`
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import aiokafka
import faust
import uvloop
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    OffsetMetadataTooLargeError,
)
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, EventT
from mode import Service

from streams import settings as defaults
from streams.kafka.client import connection, explain
from streams.kafka.lease import CommitPoint, Lease
from streams.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_POLL_RECORDS = 1_000
"""Records of one poll, over all partitions: the largest batch."""
POLL_TIMEOUT = 1.0
"""Seconds that a poll waits for records."""
FULL_POLL_TIMEOUT = 0.1
"""Seconds that a poll waits while a partition is full, so that it is looked at again soon."""
FETCH_MAX_WAIT = 0.1
"""Seconds that the broker may hold a fetch. aiokafka has one fetch in flight a broker, so an idle partition's
long poll would hold up the others on it for Faust's 1.5 s."""
HEARTBEATS = 3
"""Heartbeats in a session timeout."""
COMMIT_TIMEOUT = 5.0
"""Seconds that one commit may take before it is given up until the next."""
GROUP_CHECK_EVERY = 1.0
"""Seconds between looks at whether the group still takes this member."""
RETRY_PAUSE = 0.5
"""Seconds between tries while the broker is away."""
STOP_TIMEOUT = 5.0
"""Seconds that leaving the group may take."""


class RecordBatch(NamedTuple):
    """The value of one event: consecutive records of one partition, the lease they are held by, and the
    monotonic time at which they were received.
    """

    records: Sequence[ConsumerRecord[bytes, bytes]]
    lease: Lease
    received_at: float


class Polled(NamedTuple):
    """What one poll brought for a partition: records, where reading goes on, where the log ends (if known)."""

    records: Sequence[ConsumerRecord[bytes, bytes]]
    position: int
    end: int | None


class BatchTopic(faust.Topic):
    """A topic whose events carry record batches; anything else (changelogs) is decoded as ever."""

    decode: Any

    def _compile_decode(self) -> None:
        super()._compile_decode()
        decode_record: Any = self.decode

        async def decode(message: Any, *, propagate: bool = False) -> EventT[Any]:
            if type(message.value) is RecordBatch:
                return self._create_event(None, message.value, None, message=message)
            return cast("EventT[Any]", await decode_record(message, propagate=propagate))

        self.decode = decode


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's thread around an AIOKafkaConsumer: opened with our settings, polled and committed our way."""

    _stopping: asyncio.Event | None = None

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
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_poll_records=MAX_POLL_RECORDS,
            fetch_max_wait_ms=int(FETCH_MAX_WAIT * 1000),
            session_timeout_ms=int(defaults.SESSION_TIMEOUT * 1000),
            heartbeat_interval_ms=int(defaults.SESSION_TIMEOUT / HEARTBEATS * 1000),
            rebalance_timeout_ms=int(defaults.REBALANCE_TIMEOUT * 1000),
            max_poll_interval_ms=int(defaults.REBALANCE_TIMEOUT * 1000),
        )

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this thread's loop; called from the agents' loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.thread_loop))

    async def poll(self, tps: set[TP], timeout: float) -> dict[TP, Polled]:
        """Return what was fetched for these partitions, and how far reading got even where nothing was.

        Positions are read in the same step in which the records are taken, so they fit each other.
        """
        consumer = self._ensure_consumer()
        fetched = await self._fetch_records(consumer, tps, timeout=timeout, max_records=MAX_POLL_RECORDS)
        subscription = consumer._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None:
            return {}
        polled: dict[TP, Polled] = {}
        for tp in tps & assignment.tps:
            state = assignment.state_value(tp)
            if state.has_valid_position:
                polled[tp] = Polled(fetched.get(tp, ()), state.position, state.highwater)
        return polled

    async def check_group(self) -> None:
        """Raise what has kept this member from taking part in its group, if anything has."""
        if self._consumer is not None:
            self._consumer._coordinator.check_errors()

    async def committed(self, tps: Iterable[TP]) -> Mapping[TP, OffsetAndMetadata]:
        """Return the group's commits, with their metadata, of those partitions that have one."""
        coordinator = self._ensure_consumer()._coordinator
        partitions = [TopicPartition(*tp) for tp in tps]
        return cast("Mapping[TP, OffsetAndMetadata]", await coordinator.fetch_committed_offsets(partitions))

    async def seek_all(self, positions: Mapping[TP, int]) -> None:
        """Move reading of each partition that is still ours."""
        consumer = self._ensure_consumer()
        for tp, position in positions.items():
            if tp in consumer.assignment():
                consumer.seek(TopicPartition(*tp), position)

    async def commit_points(self, points: Mapping[TP, CommitPoint]) -> bool:
        """Commit; False if the group has moved on or the broker would not take it, which the next commit mends."""
        consumer = self._ensure_consumer()
        held = {tp: point for tp, point in points.items() if tp in consumer.assignment()}
        try:
            await consumer.commit({TopicPartition(*tp): OffsetAndMetadata(*point) for tp, point in held.items()})
        except OffsetMetadataTooLargeError:  # a broker with a lower limit than the default
            await consumer.commit({TopicPartition(*tp): OffsetAndMetadata(p.offset, "") for tp, p in held.items()})
        except (CommitFailedError, IllegalStateError) as exc:
            logger.info("commit refused, the group has moved on: %s", exc)
            return False
        except KafkaError as exc:
            logger.warning("commit failed, the next one will carry it: %s: %s", type(exc).__name__, exc)
            return False
        return len(held) == len(points)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let the agents' loop drain and commit, unless the worker stops: then it does both on its own."""
        await self._unless_stopping(super().on_partitions_revoked(revoked))

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Tell the agents' loop, unless the worker stops."""
        await self._unless_stopping(super().on_partitions_assigned(assigned, generation_id))

    async def _unless_stopping(self, callback: Coroutine[Any, Any, None]) -> None:
        # The agents' loop may have stopped answering for good: a callback that waits for it then would keep the
        # coordinator from leaving the group, and the whole group standing still.
        stopping = self._stopping
        assert stopping is not None
        if stopping.is_set():
            callback.close()
            return
        tasks = {asyncio.ensure_future(callback), asyncio.ensure_future(stopping.wait())}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*done)

    def leave(self) -> None:
        """Stop waiting for the agents' loop; called from there once it has drained and committed."""
        if self._stopping is not None and not self.thread_loop.is_closed():
            self.thread_loop.call_soon_threadsafe(self._stopping.set)

    async def on_thread_stop(self) -> None:
        """Leave the group, in bounded time."""
        if self._stopping is not None:
            self._stopping.set()
        try:
            await asyncio.wait_for(super().on_thread_stop(), STOP_TIMEOUT)
        except TimeoutError:
            logger.warning("leaving the group took over %g s; the broker will time this member out", STOP_TIMEOUT)


class Consumer(driver.Consumer):
    """Delivers batches, keeps the leases, commits what they allow. Faust's own ack bookkeeping stays empty."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.leases: dict[TP, Lease] = {}
        self._committing = asyncio.Lock()
        self.untrusted_memos = 0
        self.recalled = 0

    def _new_consumer_thread(self) -> ConsumerThread:
        thread = ConsumerThread(self, loop=self.loop, beacon=self.beacon, thread_loop=uvloop.new_event_loop())
        thread._close_thread_loop_on_stop = True  # mode leaves a loop that it was given to its giver
        return thread

    @Service.task
    async def _watch_group(self) -> None:
        """End the worker when the group will not have it (a refused login, ACL or session timeout): aiokafka gives up
        in the background and says so only to whoever polls, which a member without partitions never does.
        """
        while not self.should_stop:
            await self.sleep(GROUP_CHECK_EVERY)
            try:
                await self._thread.call(self._thread.check_group())
            except KafkaError as exc:
                await self.app.crash(explain(exc, cast("Transport", self.transport).settings.kafka))

    # -- delivery

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._deliver_next()
        except (ConsumerStoppedError, asyncio.CancelledError):
            # Faust logs a crash and trips over a missing supervisor if this comes out while the app stops.
            if not self.app.should_stop:
                raise

    async def _deliver_next(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
            return
        active = self._get_active_partitions()
        held = {tp: lease for tp, lease in self.leases.items() if lease.taking and tp in active}
        open_ = {tp: lease for tp, lease in held.items() if lease.uncommitted < defaults.MAX_UNCOMMITTED}
        if not open_:
            await asyncio.sleep(FULL_POLL_TIMEOUT)
            return
        timeout = POLL_TIMEOUT if len(open_) == len(held) else FULL_POLL_TIMEOUT
        try:
            polled = await self._thread.call(self._thread.poll(set(open_), timeout))
        except ConsumerStoppedError:
            raise
        except KafkaError as exc:
            if not exc.retriable:
                raise
            logger.warning("fetching failed, trying again: %s: %s", type(exc).__name__, exc)
            await asyncio.sleep(RETRY_PAUSE)
            return
        for tp, poll in polled.items():
            await self._deliver(tp, open_[tp], poll)

    async def _deliver(self, tp: TP, lease: Lease, poll: Polled) -> None:
        if self.leases.get(tp) is not lease or not lease.taking:
            await self._reread(tp)
            return
        records = lease.deliver(poll.records, poll.position, poll.end)
        if not records:
            return
        message = ConsumerMessage(
            tp.topic, tp.partition, records[-1].offset, time.time(), 0, None, None,
            RecordBatch(records, lease, time.monotonic()),
            None, 0, 0, tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip
        await self.callback(message)

    async def _reread(self, tp: TP) -> None:
        """A poll outlived its lease: what it took must be read again by the lease that came after."""
        lease = self.leases.get(tp)
        if lease is not None and lease.taking and lease.position is not None:
            await self._thread.call(self._thread.seek_all({tp: lease.position}))

    def on_buffer_full(self, tp: TP) -> None:
        """Do nothing: a full queue holds up the delivery itself, no partition need be remembered as paused."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Do nothing, see on_buffer_full."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust would judge liveness by acks that we do not use."""

    # -- leases

    async def perform_seek(self) -> None:
        """Take a lease on every partition just assigned, from the group's commit and what it remembers."""
        tps = {tp for tp in self.assignment() if not self._is_changelog_tp(tp)}
        generation = self.app.consumer_generation_id
        commits = await self._while_assigned(generation, lambda: self._thread.committed(tps))
        if commits is None:
            return
        await self._thread.call(self._thread.seek_all({tp: commit.offset for tp, commit in commits.items()}))
        for lease in self.leases.values():
            lease.revoke()
        self.leases.clear()
        for tp in tps:
            commit = commits.get(tp)
            self.leases[tp] = Lease(
                self.app.conf.id, tp.topic, tp.partition,
                position=None if commit is None else commit.offset,
                metadata="" if commit is None else commit.metadata,
            )  # fmt: skip

    async def _while_assigned(self, generation: int, ask: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """Ask the broker until it answers; None once another generation or the stop has made that pointless."""
        while not self.should_stop and generation == self.app.consumer_generation_id:
            try:
                return await asyncio.wait_for(self._thread.call(ask()), COMMIT_TIMEOUT)
            except (TimeoutError, KafkaError) as exc:
                logger.warning("reading the group's commits failed, trying again: %r", exc)
                await asyncio.sleep(RETRY_PAUSE)
        return None

    async def wait_empty(self) -> None:
        """Give up every lease: begin nothing more, wait for what is under way, commit, revoke.

        Called on every rebalance (assignment is eager) and when the worker stops, perhaps both at once.
        """
        leases = list(self.leases.values())
        drained = await asyncio.gather(*(lease.drain(defaults.DRAIN_DEADLINE) for lease in leases))
        late = [lease for lease, done in zip(leases, drained, strict=True) if not done]
        if late:
            logger.warning("%g s were not enough to finish %s: they will be answered by the next owner",
                           defaults.DRAIN_DEADLINE, late)  # fmt: skip
        await self.force_commit()
        for lease in leases:
            self.recalled += lease.recalled
            self.untrusted_memos += lease.untrusted
            lease.revoke()
        if self.app.should_stop:
            self._thread.leave()

    # -- commits

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002, ARG002  Faust's signature
        """Commit what the leases allow; called by Faust's timer."""
        return await self.force_commit()

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002, ARG002  Faust's signature
        """Commit every lease's point that changed since the last commit. Never raises for what the next one mends."""
        async with self._committing:
            points = {
                tp: (lease, point)
                for tp, lease in self.leases.items()
                if lease.alive and (point := lease.commit_point()) is not None and point != lease.committed
            }
            if not points:
                return False
            try:
                done = await asyncio.wait_for(
                    self._thread.call(self._thread.commit_points({tp: point for tp, (_, point) in points.items()})),
                    COMMIT_TIMEOUT,
                )
            except TimeoutError:
                logger.warning("a commit took over %g s; the next one will carry it", COMMIT_TIMEOUT)
                return False
            if done:
                for lease, point in points.values():
                    lease.committed = point
            return done


class Transport(driver.Transport):
    """Set as `app.transport`; knows the settings that Faust's URL cannot carry."""

    Consumer = Consumer

    def __init__(self, *args: Any, settings: Settings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings


__all__ = ["BatchTopic", "Consumer", "RecordBatch", "Transport"]
