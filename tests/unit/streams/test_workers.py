"""What workers tell is kept by worker, with the time since it was heard, and forgotten in time."""

from __future__ import annotations

import json

import pytest
from aiokafka import ConsumerRecord

from agents.cluster.registry import FORGET_AFTER, MOST, WorkerRegistry
from streams.config.settings import Settings
from tests.fakes import Clock

NOW = 1_000_000.0


def record(key, value, at=NOW):
    value = value if isinstance(value, bytes | None) else json.dumps(value).encode()
    return ConsumerRecord("workers", 0, 0, int(at * 1000), 0, key, value, None, 0, 0, ())


@pytest.fixture
def clock():
    return Clock(NOW)


@pytest.fixture
def workers(clock):
    return WorkerRegistry(Settings(worker_id="me"), clock=clock)


def test_silence_is_counted_from_when_a_record_was_heard(workers, clock):
    """A record heard live counts from now whatever its writer's clock says; one of the past from its timestamp."""
    workers.receive(record(b"live", {"role": "all"}, at=clock.now - 300))
    workers.receive(record(b"past", {}, at=clock.now - 60), live=False)
    workers.receive(record(b"future", {}, at=clock.now + 60), live=False)
    clock.now += 2
    assert [(each["id"], each["silent_s"]) for each in workers.all()] == [("future", 2), ("live", 2), ("past", 62)]


def test_the_key_says_whose_record_it_is(workers):
    """A record that claims another id goes under its key."""
    workers.receive(record(b"one", {"id": "two"}))
    assert [each["id"] for each in workers.all()] == ["one"]


def test_workers_of_another_group_are_not_listed(workers):
    """Groups may share the topic, and each lists its own: one that tells no group is of an older version."""
    workers.receive(record(b"own", {"group": "millrace"}))
    workers.receive(record(b"older", {}))
    workers.receive(record(b"moved", {"group": "millrace"}))
    workers.receive(record(b"moved", {"group": "another"}))
    workers.receive(record(b"foreign", {"group": "another"}))
    assert [each["id"] for each in workers.all()] == ["older", "own"]
    assert workers.unreadable == 0


def test_a_tombstone_and_long_silence_end_a_worker(workers, clock):
    """One that stopped in order is gone at once, one that was killed after ten minutes."""
    workers.receive(record(b"stopped", {}))
    workers.receive(record(b"killed", {}))
    workers.receive(record(b"stopped", None))
    assert [each["id"] for each in workers.all()] == ["killed"]
    clock.now += FORGET_AFTER
    assert workers.all() == []


@pytest.mark.parametrize(
    "value", [b"\xff", b"[1]", b"[" * 9000, b'{"rss": NaN}', b'{"rss": 1e999}', b'{"url": "\\ud800"}', b'{"a":1,"a":2}']
)
def test_what_no_worker_writes_is_counted_and_left_out(workers, value):
    """What is no JSON for everybody else is none here: told on, it would break whoever asks."""
    workers.receive(record(b"one", {}))
    workers.receive(record(b"one", value))
    assert (workers.unreadable, [each["id"] for each in workers.all()]) == (1, ["one"])


def test_the_number_of_workers_is_bounded(workers, clock):
    """Whatever is written to the topic, so many are kept at most: the latest heard."""
    for number in range(MOST + 50):
        clock.now += 0.001
        workers.receive(record(b"%05d" % number, {}))
    kept = workers.all()
    assert len(kept) == MOST
    assert kept[0]["id"] == "00050"
