"""The part of a worker that keeps the tables: its Faust app, a group of its own, and what its agent needs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from agents.tables.agent import Tabulator, bounds_of
from models.errors import BrokerError, StoreError
from streams import memory
from streams.app import App
from streams.config.settings import Settings
from streams.kafka.outgoing import publishing_state
from streams.kafka.publisher import Publisher
from streams.tables.changelogs import TABLES, Changelogs, changelogs, prepare
from streams.tables.recovery import PAUSE, Recovery
from streams.tables.repair import ChangelogRepair
from streams.tables.rocksdb import RocksStore
from streams.tables.state import TableState
from streams.tables.store import MemoryStore, Store
from streams.tasks import end_tasks, keep

logger = logging.getLogger(__name__)

RETRY_PAUSE = 5.0
"""Seconds between two attempts of a recovery that failed."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What the agent needs."""

    publisher: Publisher
    tabulator: Tabulator


class TablesApp:
    """See the module. `state` holds the rows; `set_partitions` is called with the number of results partitions;
    `apart`: sources with a row of their own among the hosts.

    `resources` are None until the app starts, `recovery` is the latest one.
    """

    def __init__(
        self,
        settings: Settings,
        set_partitions: Callable[[int], None] = lambda _: None,
        apart: frozenset[str] = frozenset(),
    ) -> None:
        self.settings = settings
        self._apart = apart
        self._set_partitions = set_partitions
        self.app = App(settings, id=f"{settings.group}-tables", recover=self.recover)
        self.resources: Resources | None = None
        self.recovery: Recovery | None = None
        self._changelogs: Changelogs | None = None
        self._recovering = True
        self.topics = changelogs(settings)
        self.state = TableState(
            make_store(settings, self._store_failed), self.topics, bounds_of(settings), self._leases
        )
        self.repair = ChangelogRepair(settings, self.state)
        self.app.opens(self.open)
        topic = self.app.topic(settings.results_topic, key_type=bytes, value_type=bytes)
        self.app.agent(topic, name="tabulate")(self.tabulate)

    async def tabulate(self, stream: Any) -> None:
        """Hand each batch to the tabulator."""
        assert self.resources is not None
        await self.app.deliver(stream, self.resources.tabulator.tabulate)

    async def open(self, stack: AsyncExitStack) -> Publisher:
        """Open store and publisher. Raises MillraceError if a topic or setting is not as it must be."""
        settings = self.settings
        stack.callback(self.state.store.close)
        name = f"{settings.worker_id}-tables"
        publisher = Publisher(settings.kafka, name, self.app.crash_soon, self.state.acknowledged)
        tabulator = Tabulator(settings, publisher, self.state, self.repair, self._apart)
        self.resources = Resources(publisher, tabulator)
        try:
            self.state.store.open()
            await self._prepare()  # before the publisher, since it names every topic that is missing or not allowed
        except (BrokerError, StoreError) as exc:
            if settings.role != "all":
                raise
            logger.warning(
                "no tables for now; requests are answered, pages and /api return 503, and the worker retries: %s", exc
            )
        await stack.enter_async_context(publisher)
        means = "tables grow beyond their bounds, and changelogs are not repaired"
        pruning = keep(tabulator.prune, "pruning the tables", means=means)
        stack.push_async_callback(end_tasks, pruning)
        memory.settle()
        return publisher

    async def _prepare(self) -> Changelogs:
        """Prepare the changelogs. Raises BrokerError."""
        found = self._changelogs = await prepare(self.settings)
        assert self.resources is not None
        for topic in found.topics:
            self.resources.publisher.learn(topic.name, topic.partitions, topic.max_bytes)
        self._set_partitions(found.partitions)
        return found

    def _store_failed(self, exc: StoreError) -> None:
        """End the worker, whoever met the error, perhaps a reader of a page: its next start mends the store, or goes on
        without tables.
        """
        if not self._recovering:
            self.app.crash_soon(exc)

    async def recover(self) -> None:
        """Read back the changelogs of the partitions just assigned; drop the rows of other partitions.

        If that fails, the log and `/readyz` give the reason. A worker of the role `tables` ends; one of the role `all`
        goes on answering, and retries: answering never waits for tables.
        """
        state = self.state
        self._recovering = True
        assigned = {tp.partition for tp in self.app.holder.assignment()}
        state.recovered &= assigned
        state.waiting_for = "recovering from the changelogs"
        while True:
            try:
                state.store.open()
                for partition in state.store.partitions() - assigned:
                    state.store.drop(partition)
                self.repair.begin_anew(assigned)
                partitions, missing = await self._decline(assigned)
                await self._read_back(partitions)
            except (BrokerError, StoreError) as exc:
                if self.settings.role != "all":
                    await self.app.crash(exc)
                    raise
                logger.exception(
                    "the tables cannot recover; requests are answered, /api reports what is missing, the worker retries"
                )
                state.waiting_for = f"not recovered: {exc}"
                if isinstance(exc, StoreError):
                    state.recovered = set()
                    state.store.close()
                await asyncio.sleep(RETRY_PAUSE)
            else:
                break
        self._recovering = False
        state.recovered = partitions
        state.waiting_for = missing
        if missing:
            logger.error("%s", missing)

    async def _decline(self, partitions: set[int]) -> tuple[set[int], str]:
        """Take out partitions that a changelog lacks; returns the others, and the reason and what to do, or nothing."""
        found = self._changelogs
        if found is None or not partitions <= set(range(found.covered)):
            found = await self._prepare()
        lacking = {partition for partition in partitions if partition >= found.covered}
        self.app.holder.leases.decline(lacking)
        missing = found.missing_partitions(self.settings.results_topic, lacking) if lacking else ""
        return partitions - lacking, missing

    async def _read_back(self, partitions: set[int]) -> None:
        settings = self.settings
        pause = PAUSE if settings.role == "all" else 0.0
        recovery = Recovery(settings.kafka, settings.worker_id, self.state.store, self.topics, pause=pause)
        self.recovery = recovery
        try:
            await recovery.run(partitions)
        finally:  # also of what was read before a fault, or before a rebalance that begins another recovery
            self.repair.note(recovery.overwritten)

    def readiness(self) -> str:
        """Return `ok`, or what the tables wait for."""
        failing = None if self.resources is None else self.resources.publisher.failing_since
        if (state := publishing_state(failing, "of rows ")) != "ok":
            return state
        for state in self.app.readiness().values():
            if state != "ok":
                return self.state.waiting_for or state
        return self.state.readiness()

    def _leases(self) -> list[Any]:
        consumer = self.app.consumer if self.app.started else None
        return list(consumer.leases.values()) if consumer is not None else []


def make_store(settings: Settings, failed: Callable[[StoreError], None] = lambda _: None) -> Store:
    """Return the store that `MILLRACE_STORE` names, not opened yet; `failed` is called with its errors."""
    _, _, path = settings.store.partition("rocksdb://")
    if not path:
        return MemoryStore()
    return RocksStore(path, f"group {settings.group!r}, results {settings.results_topic!r}", TABLES, failed)
