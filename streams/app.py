"""The Faust app of one role, and `run`, which is a worker's life: start, serve until the signal to stop, stop in time.

What the agents need is opened before they start and closed after they have stopped, in reverse order: Faust's own
`@app.service` and `http_client` go the other way round.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, cast

import faust
from faust.app.base import BootStrategy
from faust.tables import manager, recovery

from models.errors import MillraceError, Stalled, TaskEnded
from streams.config import settings as defaults
from streams.config.settings import Settings
from streams.kafka.batch import BatchTopic, RecordBatch
from streams.kafka.publisher import Publisher
from streams.kafka.quiet import Monitor, Quiet
from streams.kafka.transactional import TransactionalPublisher
from streams.kafka.transport import Consumer, Transport
from streams.kafka.txn_offsets import require_fencing
from streams.kafka.txn_producer import transactional_id
from streams.kafka.watch import coordinator_answers
from streams.tasks import end_worker, every, first, start, watch_callbacks
from streams.telemetry.watchdog import Watchdog

logger = logging.getLogger(__name__)

QUEUED_BATCHES = 4
"""Batches that may wait for an agent; beyond, no more are taken from Kafka."""

Opener = Callable[[AsyncExitStack], Awaitable[Publisher | None]]
"""Opens what an agent needs, entering it into the stack that closes it; returns what the agent publishes by, if any."""


@dataclass(frozen=True, slots=True)
class _Running:
    """What an app has while it runs; without arguments, before it has started."""

    publishers: Sequence[Publisher] = ()
    committing: Callable[[], str] = lambda: "starting"


class _Boot(BootStrategy):
    """Faust's web server with its open views stays off, and so does its producer: results go through ours."""

    enable_web = False
    enable_kafka_producer = False


class Recovery(Quiet, recovery.Recovery):
    """Faust's step between an assignment and reading on, with our own recovery before it."""

    async def _resume_streams(self, generation_id: int = 0) -> None:
        if self.app.recover is not None:
            await self._wait(self.app.recover())
        if not self.app.holder.assignment():  # Faust seeks only if there is something to seek
            self.app.holder.let_go()
        await super()._resume_streams(generation_id)


