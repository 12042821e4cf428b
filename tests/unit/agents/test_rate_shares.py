"""How workers share a rate: simulated ones, on one log, that read and write as late as the test has it."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.cluster.rate_shares import GONE_AFTER, WRITE_EVERY, Limit, RateShares, split, want

RATE = 50.0
TICK = 0.1
NAME = "source prices"


@dataclass
class Node:
    """A worker: it reads `log` up to where it is, uses what it holds, and writes as SharedLimits does."""

    run: str
    log: list[dict[str, Any]]
    demand: float = 1e9
    skew: float = 0.0
    rate: float = RATE
    used: float = 0.0
    written_at: float = -1e9
    on_the_way: deque[dict[str, Any]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.shares = RateShares(self.run, {NAME: Limit(self.rate)}, lambda _: None)
        self.position = len(self.log)

    @property
    def held(self) -> float:
        return self.shares.limits[NAME].held

    def tick(self, now: float) -> None:
        self.used = min(self.held, self.demand)
        waiting = 30 if self.demand > self.held else 0
        self.shares.limits[NAME].want = want(self.used, waiting)
        if not self.on_the_way and (now - self.written_at >= WRITE_EVERY or self.shares.is_due()):
            self.written_at = now
            self.on_the_way.append(self.shares.write(now + self.skew))

    def deliver(self) -> None:
        while self.on_the_way:
            self.log.append(self.on_the_way.popleft())

    def read(self, most: int = 1_000_000) -> None:
        for record in self.log[self.position : self.position + most]:
            self.shares.read(record)
            self.position += 1


class Fleet:
    """Workers on one log, whose clocks have nothing in common."""

    def __init__(self, *demands: float) -> None:
        self.log: list[dict[str, Any]] = []
        self.now = 0.0
        self.nodes: list[Node] = []
        for demand in demands:
            self.start(demand)

    def start(self, demand: float = 1e9, rate: float = RATE) -> Node:
        node = Node(f"w{len(self.nodes)}-{self.now}", self.log, demand, skew=1000.0 * len(self.nodes), rate=rate)
        self.nodes.append(node)
        return node

    @property
    def total(self) -> float:
        return sum(node.held for node in self.nodes)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += TICK
            for node in self.nodes:
                node.tick(self.now)
                node.deliver()
            for node in self.nodes:
                node.read()
            assert self.total <= RATE + 1e-6

    def held(self) -> list[float]:
        return [round(node.held, 1) for node in self.nodes]


def test_a_worker_alone_has_the_whole_limit_once_others_must_have_written():
    """Nothing at first, all of it then."""
    fleet = Fleet(1e9)
    fleet.run(GONE_AFTER)
    assert fleet.held() == [0.0]
    fleet.run(WRITE_EVERY + 4 * TICK)
    assert fleet.held() == [50.0]


def test_shares_follow_joins_leaves_and_deaths_within_two_seconds():
    """One to three to two workers, all with more to do than they may: equal shares after two seconds each."""
    fleet = Fleet(1e9)
    fleet.run(3)
    fleet.start()
    fleet.run(2)
    assert fleet.held() == [25.0, 25.0]
    fleet.start()
    fleet.run(2)
    assert fleet.held() == [16.7, 16.7, 16.7]
    fleet.nodes.pop(0)  # killed: its last record stays
    fleet.run(2)
    assert fleet.held() == [25.0, 25.0]
    gone = fleet.nodes.pop()
    fleet.log.append({"limits": {}, "run": gone.run, "at": 1.0, "left": True})
    fleet.run(4 * TICK)
    assert fleet.held() == [50.0]


def test_while_a_new_rate_is_rolled_out_each_has_its_part_of_its_own():
    """Workers that have the old one must not leave those that have the new one, or an older build, without any."""
    fleet = Fleet(1e9, 1e9)
    fleet.run(3)
    fleet.start(rate=10.0)
    fleet.run(2)
    assert fleet.held() == [16.7, 16.7, 3.3]
    for _ in range(2):
        fleet.nodes.pop(0)
        fleet.start(rate=10.0)
        fleet.run(3)
    assert fleet.held() == [3.3, 3.3, 3.3]
    assert "rates" in fleet.log[0]
    for record in fleet.log:
        del record["rates"]
    fleet.run(1)
    assert fleet.held() == [3.3, 3.3, 3.3]


def test_what_one_does_not_use_others_have():
    """Of fifty a worker that needs forty gets them beside two that need five; and half when another needs more, too."""
    fleet = Fleet(40.0, 4.0, 1.0)
    fleet.run(6)
    assert [node.held >= demand for node, demand in zip(fleet.nodes, (40.0, 4.0, 1.0), strict=True)] == [True] * 3
    fleet.nodes[1].demand = 1e9
    fleet.run(2)
    assert fleet.nodes[1].held == pytest.approx(fleet.nodes[0].held, abs=2)
    assert sum(node.used for node in fleet.nodes) >= 0.9 * RATE
    fleet.nodes[0].demand = 0.0
    fleet.run(2)
    assert fleet.nodes[1].held >= 0.9 * (RATE - 1.2)
    fleet.nodes[0].demand = 10.0
    fleet.run(1)
    assert fleet.nodes[0].held >= 10, "an idle worker has its share back within a second"


def test_while_the_topic_stands_still_everyone_keeps_its_share():
    """Nobody is gone for others who write as little, however long it lasts, and nothing happens when it goes on."""
    fleet = Fleet(1e9, 1e9, 1e9)
    fleet.run(5)
    before = fleet.held()
    for _ in range(600):  # a minute in which writes hang
        fleet.now += TICK
        for node in fleet.nodes:
            node.tick(fleet.now)
    assert fleet.held() == before == [16.7, 16.7, 16.7]
    fleet.run(0.5)
    assert fleet.held() == before
    fleet.run(5)
    assert fleet.held() == before


def test_a_worker_whose_records_come_late_takes_nothing_back_that_others_have_taken():
    """Two that wrote for two seconds without the third have shared its part: it holds none of it as it reads that."""
    fleet = Fleet(1e9, 1e9, 1e9)
    fleet.run(5)
    late = fleet.nodes.pop()
    fleet.run(3)
    assert fleet.held() == [25.0, 25.0]
    assert late.held == pytest.approx(16.7, abs=0.1)
    late.read()
    assert late.held == 0.0
    fleet.nodes.append(late)
    fleet.run(3)
    assert fleet.held() == [16.7, 16.7, 16.7]


def test_a_worker_that_missed_records_keeps_its_share_if_it_fits():
    """After its reader was opened anew it knows nobody: it keeps what it has, and takes nothing before it knows."""
    fleet = Fleet(1e9, 1e9)
    fleet.run(5)
    anew = fleet.nodes[0]
    anew.shares.restart()
    fleet.run(1)
    assert fleet.held() == [25.0, 25.0]
    fleet.run(3)
    assert fleet.held() == [25.0, 25.0]


@pytest.mark.parametrize("number", range(30))
def test_no_lateness_of_reading_and_writing_makes_the_limit_exceeded(number: int) -> None:
    """Whatever each reads and writes late, as long as nobody is silent for so long that it counts as gone: what all
    hold together is never more than the limit, with workers that come and leave and demands that change.
    """
    seed = random.Random(number)
    fleet = Fleet(*(seed.choice([0.0, 5.0, 20.0, 1e9]) for _ in range(2 + number % 4)))
    for step in range(300):
        fleet.now += TICK / 2
        for node in list(fleet.nodes):
            if seed.random() < 0.7:
                node.tick(fleet.now)
            if seed.random() < 0.5 or fleet.now - node.written_at > 0.2:
                node.deliver()
            node.read(seed.choice([0, 0, 1, 2, 1_000]))
            if seed.random() < 0.02:
                node.demand = seed.choice([0.0, 5.0, 20.0, 1e9])
            assert fleet.total <= RATE + 1e-6
        if step in (60, 120):
            fleet.start()
        if step == 180:
            gone = fleet.nodes.pop(seed.randrange(len(fleet.nodes)))
            fleet.log.append({"limits": {}, "run": gone.run, "at": fleet.now, "left": True})
    for node in fleet.nodes:
        node.demand = 1e9
    fleet.run(4)
    assert fleet.total == pytest.approx(RATE, abs=1), "and in the end all of it is held"


@given(rate=st.floats(0.1, 1e4), wants=st.dictionaries(st.text(max_size=3), st.floats(0, 1e5), min_size=1, max_size=9))
def test_a_split_gives_out_all_and_is_fair(rate: float, wants: dict[str, float]) -> None:
    """The whole rate is given out; who gets less than it wants gets no less than anyone else; all have something."""
    shares = split(rate, wants)
    assert sum(shares.values()) == pytest.approx(rate)
    for run, share in shares.items():
        assert share > 0
        if share < wants[run] * (1 - 1e-9):
            assert share >= max(shares.values()) * (1 - 1e-9) or share >= min(wants[run], rate) * (1 - 1e-9)


@pytest.mark.parametrize(
    "record",
    [{}, {"run": 5, "at": 1.0}, {"run": "w", "at": "now"}, {"run": "w", "at": 1.0, "limits": {"a": 1}},
     {"run": "w", "at": 1.0, "limits": {"a": ["x", 1]}}, {"run": "w", "at": 1.0, "limits": {"a": [-1, 1]}}],
)  # fmt: skip
def test_what_is_no_record_of_ours_changes_nothing(record: dict[str, Any]) -> None:
    """Anyone who may write to the topic may write anything."""
    shares = RateShares("me", {NAME: Limit(RATE, held=20.0)}, lambda _: None)
    with pytest.raises(ValueError, match=r"record|claim"):
        shares.read(record)
    assert (shares.limits[NAME].held, shares.peers) == (20.0, {})
