"""The Faust transport that hands an agent a run of records of one partition as ONE event.

Stock Faust pays 190 to 300 µs of CPU an event and loses records when they finish out of order, so this replaces
its delivery, acknowledgement and commit. Everything private that we touch of Faust 0.15.3 and aiokafka 0.14 is listed
here, and `tests/unit/test_faust_pins.py` fails when any of it changes under us:

  Consumer   `_drain_messages`, `perform_seek`, `wait_empty`, `commit`, `force_commit`, `verify_all_partitions_active`,
             `on_buffer_full`, `on_buffer_drop`, `_new_consumer_thread`, `_is_changelog_tp`
  Services   `sleep`, `_stopped`; Monitor `_sampler` (in quiet.py)
  Topic      `_compile_decode`, `_create_event` (in batch.py)
  Thread     `_create_worker_consumer`, `_fetch_records`, `_ensure_consumer`, `on_partitions_*`, `on_thread_stop`,
             `_start_thread`, `_stopped_set`, `_keepalive2`, `_thread_keepalive` (in thread.py, with aiokafka's
             `_subscription`, `_coordinator.check_errors`, `._max_poll_interval`, `._do_heartbeat`, `._send_req`,
             `.reset_generation` (membership.py),
             `_fetcher._fetch_max_wait_ms`, `._fetcher_timeout`, `._fetch_task`, `_client`, its `_conns`, `_sync_task`)
  Client     `aiokafka.client.MetadataRequest`, which makes no topic any more (in client.py, with `_md_update_fut`,
             `_sync_task`, and a producer's `_sender.sender_task`, `_message_accumulator`); `get_random_node`, `send`
  Commits    GroupCoordinator `_send_req`, `ensure_coordinator_known`, `coordinator_dead`; AIOKafkaAdminClient
             `_send_request` (in commits.py)
  Connection `aiokafka.conn.AIOKafkaConnection`, which is ours (in connection.py, with its `_writer`)
  Fetcher    `PartitionRecords._unpack_records`, `FetchResult.getall`, `MemoryRecords`, `_records` (in fetched.py)
  Producer   `BatchBuilder._builder`, whose `append` is in C, and `._relative_offset` (in outgoing.py)
  Sender     `_do_txn_offset_commit`, `_find_coordinator`, `_coordinator_dead`, `sender_task`; TxnOffsetCommitHandler,
             TransactionManager `error_transaction`, `offset_committed`, `_transaction_waiter`; MessageAccumulator
             `_batches`, `_pending_batches`, `fail_all`; MessageBatch `_drain_waiter` (in client.py);
             GroupCoordinator `_send_req` (in txn_*.py)
  Batches    `_DefaultRecordBatchPy`, `_DefaultRecordPy`, `_LegacyRecordBatchPy`, `_MemoryRecordsPy` (in lenient.py)
  App        `_on_rebalance_when_stopped`, `BootStrategy` (in streams/app.py)
  Patterns   `Conductor.__iter__`, `Topic.topics`, `rebalancing`; aiokafka's `Subscription._topics`,
             `._reassignment_in_progress`, `_client.set_topics`, `_coordinator.request_rejoin` (in patterns.py)
  Recovery   `_resume_streams`, `_wait`; TableManager `_recovery`, `_update_channels` (in streams/app.py)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar, cast

from aiokafka.errors import ConsumerStoppedError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from models.errors import reason_of
from streams.config import settings as defaults
from streams.config.settings import Kafka, Settings
from streams.kafka.batch import RecordBatch, size_of
from streams.kafka.errors import explain, may_pass
from streams.kafka.holdings import Holdings, hand_over
from streams.kafka.lease import CommitPoint, Lease
from streams.kafka.quiet import Quiet
from streams.kafka.thread import ConsumerThread, Polled, new_loop
from streams.kafka.txn_leases import TransactionLeases
from streams.kafka.watch import LOOK_EVERY, TopicWatch
from streams.telemetry.timed import timed
from streams.telemetry.watchdog import Standing
from streams.ticks import until_tick

logger = logging.getLogger(__name__)

T = TypeVar("T")
POLL_TIMEOUT = 1.0
"""Seconds that a poll waits for records."""
FULL_POLL_TIMEOUT = 0.1
"""Seconds that a poll waits while a partition is full, so that it is looked at again soon."""
COMMIT_TIMEOUT = 5.0
"""Seconds that one commit may take before it is given up until the next."""
COMMITS_DEADLINE = 60.0
"""Seconds for the group's commits to be read after an assignment; less than Faust's 90 s for the whole of it."""
GROUP_CHECK_EVERY = 1.0
"""Seconds between looks at whether the group still takes this member."""
RETRY_PAUSE = 0.5
"""Seconds between tries while the broker is away."""


class Consumer(Quiet, driver.Consumer):
    """Delivers batches, keeps the leases, commits what they allow. Faust's own ack bookkeeping stays empty."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.leases = Holdings(self.app.conf.id, keeping=not self.app.exactly_once)
        self._committing = asyncio.Lock()
        self.rebalances = self._revokes = 0
        self.commits = 0
        self.commit_failures = 0
        self.last_contact = time.monotonic()
        self.watch = TopicWatch(self._thread, self.leases, self._kafka)
        self.transactions = TransactionLeases(self._thread, self.leases, self.watch, self._end)

    async def _end(self, exc: Exception) -> None:
        await self.app.crash(explain(exc, self._kafka))

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon, thread_loop=new_loop())

    @Service.task
    async def _watch_group(self) -> None:
        """End the worker when the group will not have it (a refused login, ACL or session timeout): aiokafka gives up
        in the background and raises only from polls, which a member without partitions never makes.
        """
        await self._watch(GROUP_CHECK_EVERY, self._look_at_group)

    @Service.task
    async def _watch_topics(self) -> None:
        await self._watch(LOOK_EVERY, self.watch.look)

    async def _watch(self, pause: float, look: Callable[[], Awaitable[None]]) -> None:
        while not self.should_stop:
            await self.sleep(until_tick(asyncio.get_running_loop().time(), pause))
            try:
                await look()
            except ConsumerStoppedError:
                return
            except KafkaError as exc:
                await self.app.crash(explain(exc, self._kafka))

    async def _look_at_group(self) -> None:
        await self._thread.call(self._thread.check_group())
        self.last_contact = time.monotonic()
        await self._learn_ends()

    async def _learn_ends(self) -> None:
        """Look up where the logs end of which nothing is polled now, because too much is pending: their lag grows."""
        open_ = self._open(self.leases)
        full = {tp: lease for tp, lease in self.leases.items() if tp not in open_}
        if full:
            with contextlib.suppress(TimeoutError, KafkaError):
                ends = await asyncio.wait_for(self._thread.call(self._thread.ends(full)), COMMIT_TIMEOUT)
                for tp, end in ends.items():
                    full[tp].end = end

    @property
    def _kafka(self) -> Kafka:
        return cast("Transport", self.transport).settings.kafka

    def standings(self) -> list[Standing]:
        """Return how far each partition is, for the watchdog."""
        return [
            Standing(f"{tp.topic}-{tp.partition}", lease, lease.committable,
                     None if lease.committed is None else lease.committed.offset, lease.finished, lease.ahead,
                     lease.point_waits)
            for tp, lease in self.leases.items() if lease.alive
        ]  # fmt: skip

    async def reconnect(self) -> None:
        """Close the group's connections to the brokers, one of which may hang."""
        with contextlib.suppress(ConsumerStoppedError):
            await self._thread.call(self._thread.reconnect())

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe; to nothing, where patterns match no topic yet: streams/kafka/patterns.py does it later."""
        if names := list(topics):
            await super().subscribe(names)

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
        open_ = self._open(held)
        if not open_:
            await asyncio.sleep(FULL_POLL_TIMEOUT)
            return
        timeout = POLL_TIMEOUT if len(open_) == len(held) else FULL_POLL_TIMEOUT
        try:
            polled = await self._poll(set(open_), timeout)
        except ConsumerStoppedError:
            raise
        except KafkaError as exc:
            if not may_pass(exc):
                raise explain(exc, self._kafka) from exc
            logger.warning("fetching failed, trying again: %s; requests wait", reason_of(exc))
            await asyncio.sleep(RETRY_PAUSE)
            return
        for tp, poll in polled.items():
            await self._deliver(tp, open_[tp], poll)

    async def _poll(self, tps: set[TP], timeout: float) -> Mapping[TP, Polled]:
        """Return what the thread polls; nothing where that has to be found out first. Raises KafkaError."""
        try:
            return await self._thread.call(self._thread.poll(tps, timeout))
        except NoOffsetForPartitionError:  # aiokafka looked for a commit before we had sought the beginning
            pass
        except OffsetOutOfRangeError as exc:
            await self.watch.resume(exc.args[0])
        return {}

    def _open(self, leases: Mapping[TP, Lease]) -> dict[TP, Lease]:
        """Return those of which more may be taken: no partition rests, has more pending than is left for the others, or
        results that Kafka does not take. One that rests, perhaps for days, counts for its share at most: it must not
        hold up the others.
        """
        most = cast("Transport", self.transport).settings.max_pending_bytes
        records, room, count = defaults.MAX_PENDING, most, len(self.leases)
        for lease in self.leases.values():
            records -= min(lease.unfinished, defaults.MAX_PENDING // count) if lease.rests else lease.unfinished
            room -= min(lease.bytes, most // count) if lease.rests else lease.bytes
        return {
            tp: lease
            for tp, lease in leases.items()
            if not lease.rests
            and lease.unfinished < records
            and lease.bytes < room
            and lease.unremembered < defaults.MAX_UNREMEMBERED
            and not self.app.is_full(tp.partition)
        }

    async def _deliver(self, tp: TP, lease: Lease, poll: Polled) -> None:
        held = self.leases.get(tp)
        if held is not lease or not lease.taking or poll.start != lease.next_offset:
            # The poll outlived its lease, or one before it did and what it took is nobody's: it must be read again.
            if held is not None and held.taking:
                await self._thread.call(self._thread.seek_all({tp: held.next_offset}))
            return
        if tp in self.watch.guessed:
            if not poll.records:  # of a log that has no leader, or begins elsewhere
                return
            self.watch.guessed.discard(tp)
        large = {
            record.offset: size
            for record in poll.records
            if (record.headers or record.serialized_value_size + record.serialized_key_size >= defaults.LARGE)
            and (size := size_of(record)) >= defaults.LARGE
        }
        records = lease.deliver(poll.records, poll.position, poll.end, large)
        if not records:
            return
        message = ConsumerMessage(
            tp.topic, tp.partition, records[-1].offset, time.time(), 0, None, None,
            RecordBatch(records, lease, time.monotonic()),
            None, 0, 0, tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip
        await self.callback(message)

    def on_buffer_full(self, tp: TP) -> None:
        """Do nothing: a full queue holds up the delivery itself, no partition need be remembered as paused."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Do nothing, see on_buffer_full."""

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: Faust would judge liveness by acks that we do not use."""

    # -- leases

    @property
    def is_member(self) -> bool:
        """Whether the leases are surely ours: not if the session may have ended while this process stood still."""
        return self._thread.is_member

    def let_go(self) -> None:
        """Hold nothing: the group, which may have more members than partitions, has given this one no partition."""
        self.leases.give_up_all()
        self.leases.clear()
        self.rebalances += 1
        logger.info("assigned: no partition")
        self.transactions.settled()

    async def perform_seek(self) -> None:
        """Take a lease on every partition just assigned, from the group's commit and what it remembers."""
        deadline, revokes = time.monotonic() + COMMITS_DEADLINE, self._revokes
        tps = {tp for tp in self.assignment() if not self._is_changelog_tp(tp)}
        generation, member, held = self.app.consumer_generation_id, self._thread.member, self._thread.held
        if self.app.exactly_once and not tps <= held:  # another assignment has come meanwhile, and another call for it
            return
        outlook = await self._while_assigned(generation, deadline, lambda: self._thread.outlook(tps))
        if outlook is None:
            return
        identities, commits = outlook
        self.leases.give_up_all()
        leases = {tp: self.leases.lease(tp, identities[tp.topic], commits.get(tp)) for tp in tps}
        for lease in leases.values():
            lease.member = member
        uncommitted = [tp for tp, lease in leases.items() if lease.position is None]
        if uncommitted:
            begins = await self._while_assigned(generation, deadline, lambda: self._thread.known_begins(uncommitted))
            if begins is None:
                return
            self.watch.guessed = set(uncommitted) - begins.keys()
            for tp in uncommitted:
                leases[tp].start = begins.get(tp, 0)
        await self._thread.call(self._thread.seek_all({tp: lease.next_offset for tp, lease in leases.items()}))
        if revokes != self._revokes:  # the group is at its next generation already, and may give them to another
            return
        self.rebalances += 1
        logger.info("assigned: %s", ", ".join(f"{tp.topic}-{tp.partition}" for tp in sorted(tps)))
        self.leases.clear()
        self.leases.update(leases)
        self.transactions.settled()

    async def _while_assigned(
        self, generation: int, deadline: float, call: Callable[[], Coroutine[Any, Any, T]]
    ) -> T | None:
        """Call until the broker answers; None once another generation or the stop has made that pointless.

        Ends the worker after the deadline (monotonic seconds): Faust's recovery would give up silently, and hold the
        partitions.
        """
        while not self.should_stop and generation == self.app.consumer_generation_id:
            try:
                return await asyncio.wait_for(self._thread.call(call()), COMMIT_TIMEOUT)
            except (TimeoutError, KafkaError) as exc:
                if time.monotonic() > deadline or not may_pass(exc):
                    await self.app.crash(explain(exc, self._kafka))
                    return None
                logger.warning("reading the group's commits failed, trying again: %s; requests wait", reason_of(exc))
                await asyncio.sleep(RETRY_PAUSE)
        return None

    async def wait_empty(self) -> None:
        """Give up every lease, see holdings.py.

        Called on every rebalance (assignment is eager) and when the worker stops, perhaps both at once.
        """
        self._revokes += 1
        leases = list(self.leases.values())
        await hand_over(leases, self.app.arrived, self._try_commit, self.app.crash_reason, lost=not self.is_member)
        self.leases.give_up_all()
        self.transactions.settled()
        if self.app.should_stop:
            self._thread.leave()

    # -- commits

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002, ARG002  Faust's signature
        """Commit what the leases allow; called by Faust's timer."""
        return await self.force_commit()

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002, ARG002  Faust's signature
        """Commit every lease's point that changed since the last commit. Never raises for what the next one mends."""
        return bool(await self._try_commit())

    async def _try_commit(self) -> bool | None:
        """Commit; returns whether all is committed. None: there was nothing, or trying again would not mend it."""
        if self.app.exactly_once:
            done: bool | None = await self.app.commit_transactions()
            self.commits += done is True
            self.commit_failures += done is False
            return done
        async with self._committing:
            points = {
                tp: (lease, point)
                for tp, lease in self.leases.items()
                if lease.alive
                and tp.topic not in self.watch.missing  # it would hold up the commits of the others
                and (point := lease.commit_point()) is not None
                and point != lease.committed
            }
            if not points:
                return None
            for lease, point in points.values():
                lease.tried.append(point)
            try:
                done = await self._commit({tp: point for tp, (_, point) in points.items()})
            except ConsumerStoppedError:
                return None
            except TimeoutError:
                logger.warning(
                    "a commit took over %g s; the next one will carry it; a crash before that repeats what it holds",
                    COMMIT_TIMEOUT,
                )
                done = False
            self.commits += bool(done)
            self.commit_failures += not done
            if done:
                for lease, point in points.values():
                    lease.committed = point
            return done

    @timed(name="commit")
    async def _commit(self, points: Mapping[TP, CommitPoint]) -> bool | None:
        return await asyncio.wait_for(self._thread.call(self._thread.commit_points(points)), COMMIT_TIMEOUT)


class Transport(driver.Transport):
    """Set as `app.transport`; knows the settings that Faust's URL cannot carry."""

    Consumer = Consumer

    def __init__(self, *args: Any, settings: Settings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings


__all__ = ["Consumer", "Transport"]
