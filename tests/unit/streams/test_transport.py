"""What is taken from Kafka: as much as may be pending, and of one partition no more than is left for the others."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import ConsumerRecord
from aiokafka.errors import NodeNotReadyError
from faust.types import TP

from streams.app import Recovery
from streams.config import settings as defaults
from streams.config.settings import Kafka, Settings
from streams.kafka import thread as thread_module
from streams.kafka import transport as module
from streams.kafka.batch import size_of
from streams.kafka.commit_metadata import Identity
from streams.kafka.holdings import Holdings
from streams.kafka.lease import Lease
from streams.kafka.thread import ConsumerThread, Polled
from streams.kafka.transport import Consumer


def record(offset: int, key: bytes | None = None, value: bytes | None = None, headers: Any = ()) -> Any:
    sizes = (-1 if each is None else len(each) for each in (key, value))
    return ConsumerRecord("t", 0, offset, 5, 0, key, value, None, *sizes, headers)


class Held:
    """A consumer's leases, as far as what may be taken goes."""

    def __init__(self, partitions: int, most: int = 1_000) -> None:
        self.leases = {
            TP("t", number): Lease("g", "t", number, Identity("c", "t"), position=0) for number in range(partitions)
        }
        self.full: set[int] = set()
        self.app = SimpleNamespace(is_full=self.full.__contains__)
        self.transport = SimpleNamespace(settings=Settings(max_pending_bytes=most))

    def take(self, number: int, count: int, size: int = 0) -> None:
        lease = self.leases[TP("t", number)]
        first = lease.position or 0
        records = [record(first + i) for i in range(count)]
        lease.deliver(records, first + count, large={each.offset: size for each in records} if size else None)

    def open(self) -> list[int]:
        return [tp.partition for tp in Consumer._open(cast("Any", self), self.leases)]


def test_a_partition_with_much_pending_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One partition takes half of the room and no more; the others go on until theirs is half of what is left."""
    monkeypatch.setattr(defaults, "MAX_PENDING", 40)
    held = Held(3)
    held.take(0, 19)
    assert held.open() == [0, 1, 2]
    held.take(0, 1)
    assert held.open() == [1, 2]
    held.take(1, 10)
    assert held.open() == [2]
    held.leases[TP("t", 0)].finish_all(range(20))
    assert held.open() == [0, 1, 2]


def test_partitions_that_rest_leave_room_for_those_that_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a day in some delay topics, in records or in bytes, must not keep others from being polled."""
    monkeypatch.setattr(defaults, "MAX_PENDING", 40)
    for size in (0, 100):
        held = Held(4, most=400)
        for number in range(3):
            held.take(number, 20, size)
            held.leases[TP("t", number)].rests = True
        assert held.open() == [3]
        held.take(3, 20, size)
        assert held.open() == []


def test_of_a_partition_whose_results_kafka_does_not_take_no_more_is_taken() -> None:
    """Its requests wait on Kafka; those of the others go on."""
    held = Held(3)
    held.full.add(1)
    assert held.open() == [0, 2]


async def test_whose_ends_to_look_up_is_found_with_one_look_at_each_partition() -> None:
    """A worker may hold hundreds of partitions, and looks once a second."""
    held, looks = Held(300), list[int]()
    held.app.is_full = lambda number: looks.append(number) or number == 7
    wanted: list[Any] = []

    async def call(_: Any) -> dict[TP, int]:
        return {TP("t", 7): 5}

    consumer = SimpleNamespace(
        leases=held.leases,
        _open=lambda leases: Consumer._open(cast("Any", held), leases),
        _thread=SimpleNamespace(call=call, ends=lambda full: wanted.append(list(full))),
    )
    await Consumer._learn_ends(cast("Any", consumer))
    assert (wanted, len(looks), held.leases[TP("t", 7)].end) == ([[TP("t", 7)]], 300, 5)


def test_bytes_bound_what_is_taken_as_well() -> None:
    """A few large records close their partition, not the others, and are opened for more when they are finished."""
    held = Held(2, most=1_000)
    held.take(0, 2, size=250)
    assert held.open() == [1]
    held.take(1, 1, size=400)
    assert held.open() == []
    held.leases[TP("t", 0)].finish(0)
    assert held.open() == [0]


