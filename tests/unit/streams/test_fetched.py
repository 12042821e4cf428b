"""What consumers hand on of what was fetched: all of it, whatever it is, and never too much at once."""

from __future__ import annotations

import gzip
import logging

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED

from streams.kafka import fetched as module
from streams.kafka.fetched import FETCH_TRIES, FetchResult, PartitionRecords, Unreadable, release
from tests.unit.streams.raw_batches import ATTRIBUTES, batch, changed, legacy

TP = TopicPartition("requests", 0)
SOME = [(b"k", b"v%d" % n, []) for n in range(3)]


class State:
    """A partition that is read, and the assignment that has it and others."""

    active = True
    paused = False

    def __init__(self, position=0, partitions=1):
        self.position = position
        self.tps = range(partitions)

    def state_value(self, _):
        return self

    def consumed_to(self, position):
        self.position = position


def result(state, *batches):
    """Make what a fetch of these batches at the state's position gives."""
    records = module.fetcher.MemoryRecords(b"".join(batches))
    found = PartitionRecords(TP, records, [], state.position, None, None, True, READ_COMMITTED)
    return FetchResult(TP, assignment=state, partition_records=found, backoff=0)


def damaged(raw):
    return raw[:-1] + bytes([raw[-1] ^ 1])


@pytest.fixture(autouse=True)
def _forgotten():
    module.unreadable.clear()
    module._tries.clear()


def test_what_cannot_be_read_is_passed_with_one_line(caplog):
    """The records around a broken batch are handed on; of it come what stands for its records, and one line."""
    state = State()
    broken = changed(batch(*SOME, offset=3), {ATTRIBUTES: 4}, b"no zstd")
    with caplog.at_level(logging.WARNING):
        taken = result(state, batch(*SOME), broken, batch(*SOME, offset=6)).getall()
    assert [each.offset for each in taken] == list(range(9))
    assert [type(each) is Unreadable for each in taken] == [False] * 3 + [True] * 3 + [False] * 3
    assert {(each.key, each.value, each.headers) for each in taken[3:6]} == {(None, None, ())}
    [line] = caplog.messages
    assert line.startswith("requests-0 offset 3, of a batch that ends before 6, cannot be read: its zstd is damaged")
    assert (module.unreadable, state.position) == ({"requests": 3}, 9)


def test_a_wrong_checksum_is_fetched_again_and_then_passed():
    """Nothing is skipped at first, since the bytes may have been damaged on their way; then something stands for it."""
    state, fetch = State(), (damaged(batch(*SOME)), batch(*SOME, offset=3))
    for _ in range(FETCH_TRIES - 1):
        again = result(state, *fetch)
        assert (again.getall(), again.has_more(), state.position) == ([], False, 0)
    taken = result(state, *fetch).getall()
    assert [type(each) is Unreadable for each in taken] == [True] * 3 + [False] * 3
    assert (taken[0].reason, taken[0].raw) == ("its batch has a wrong checksum", fetch[0])
    assert state.position == 6


def test_a_damaged_batch_whose_end_is_not_known_is_passed_offset_by_offset():
    """What its header says of its end is not believed, unless the next batch agrees."""
    state = State()
    for _ in range(FETCH_TRIES):
        taken = result(state, damaged(batch(*SOME))).getall()
    assert ([each.offset for each in taken], state.position) == ([0], 1)


@pytest.mark.parametrize("magic", [0, 1])
def test_legacy_messages_are_read(magic):
    """Kafka 4 may still have them. Those of format v0 have no timestamp, which is -1 as it is elsewhere."""
    state = State()
    [record] = result(state, legacy(0, b"v", magic=magic, key=b"k")).getall()
    assert (record.key, record.value, record.timestamp, record.headers) == (b"k", b"v", 1000 if magic else -1, ())
    wrapped = legacy(1, gzip.compress(legacy(0, b"v", magic=magic)), magic=magic)
    assert [each.value for each in result(State(), wrapped).getall()] == [b"v"]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"no gzip", "its gzip is damaged"), (gzip.compress(bytes(40 << 20)), "it inflates to more than 32 MiB")],
)
def test_legacy_messages_that_cannot_be_read_are_passed(payload, reason):
    """They inflate within the same bounds, and cost themselves alone."""
    state = State()
    [flaw] = result(state, legacy(1, payload)).getall()
    assert (flaw.reason.startswith(reason), state.position) == (True, 1)


def test_a_poll_brings_a_share_of_bytes(monkeypatch):
    """Each partition has its share of what one poll brings, and gives one record at least."""
    monkeypatch.setattr(module, "MAX_POLL_BYTES", 4000)
    state = State(partitions=4)
    many = result(state, *(batch((b"k", bytes(600), []), offset=n) for n in range(10)))
    sizes = []
    while many.has_more():
        sizes.append(len(many.getall()))
    assert (sizes, state.position) == ([2, 2, 2, 2, 2, 0], 10)
    monkeypatch.setattr(module, "MAX_POLL_BYTES", 0)
    state = State()
    assert len(result(state, batch(*SOME)).getall()) == 1


def test_what_is_half_inflated_is_let_go_where_nothing_is_read():
    """A partition that takes no more keeps no inflated batch; one that is plain stays."""

    class Consumer:
        _fetcher = type("", (), {"_records": {}})

    pending = Consumer._fetcher._records
    other = TopicPartition("requests", 1)
    for tp, codec in ((TP, 4), (other, 0)):
        state = State()
        pending[tp] = result(state, batch(*SOME, (b"k", bytes(1000), []), codec=codec))
        assert len(pending[tp].getall(1)) == 1
    release(Consumer, {TP})
    assert set(pending) == {TP, other}
    release(Consumer, set())
    assert set(pending) == {other}