class TableManager(manager.TableManager):
    """Knows no Faust tables: it is there for its recovery, which a new assignment or a stop ends at once."""

    _recovery: Recovery | None

    @property
    def recovery(self) -> Recovery:
        """Return it, made on first use."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        """Start the recovery at once: Faust sleeps a second first, for tables that are declared late."""
        await self._update_channels()
        await self.recovery.start()


class App(faust.App):
    """A Faust app over the batch transport. `id` is the consumer group.

    `recover` is awaited after each assignment, before anything is read from it. `exactly_once`: its offsets are
    committed by what it publishes with, see `publisher`. `resting`: what was polled may wait for days (`Lease.rests`).
    """

    BootStrategy = _Boot
    mundane_level = "debug"

    def __init__(
        self,
        settings: Settings,
        *,
        id: str,  # noqa: A002  Faust's name for it
        recover: Callable[[], Awaitable[None]] | None = None,
        exactly_once: bool = False,
        resting: bool = False,
    ) -> None:
        self._openers: list[Opener] = []
        self.recover = recover
        self.exactly_once = exactly_once
        self.resting = resting
        self._running = _Running()
        super().__init__(
            id,
            broker=[f"kafka://{server.strip()}" for server in settings.kafka.bootstrap_servers.split(",")],
            autodiscover=False,
            store="memory://",
            Topic=BatchTopic,
            TableManager=TableManager,
            Monitor=Monitor,
            stream_buffer_maxsize=QUEUED_BATCHES,
            stream_recovery_delay=0.0,
            stream_wait_empty=True,
            topic_allow_declare=False,
            topic_disable_leader=True,
            broker_commit_interval=defaults.COMMIT_EVERY,
            broker_session_timeout=defaults.SESSION_TIMEOUT,
            broker_rebalance_timeout=defaults.REBALANCE_TIMEOUT,
        )
        self.transport = Transport(self.conf.broker, self, settings=settings)

    def opens(self, opener: Opener) -> None:
        """Have something opened before the agents start; it is closed after they have stopped."""
        self._openers.append(opener)

    @property
    def holder(self) -> Consumer:
        """Return the consumer that holds the leases."""
        return cast("Consumer", self.consumer)

    def readiness(self) -> dict[str, str]:
        """Say whether Kafka answers, whether the group has given this member its partitions, and whether its leases are
        taken.
        """
        if self.should_stop:
            return {"assigned": "stopping"}
        connected = self.holder.watch.state() if self.started else "starting"
        if not self.started or self.rebalancing or not self.consumer_generation_id:
            return {"connected": connected, "assigned": "waiting for the group's assignment"}
        if len(self.holder.leases) != len(self.holder.assignment()):
            return {"connected": connected, "assigned": "ok", "recovered": "reading the group's commits"}
        return {"connected": connected, "assigned": "ok", "recovered": "ok", "committing": self._running.committing()}

    def held_up(self) -> bool:
        """Whether Kafka takes no results: then it is no fault of ours that requests do not finish."""
        return any(publisher.failing_since is not None for publisher in self._running.publishers)

    def is_full(self, partition: int) -> bool:
        """Whether Kafka takes no results of this partition's requests, and enough of them wait."""
        return any(publisher.is_full(partition) for publisher in self._running.publishers)

    async def publisher(self, stack: AsyncExitStack, settings: Settings, client_id: str) -> Publisher:
        """Open what the app's agents publish with: in transactions, with the group's offsets, if `exactly_once`.

        Raises BrokerError.
        """
        if not self.exactly_once:
            publisher = Publisher(settings.kafka, client_id, self.crash_soon, is_fenced=self._is_fenced)
            return await stack.enter_async_context(publisher)
        await require_fencing(settings.kafka)
        group = self.conf.id
        return await stack.enter_async_context(TransactionalPublisher(
            settings.kafka, client_id, self.crash_soon, group=group,
            name=transactional_id(group, settings.worker_id), holder=lambda: self.holder.transactions,
        ))  # fmt: skip

    def _is_fenced(self) -> bool:
        """Whether others may have the partitions that this member holds, though nothing has told it."""
        return self.started and not self.holder.is_member and any(lease.alive for lease in self.holder.leases.values())

    async def commit_transactions(self) -> bool | None:
        """Commit what was published, and the group's offsets; None if there is nothing to commit."""
        publishers = [each for each in self._running.publishers if isinstance(each, TransactionalPublisher)]
        done = [await publisher.commit() for publisher in publishers]
        return False if False in done else True if True in done else None

    async def arrived(self, seconds: float) -> bool:
        """Wait so many seconds until all that was published is acknowledged; returns whether it is."""
        return all(await asyncio.gather(*(publisher.arrived(seconds) for publisher in self._running.publishers)))

    def _stands_still(self, reason: str) -> None:
        logger.critical("no progress: %s; exiting, so that another worker answers what is not committed", reason)
        self.crash_soon(Stalled(reason))

    async def on_first_start(self) -> None:
        """Do nothing: Faust would make a data directory, which only a store on disk needs."""

    async def on_start(self) -> None:
        """Open what the agents need, and watch that they get on."""
        await super().on_start()
        stack = await self.add_async_context(AsyncExitStack())
        publishers = [publisher for opener in self._openers if (publisher := await opener(stack)) is not None]
        kafka, group = self.transport.settings.kafka, self.conf.id
        watchdog = await stack.enter_async_context(
            Watchdog(
                lambda: self.holder.standings() if self.started and not self.should_stop else (),
                heard=lambda: self.holder.last_contact,
                broker_answers=lambda: coordinator_answers(kafka, group),
                reconnect=self._reconnect,
                held_up=self.held_up,
                end=self._stands_still,
            )
        )
        self._running = _Running(publishers, watchdog.state)

    async def _reconnect(self) -> None:
        await self.holder.reconnect()

    async def deliver(self, stream: Any, take: Callable[[RecordBatch], Awaitable[None]]) -> None:
        """Hand an agent's batches to `take`, one after the other. A fault in it ends the worker: its records are read
        again, where Faust would restart the agent and go on behind the failed batch.
        """
        async for batch in stream.noack():
            try:
                await take(batch)
            except Exception as exc:  # noqa: BLE001  whatever it is, no batch may be passed over
                await self.crash(exc)
                return

    async def stop(self) -> None:
        """Stop within the deadline: after it the process ends, whatever is still open."""
        last_resort = _exit_in_time()
        _arm(last_resort)
        try:
            await super().stop()
        finally:
            last_resort.cancel()

    async def crash(self, reason: BaseException) -> None:
        """End the worker because of a fault. Faust would restart the agents that this cancels, and wait for them."""
        for agent in self.agents.values():
            agent._crash(reason)
        await super().crash(reason)

    def crash_soon(self, reason: BaseException) -> None:
        """End the worker because of a fault outside its own tasks."""
        self._crashing = start(self.crash(reason), "crash the app", means="it does not end")

    def _on_rebalance_when_stopped(self) -> None:
        """Do nothing: Faust would close the consumer from the wrong thread; the stop in progress does it."""


