"""What consumers hand on of what was fetched: all of it, whatever it is, and never too much at once."""

from __future__ import annotations

import gzip
import logging
from collections import OrderedDict

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED

from streams.kafka import fetched as module
from streams.kafka import lenient
from streams.kafka.fetched import FETCH_TRIES, FetchResult, PartitionRecords, Unreadable, begin_poll
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


class Consumer:
    """A consumer of partitions that share one assignment, with what was fetched of each."""

    def __init__(self, state, **pending):
        self._subscription = self.subscription = self
        self.assignment = state
        self._fetcher = self
        self._records = OrderedDict((TopicPartition(name, 0), found) for name, found in pending.items())

    def poll(self):
        return {tp.topic: len(found.getall()) for tp, found in self._records.items() if found.has_more()}


def test_all_partitions_of_a_poll_share_what_it_brings(monkeypatch):
    """What is inflated counts, also where nothing of it is kept; the partition that was first is last next time."""
    monkeypatch.setattr(module, "MAX_POLL_BYTES", 1 << 20)
    monkeypatch.setattr(lenient, "MAX_RECORD", 1 << 20)
    large = [(b"k", bytes(3 << 20), [])]
    states = {name: State() for name in "abc"}
    room = State(partitions=3)
    consumer = Consumer(room, **{name: result(state, batch(*large, codec=4), batch(*large, codec=4, offset=1))
                                 for name, state in states.items()})  # fmt: skip
    for found, state in zip(consumer._records.values(), states.values(), strict=True):
        state.room = None
        found.check_assignment = lambda _: True
        found._update_position = lambda: None
        found._assignment = room
    polls = []
    for _ in range(6):
        begin_poll(consumer, set(consumer._records))
        polls.append([name for name, count in consumer.poll().items() if count])
    assert polls == [["b"], ["c"], ["a"], ["b"], ["c"], ["a"]]


def test_a_poll_of_what_is_kept_for_long_brings_the_share_of_one_partition():
    """All partitions together then hold no more than may be kept, and one record more each."""
    state = State(partitions=4)
    batches = [batch((b"k", bytes(100), []), offset=offset) for offset in range(10)]
    found = {"a": result(state, *batches)}
    consumer = Consumer(state, **found)
    begin_poll(consumer, set(consumer._records), 4 * 3 * len(batches[0]))
    assert len(found["a"].getall(100)) == 3
    begin_poll(consumer, set(consumer._records), 0)
    assert len(found["a"].getall(100)) == 1
    begin_poll(consumer, set(consumer._records))
    assert len(found["a"].getall(100)) == 6


def test_what_is_half_inflated_is_let_go_where_nothing_is_read():
    """A partition that takes no more keeps no inflated batch; one that is plain stays."""
    wide = (*SOME, (b"k", bytes(1000), []))
    found = {name: result(State(), batch(*wide, codec=codec)) for name, codec in (("packed", 4), ("plain", 0))}
    consumer = Consumer(State(), **found)
    assert [len(each.getall(1)) for each in found.values()] == [1, 1]
    begin_poll(consumer, set(consumer._records))
    assert {tp.topic for tp in consumer._records} == {"packed", "plain"}
    begin_poll(consumer, set())
    assert {tp.topic for tp in consumer._records} == {"plain"}
