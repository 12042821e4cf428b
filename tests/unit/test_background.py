"""Each task that runs in the background: what comes of it when it fails by a fault of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from agents.cluster import heartbeat as presence
from agents.cluster import registry as workers
from agents.cluster.heartbeat import Heartbeat
from agents.cluster.registry import WorkerRegistry
from agents.web.api import overview
from agents.web.api.overview import Overview
from models.errors import BrokerError, TaskEnded
from streams.config.settings import Kafka, Settings
from streams.kafka import producer, tail
from streams.kafka.client import close, require_tasks
from streams.kafka.tail import Tail
from streams.tasks import end_worker
from streams.telemetry import loop
from streams.telemetry import readiness_log as announcer
from streams.telemetry.loop import LoopWatch
from streams.telemetry.readiness_log import Announcer
from streams.telemetry.watchdog import Watchdog

PATIENCE = 5.0
"""Seconds after which what should have happened has not."""


@pytest.fixture
def reasons() -> Iterator[asyncio.Queue[TaskEnded]]:
    """What the worker was ended with."""
    heard: asyncio.Queue[TaskEnded] = asyncio.Queue()
    token = end_worker.set(heard.put_nowait)
    yield heard
    end_worker.reset(token)


class Failing:
    """Called, or looked at by its attributes, it fails; `thrice` is set once that was often."""

    def __init__(self) -> None:
        self.calls = 0
        self.thrice = asyncio.Event()

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        if self.calls >= 3:
            self.thrice.set()
        raise LookupError("a bug")

    async def later(self, *_: Any) -> Any:
        return self()


def settings() -> Settings:
    return Settings(kafka=Kafka(bootstrap_servers="127.0.0.1:1"))


def presence_of(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(presence, "RETRY_PAUSE", 0.0)
    monkeypatch.setattr(Heartbeat, "_run", failing.later)
    return Heartbeat(settings(), failing.later)


def workers_of(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(workers, "RETRY_PAUSE", 0.0)
    monkeypatch.setattr(WorkerRegistry, "_read", failing.later)
    return WorkerRegistry(settings())


def announcer_of(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(announcer, "READY_LOOK_EVERY", 0.0)
    return Announcer(failing, lambda: "")


def overview_of(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(overview, "NOTE_EVERY", 0.0)
    monkeypatch.setattr(Overview, "note", failing)
    return Overview(None, None, "requests")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of", "without"),
    [
        (presence_of, "pages do not show this worker"),
        (workers_of, "pages here do not see other workers"),
        (announcer_of, "the log does not say what is ready"),
        (overview_of, "rates on the pages do not update"),
    ],
)
async def test_what_no_answer_hangs_on_begins_again(
    of: Any, without: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    reasons: asyncio.Queue[TaskEnded],
) -> None:  # fmt: skip
    """A line each time says what has ended and what is missing; the worker goes on."""
    failing = Failing()
    async with asyncio.timeout(PATIENCE), of(failing, monkeypatch):
        await failing.thrice.wait()
    assert all("has failed: LookupError: a bug" in line and without in line for line in caplog.messages)
    assert (len(caplog.messages) >= 2, reasons.empty()) == (True, True)


async def test_without_its_watchdog_a_worker_ends(
    reasons: asyncio.Queue[TaskEnded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stands still would not be noticed any more."""
    failing = Failing()
    monkeypatch.setattr("streams.telemetry.watchdog.LOOK_EVERY", 0.0)
    watchdog = Watchdog(failing, heard=failing, broker_answers=failing, reconnect=failing, held_up=failing, end=failing)
    async with asyncio.timeout(PATIENCE), watchdog:
        assert "the watchdog has ended: LookupError: a bug" in str(await reasons.get())