@pytest.mark.slow
def test_what_is_finished_and_not_pending_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request that takes long does not keep a partition from being read, however much is finished behind it."""
    monkeypatch.setattr(defaults, "MAX_PENDING", 40)
    held = Held(1)
    for start in range(0, 100_000, 10):
        held.take(0, 10)
        held.leases[TP("t", 0)].finish_all(range(max(1, start), start + 10))
    held.leases[TP("t", 0)].commit_point()
    assert held.open() == [0]


def test_what_no_commit_could_remember_closes_a_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many gaps for the commit's metadata: no more is taken, so a crash repeats no more than a set number."""
    monkeypatch.setattr(defaults, "MAX_UNREMEMBERED", 3_000)
    held = Held(1)
    held.take(0, 10_000)
    held.leases[TP("t", 0)].finish_all(range(1, 10_000, 2))
    held.leases[TP("t", 0)].commit_point()
    assert held.open() == []


class Polling:
    """A consumer whose polls come from a list, as far as delivery goes; `sought` is where reading was moved to."""

    def __init__(self, lease: Lease) -> None:
        self.leases = {TP("t", 0): lease}
        self.delivered: list[int] = []
        self.sought: list[Any] = []
        self.app = SimpleNamespace(consumer_generation_id=1)
        self.watch = SimpleNamespace(guessed=set())
        self._thread = SimpleNamespace(seek_all=self._seek_all, call=self._call)

    async def deliver(self, lease: Lease, start: int, *offsets: int, position: int) -> None:
        poll = Polled(start, [record(offset) for offset in offsets], position, None)
        await Consumer._deliver(cast("Any", self), TP("t", 0), lease, poll)

    async def callback(self, message: Any) -> None:
        self.delivered += [each.offset for each in message.value.records]

    def _seek_all(self, positions: Any) -> Any:
        self.sought.append(positions)

    async def _call(self, _: Any) -> None:
        pass


async def test_what_a_poll_took_from_nobodys_lease_is_read_again() -> None:
    """A poll that was under way at a rebalance takes records from where the new leases are to begin, and hands them to
    the old one, which is over: the new one reads them itself, committed or not.
    """
    for position, start in ((7, 7), (None, 3)):
        old = Lease("g", "t", 0, Identity("c", "t"), position=7)
        new = Lease("g", "t", 0, Identity("c", "t"), position=position)
        new.start = start
        polling = Polling(old)
        old.revoke()
        await polling.deliver(old, start, start, start + 1, position=start + 2)
        assert (polling.delivered, polling.sought) == ([], [])  # the lease that is to come is not there yet
        polling.leases[TP("t", 0)] = new
        await polling.deliver(new, start + 2, start + 2, position=start + 3)
        await polling.deliver(new, start + 3, position=start + 3)
        assert (polling.delivered, polling.sought) == ([], [{TP("t", 0): start}] * 2)
        assert new.point == position  # nothing that was passed over may be committed
        await polling.deliver(new, start, start, start + 2, position=start + 4)  # with a hole
        await polling.deliver(new, start + 4, start + 4, position=start + 5)
        assert polling.delivered == [start, start + 2, start + 4]
        assert len(polling.sought) == 2


@pytest.mark.parametrize(
    ("made", "size"),
    [
        (record(0, None, None), -2),
        (record(0, b"k" * 10, b"v" * 90), 100),
        (record(0, b"k", b"v", [("name", b"x" * 50), ("none", None)]), 60),
    ],
)
def test_a_record_is_as_large_as_all_of_it(made: Any, size: int) -> None:
    """Key, value and headers count; what is absent is nothing worth counting."""
    assert size_of(made) == size


class Seeking:
    """A consumer that takes leases: what its thread answers is a test's."""

    def __init__(self, *tps: TP) -> None:
        self.leases = Holdings("g")
        self.rebalances = self._revokes = 0
        self.crashed: list[Any] = []
        self.should_stop = False
        self.app = SimpleNamespace(consumer_generation_id=1, exactly_once=False, crash=self._crash)
        self.transactions = SimpleNamespace(settled=lambda: None)
        self.watch = SimpleNamespace(guessed=set())
        self._kafka = Kafka()
        self._thread = self
        self.member, self.held, self._tps = None, frozenset(tps), set(tps)
        self.begun = asyncio.Event()

    def assignment(self) -> set[TP]:
        return self._tps

    def _is_changelog_tp(self, _: TP) -> bool:
        return False

    async def _crash(self, reason: Any) -> None:
        self.crashed.append(reason)

    async def call(self, coroutine: Any) -> Any:
        return await coroutine

    async def outlook(self, tps: Any) -> Any:
        return dict.fromkeys((tp.topic for tp in tps), Identity("c", "t")), {}

    async def known_begins(self, tps: Any) -> Any:
        return dict.fromkeys(tps, 7)

    async def seek_all(self, positions: Any) -> None:
        self.sought = positions

    def _while_assigned(self, *arguments: Any) -> Any:
        return Consumer._while_assigned(cast("Any", self), *arguments)

    async def perform_seek(self) -> None:
        await Consumer.perform_seek(cast("Any", self))


