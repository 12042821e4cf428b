"""The part that keeps the tables recovers, or says why it cannot."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from faust.types import TP

from agents.tables import app as module
from agents.tables.app import TablesApp
from models.errors import BrokerError, StoreError
from streams.config.settings import Settings
from streams.kafka.commit_metadata import Identity
from streams.kafka.holdings import Holdings
from streams.kafka.topics import Topic
from streams.tables.changelogs import Changelogs


class Reads:
    """Stands for recoveries: each fails with what is there for it, or reads a row that an echo lies over."""

    def __init__(self, faults=()):
        self.faults = list(faults)
        self.runs = []

    def __call__(self, *_, pause):
        self.runs.append(pause)
        return SimpleNamespace(overwritten={("hosts", 1): {b"h"}}, run=self.run, lag=0)

    async def run(self, _):
        if self.faults:
            raise self.faults.pop(0)


def changelogs_of(partitions, results=4):
    return Changelogs([Topic(name, partitions, 1) for name in ("hosts-log", "answers-log")], results)


@pytest.fixture
async def part(monkeypatch, request):
    part = TablesApp(Settings(role=request.param))
    part.crashes = []

    async def crash(reason):
        part.crashes.append(reason)

    monkeypatch.setattr(part.app, "crash", crash)
    assigned = {TP("results", 1), TP("results", 3)}
    monkeypatch.setattr(type(part.app), "holder", SimpleNamespace(assignment=lambda: assigned, leases=Holdings("g")))
    part._changelogs = changelogs_of(4)
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.01)
    return part


def opened(**publisher):
    return SimpleNamespace(publisher=SimpleNamespace(**publisher))


def leased(part, monkeypatch):
    """Have changelogs of two partitions, and leases on what is assigned; return these."""

    async def prepare(_):
        return changelogs_of(2)

    monkeypatch.setattr(module, "prepare", prepare)
    part.resources, part._changelogs = opened(learn=lambda *_: None), None
    leases = part.app.holder.leases
    for tp in part.app.holder.assignment():
        leases[tp] = leases.lease(tp, Identity("c", "t"), None)
    return leases


def reading(monkeypatch, *faults):
    reads = Reads(faults)
    monkeypatch.setattr(module, "Recovery", reads)
    return reads


@pytest.mark.parametrize("part", ["all"], indirect=True)
async def test_a_worker_that_answers_tries_again_and_says_why(part, monkeypatch):
    """A changelog that cannot be read ends nobody who answers: readiness has the reason, until it can be read."""
    reads = reading(monkeypatch, BrokerError("hosts-1 cannot be read"), BrokerError("hosts-1 cannot be read"))
    recovering = asyncio.create_task(part.recover())
    while len(reads.runs) < 2:
        await asyncio.sleep(0)
    assert "hosts-1 cannot be read" in part.state.waiting_for
    await recovering
    assert (part.crashes, part.state.waiting_for, part.state.recovered) == ([], "", {1, 3})
    assert all(reads.runs), "it leaves the loop to answering"


@pytest.mark.parametrize("part", ["tables"], indirect=True)
async def test_a_worker_of_the_tables_alone_ends_with_the_reason(part, monkeypatch):
    """Whoever watches the process sees it end, and why."""
    reads = reading(monkeypatch, BrokerError("hosts-1 cannot be read"))
    with pytest.raises(BrokerError, match="hosts-1"):
        await part.recover()
    assert [str(reason) for reason in part.crashes] == ["hosts-1 cannot be read"]
    assert part.state.recovered == set()
    assert reads.runs == [0.0]


@pytest.mark.parametrize("part", ["all"], indirect=True)
async def test_a_store_without_room_ends_nobody_who_answers(part, monkeypatch):
    """A disk that is full at the start or in a recovery: the store is opened anew until it works, rows are missing
    meanwhile, and the reason is said. Once it has worked, its failure ends the worker, whoever meets it.
    """
    reads = reading(monkeypatch, StoreError("no room for rows"))
    full, opened = [StoreError("no room for the log"), StoreError("no room for the log")], []

    def open_():
        opened.append(part.state.waiting_for)
        if full:
            part._store_failed(full[-1])
            raise full.pop()

    monkeypatch.setattr(part.state.store, "open", open_)
    monkeypatch.setattr(part.app, "crash_soon", part.crashes.append)
    part.state.recovered = {1}
    recovering = asyncio.create_task(part.recover())
    while not reads.runs:
        await asyncio.sleep(0)
    assert part.state.recovered == set()
    await recovering
    assert opened[1:] == [f"not recovered: no room for {what}" for what in ("the log", "the log", "rows")]
    assert (part.state.recovered, part.state.waiting_for, part.crashes) == ({1, 3}, "", [])
    part._store_failed(broken := StoreError("no room again"))
    assert part.crashes == [broken]


@pytest.mark.parametrize("part", ["all"], indirect=True)
async def test_what_is_another_s_is_forgotten(part, monkeypatch):
    """Rows of partitions that went to others are dropped before the rest is read back; those that stayed are kept."""
    reading(monkeypatch)
    for partition in (1, 2):
        part.state.store.apply("hosts", partition, [(b"h", b'{"offset":1,"at":1}')], 1)
    part.state.recovered = {1, 2}
    await part.recover()
    assert part.state.store.partitions() == {1}
    assert part.state.recovered == {1, 3}


@pytest.mark.parametrize("part", ["all"], indirect=True)
async def test_a_recovery_that_was_cut_off_is_begun_anew(part, monkeypatch):
    """What a recovery met before a rebalance cut it off is not lost: its partition is read from the beginning."""
    reading(monkeypatch, asyncio.CancelledError())
    part.state.store.apply("hosts", 1, [(b"h", b'{"offset":1,"at":1}')], 1)
    with pytest.raises(asyncio.CancelledError):
        await part.recover()
    assert part.state.recovered == set()
    reading(monkeypatch)
    await part.recover()
    assert part.state.store.reaches("hosts", 1) is None


@pytest.mark.parametrize("part", ["all"], indirect=True)
async def test_a_recovery_that_ends_behind_the_next_notes_what_it_saw_itself(part, monkeypatch):
    """Faust begins the next recovery before the one it cut off has ended: that one's notes are its own."""
    noted = []
    monkeypatch.setattr(part.repair, "note", noted.append)

    async def run(_):
        part.recovery = SimpleNamespace(overwritten={})  # the next one

    seen = {("hosts", 1): {b"h"}}
    monkeypatch.setattr(module, "Recovery", lambda *_, **__: SimpleNamespace(overwritten=seen, run=run))
    await part.recover()
    assert noted == [seen]