async def test_without_its_look_at_the_loop_a_worker_ends(
    reasons: asyncio.Queue[TaskEnded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a thread: its fault comes to the loop all the same."""
    monkeypatch.setattr(LoopWatch, "_watch", Failing())
    async with asyncio.timeout(PATIENCE), LoopWatch():
        assert "watching the loop has ended" in str(await reasons.get())
    assert loop.TICK > 0


async def test_who_waits_for_a_result_is_told_of_any_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not only of what Kafka says: nobody waits for ever, and reading begins again."""
    failing = Failing()
    monkeypatch.setattr(tail, "RETRY_PAUSE", 0.0)
    monkeypatch.setattr(tail, "require", failing.later)
    async with asyncio.timeout(PATIENCE), Tail(Kafka(), "results") as opened:
        with pytest.raises(BrokerError, match="the worker's log has the traceback"):
            async with opened.expecting("r1", 0):
                pass
        await failing.thrice.wait()
    assert set(caplog.messages) == {"following the results failed, trying again"}


async def test_who_comes_while_the_tail_closes_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that came before the next consumer has found the end would be missed."""
    closing, may_close = asyncio.Event(), asyncio.Event()

    async def ends(places: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(places, 0)

    @asynccontextmanager
    async def consumer(*_: Any, **__: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(assign=print, seek=print, end_offsets=ends, highwater=lambda _: None)
        closing.set()
        await may_close.wait()

    async def require(*_: Any) -> dict[str, Any]:
        return {"results": SimpleNamespace(partitions=3)}

    monkeypatch.setattr(tail, "IDLE_STOP", 0.2)
    monkeypatch.setattr(tail, "require", require)
    monkeypatch.setattr(tail.client, "consumer", consumer)
    monkeypatch.setattr(tail.client, "poll", lambda *_, **__: asyncio.sleep(0.01, {}))
    async with asyncio.timeout(PATIENCE), Tail(Kafka(), "results") as opened:
        assert await opened._started() == 3
        await closing.wait()
        waiting = asyncio.ensure_future(opened._started())
        await asyncio.wait({waiting}, timeout=0.02)
        assert not waiting.done()
        may_close.set()
        assert await waiting == 3


@pytest.mark.parametrize("what", ["fetching", "looking up brokers"])
async def test_a_consumer_whose_task_has_failed_says_so(what: str) -> None:
    """Aiokafka keeps the fault to itself: polls would bring nothing for ever, or commits would wait for ever."""
    failed, healthy = await _failed(), asyncio.ensure_future(asyncio.Event().wait())
    fetching, looking = (failed, healthy) if what == "fetching" else (healthy, failed)
    fetcher, client = SimpleNamespace(_fetch_task=fetching), SimpleNamespace(_sync_task=looking)
    consumer: Any = SimpleNamespace(_fetcher=fetcher, _client=client)
    with pytest.raises(Exception, match=f"{what} has failed: LookupError"):
        require_tasks(consumer)
    healthy.cancel()


async def test_a_producer_whose_look_up_of_brokers_has_failed_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batch would never be acknowledged: the next producer sends it again."""
    monkeypatch.setattr(producer, "LOOK_EVERY", 0.01)
    opened = []

    class Deaf:
        """A producer that knows the partition, and is never acknowledged to."""

        def __init__(self, task: asyncio.Future[Any] | None) -> None:
            cluster = SimpleNamespace(partitions_for_topic=lambda _: {0})
            self.client = SimpleNamespace(cluster=cluster, _sync_task=task)

        async def send_batch(self, *_: Any, **__: Any) -> asyncio.Future[Any]:
            return asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def open_one(*_: Any, **__: Any) -> AsyncIterator[Deaf]:
        opened.append(Deaf(None if opened else await _failed()))
        yield opened[-1]

    monkeypatch.setattr(producer.client, "producer", open_one)
    async with producer.Producer(Kafka(), "test", pytest.fail) as publishing:
        with pytest.raises(KafkaError, match="looking up brokers has failed: LookupError"):
            await publishing.send("results", 0, "a batch")
        assert publishing._producer is opened[1]


async def test_a_client_whose_look_up_of_brokers_has_failed_is_closed_all_the_same() -> None:
    """Aiokafka raises that fault in place of closing the connections."""
    beneath = AIOKafkaClient()
    beneath._sync_task = await _failed()
    closed: list[Any] = []
    connection = SimpleNamespace(close=lambda reason: closed.append(reason) or asyncio.sleep(0))
    beneath._conns["node"] = connection
    await close(SimpleNamespace(client=beneath, stop=beneath.close))
    assert len(closed) == 1


async def _failed() -> asyncio.Future[Any]:
    """Return a task that has failed."""
    task = asyncio.ensure_future(Failing().later())
    await asyncio.wait({task})
    return task