async def test_a_member_without_partitions_holds_nothing() -> None:
    """Faust seeks only where there is something to seek: leases of before would keep the worker from being ready, and
    have it claim their partitions.
    """
    seeking = Seeking(TP("t", 0))
    await seeking.perform_seek()
    assert list(seeking.leases) == [TP("t", 0)]
    lease = seeking.leases[TP("t", 0)]
    seeking.leases.give_up(TP("t", 0))
    Consumer.let_go(cast("Any", seeking))
    assert (list(seeking.leases), lease.alive, seeking.rebalances) == ([], False, 2)


async def test_faust_s_recovery_lets_go_where_it_has_nothing_to_seek(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an assignment, it is Faust that seeks."""
    let_go: list[bool] = []
    for assignment in ({TP("t", 0)}, set()):
        holder = SimpleNamespace(assignment=lambda found=assignment: found, let_go=lambda: let_go.append(True))
        recovery = SimpleNamespace(app=SimpleNamespace(recover=None, holder=holder))
        resumed: list[int] = []

        async def resume(_: Any, generation: int, resumed: list[int] = resumed) -> None:
            resumed.append(generation)

        monkeypatch.setattr("faust.tables.recovery.Recovery._resume_streams", resume)
        made = Recovery.__new__(Recovery)
        made.__dict__.update(vars(recovery))
        await made._resume_streams(7)
        assert resumed == [7]
    assert let_go == [True]


async def test_a_partition_without_a_leader_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a group that has committed nothing: where the others begin is known, and it is read from 0 on once it has a
    leader, or from where its log begins.
    """
    away, there = TP("t", 1), {TP("t", 0), TP("t", 2)}
    monkeypatch.setattr(thread_module, "BEGIN_TIMEOUT", 0.02)

    async def beginning_offsets(places: Any) -> Any:
        if away in places:
            await asyncio.Event().wait()
        return dict.fromkeys(places, 7)

    thread = ConsumerThread.__new__(ConsumerThread)
    thread._consumer = cast("Any", SimpleNamespace(beginning_offsets=beginning_offsets))
    seeking = Seeking(away, *there)
    seeking.known_begins = thread.known_begins  # type: ignore[method-assign]
    await seeking.perform_seek()
    assert seeking.sought == dict.fromkeys(there, 7) | {away: 0}
    assert seeking.watch.guessed == {away}
    lease = seeking.leases[away]
    await Consumer._deliver(cast("Any", seeking), away, lease, Polled(0, [], 0, None))
    assert (lease.position, lease.commit_point()) == (None, None), "nothing is committed of what nobody knows"
    assert set(seeking.leases) == {away, *there}


async def test_what_a_revoke_has_overtaken_is_not_held() -> None:
    """Leases that are taken while the group is at its next generation are another's by then."""
    seeking = Seeking(TP("t", 0))

    async def begins(tps: Any) -> Any:
        seeking._revokes += 1
        return dict.fromkeys(tps, 0)

    seeking.known_begins = begins  # type: ignore[method-assign]
    await seeking.perform_seek()
    assert list(seeking.leases) == []


async def test_all_of_taking_leases_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust gives up after 90 s, for good: what took long to read leaves less time for the rest."""
    monkeypatch.setattr(module, "COMMITS_DEADLINE", 0.2)
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.01)
    seeking = Seeking(TP("t", 0))
    began = time.monotonic()
    tried: list[str] = []

    async def outlook(_: Any) -> Any:
        tried.append("outlook")
        if time.monotonic() < began + 0.15:
            raise NodeNotReadyError
        return {"t": Identity("c", "t")}, {}

    async def begins(_: Any) -> Any:
        tried.append("begins")
        raise NodeNotReadyError

    seeking.outlook, seeking.known_begins = outlook, begins  # type: ignore[method-assign]
    await seeking.perform_seek()
    assert len(seeking.crashed) == 1
    assert time.monotonic() - began < 0.34  # a deadline for each would end after 0.35 s
    assert set(tried) == {"outlook", "begins"}