@pytest.mark.parametrize("part", ["all", "tables"], indirect=True)
async def test_partitions_that_no_changelog_has_one_for_are_left_out(part, monkeypatch):
    """Results grew, and the changelogs may not: the other partitions go on, and readiness has the whole reason."""
    reading(monkeypatch)
    leases = leased(part, monkeypatch)
    await part.recover()
    assert part.state.recovered == {1}
    assert {tp.partition: lease.taking for tp, lease in leases.items()} == {1: True, 3: False}
    assert "partitions 3 of 'results' are not counted: topic 'hosts-log' has 2 partitions" in part.state.waiting_for
    assert "give each 4" in part.state.waiting_for


@pytest.mark.parametrize("part", ["all"], indirect=True)
async def test_what_was_left_out_stays_so_when_a_recovery_fails(part, monkeypatch):
    """The next attempt knows what no changelog has: taken up, its rows would go to another partition's changelog."""
    reading(monkeypatch, BrokerError("hosts-1 cannot be read"))
    leases = leased(part, monkeypatch)
    await part.recover()
    assert {tp.partition: lease.taking for tp, lease in leases.items()} == {1: True, 3: False}
    assert part.state.recovered == {1}
    assert "partitions 3 of 'results' are not counted" in part.state.waiting_for


@pytest.mark.parametrize("part", ["all"], indirect=True)
async def test_changelogs_that_cannot_be_had_end_nobody_who_answers(part, monkeypatch):
    """There may be no changelogs at the start, nor the right to make them: the tables wait for them, nobody else."""
    reading(monkeypatch)
    tries = [BrokerError("no topic 'hosts-log'"), BrokerError("no topic 'hosts-log'")]

    async def prepare(_):
        if tries:
            raise tries.pop()
        return changelogs_of(4)

    monkeypatch.setattr(module, "prepare", prepare)
    part.resources, part._changelogs = opened(learn=lambda *_: None), None
    await part.recover()
    assert (part.state.recovered, part.crashes) == ({1, 3}, [])


@pytest.mark.parametrize("part", ["all"], indirect=True)
async def test_rows_that_kafka_does_not_take_are_a_reason(part):
    """A changelog that was deleted under the worker takes no rows: readiness says so, after a while."""
    part.resources = opened(failing_since=time.monotonic() - 12)
    assert part.readiness() == "no acknowledgement of rows from Kafka for 12 s"
    part.resources.publisher.failing_since = time.monotonic() - 2
    assert "acknowledgement" not in part.readiness()