def _exit_now() -> None:
    logger.critical("not stopped within %g s: exiting; what was not committed is answered again by the next owner",
                    defaults.SHUTDOWN_DEADLINE)  # fmt: skip
    logging.shutdown()
    os._exit(1)


async def run(apps: Sequence[App], open_: Opener) -> int:
    """Run a worker until SIGTERM or SIGINT; returns its exit code: 0 stopped by the signal, 1 crashed.

    `open_` opens what belongs to the process: before its apps start, closed after all of them have stopped. The first
    app that crashes ends the process, and so does a background task that ends by itself. Raises MillraceError when it
    cannot start, or with what it crashed of.
    """
    stopping = asyncio.Event()
    ended: list[TaskEnded] = []
    last_resort = _exit_in_time()

    def end() -> None:
        if not stopping.is_set():
            stopping.set()
            _arm(last_resort)

    def task_ended(reason: TaskEnded) -> None:
        if not stopping.is_set():  # what ends later does so because of the stop
            ended.append(reason)
            end()

    end_worker.set(task_ended)
    loop = asyncio.get_running_loop()
    watch_callbacks(loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        async with AsyncExitStack() as stack:
            try:
                crashed = None
                if await _opened(open_(stack), stopping):
                    stack.push_async_callback(_stop, apps)
                    crashed = await _serve(apps, stopping)
            finally:
                end()
    finally:
        last_resort.cancel()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    if ended:
        raise ended[0]
    if crashed is not None:
        return _crashed(crashed.crash_reason)
    logger.info("stopped")
    return 0


async def _opened(opening: Awaitable[object], stopping: asyncio.Event) -> bool:
    """Wait until all is open; False if the signal to stop came before: Kafka may take long to answer."""
    return await first(opening, stopping.wait()) == 0


async def _serve(apps: Sequence[App], stopping: asyncio.Event) -> App | None:
    """Start the apps and wait; returns the one that crashed, None if the signal to stop came before any did.

    What crashes later does so because of the stop: a start that is cut short, a connection that ends too early.
    """
    crashed: App | None = None

    async def until(end: Awaitable[Any]) -> None:
        nonlocal crashed
        await end
        crashed = next((app for app in apps if app.crashed), None)

    if await first(_start(apps), until(stopping.wait())) == 0:
        await first(*(until(end) for end in (stopping.wait(), *(app.wait_until_stopped() for app in apps))))
    return crashed


async def _stop(apps: Sequence[App]) -> None:
    """Stop all of them side by side; one that fails at it keeps no other from it."""
    logger.info("stopping")
    for failure in await asyncio.gather(*(app.stop() for app in apps), return_exceptions=True):
        if failure is not None:
            logger.error("stopping failed: %r; what was not committed is answered again by the next owner", failure)


async def _start(apps: Sequence[App]) -> None:
    """Start all of them side by side; the first one that cannot start is what is raised."""
    await every(*(app.start() for app in apps))


def _exit_in_time() -> threading.Timer:
    """Return what ends the process, once started, unless it is cancelled within the deadline."""
    last_resort = threading.Timer(defaults.SHUTDOWN_DEADLINE, _exit_now)
    last_resort.daemon = True
    return last_resort


def _arm(last_resort: threading.Timer) -> None:
    """Start it. Where no thread can be had, memory is gone, and nothing else would end a stop that hangs."""
    try:
        last_resort.start()
    except (MemoryError, RuntimeError):
        _exit_now()


def _crashed(reason: BaseException | None) -> int:
    if isinstance(reason, MillraceError):
        raise reason
    logger.error("crashed: %r; what was not committed is answered again by the next owner", reason)
    return 1
