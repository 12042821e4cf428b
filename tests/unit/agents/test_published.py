"""Which result is taken for the one that was published with a dead letter, beside a Kafka that is pretended."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from agents.redrive import published as module
from agents.redrive.published import NO_REQUEST, OF_A_ROUTE, find_published
from models.dead_letter import DLQ, read_dead_letter
from models.errors import AccessError
from streams.config.settings import Settings
from streams.kafka.topics import Topic

SETTINGS = Settings()
AT = 1_700_000_000_000
"""When the letter was written, in ms."""
PARTITIONS = 4


def letter(**said):
    said = {"topic": "requests", "partition": "6", "offset": "1", "id": "é", "outcome": "timeout", **said}
    headers = [(DLQ + name, text.encode()) for name, text in said.items() if text is not None]
    return read_dead_letter((1, 9), AT, b"k", b"{}", headers)


class Log:
    """One results partition: id, ms after the letter, and value of each record, from an offset on."""

    def __init__(self, *records, begins=0, partition=2):
        self.records, self.begins, self.partition, self.read_of = records, begins, partition, 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_): ...

    async def spans(self, topic, partitions, since=None):
        assert partitions == PARTITIONS
        end = self.begins + len(self.records)
        later = (self.begins + n for n, (_, at, _) in enumerate(self.records) if AT + at >= (since or 0) * 1000)
        first = next(later, end)
        return {TopicPartition(topic, self.partition): (first, end)} if first < end else {}

    async def read(self, spans):
        for tp, span in spans.items():
            for offset in range(*span):
                name, at, value = self.records[offset - self.begins]
                self.read_of += 1
                headers = (("ce_type", b"x"), ("ce_id", name.encode()))
                yield ConsumerRecord(tp.topic, tp.partition, offset, AT + at, 0, b"k", value, None, 0, 0, headers)


@pytest.fixture
def search(monkeypatch):
    async def require(_, read):
        return {name: Topic(name, PARTITIONS, 1) for name in read}

    async def found(log, dead_letter=None):
        monkeypatch.setattr(module, "Reader", lambda _: log)
        return await find_published(SETTINGS, letter() if dead_letter is None else dead_letter)

    monkeypatch.setattr(module, "require", require)
    return found


async def test_the_first_result_of_the_request_from_the_letter_on_is_its_own(search):
    """Not one of an earlier try, nor an interim one, nor that of a redrive: and what is behind it is not read."""
    log = Log(("é", -60_000, b'{"n":1}'), ("r1", 1, b"{}"), ("é", 2, b'{"retry_at":"x"}'), ("é", 3, b'{"n":2}'),
              ("é", 9_000, b'{"n":3}'), begins=10)  # fmt: skip
    assert await search(log) == (2, 13, AT + 3, b'{"n":2}')
    assert log.read_of == 3


async def test_a_result_that_is_no_json_is_shown_as_it_is(search):
    """Others may write to the topic: its bytes are what an operator has to see."""
    assert (await search(Log(("é", 2, b"\xff")))).value == b"\xff"
    assert (await search(Log(("é", 2, None)))).value == b""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (Log(("r1", 1, b"{}"), ("r2", 5, b"{}")), "is not among offsets 0 to 1 of results-2"),
        (Log(("r1", -5_000, b"{}")), "results-2 has no result from 2023-11-14T22:13:20.000Z on"),
        (Log(("r1", 60_000, b"{}"), begins=5), "results-2 begins at 2023-11-14T22:14:20.000Z: Kafka has deleted"),
        (Log(("é", 1, b"{}"), partition=3), "results-2 has no result"),
    ],
)
async def test_why_there_is_none_is_said_with_the_place_that_was_searched(search, log, reason):
    """Deleted, compacted, not there yet."""
    assert reason in await search(log)


async def test_the_search_has_an_end(search, monkeypatch):
    """However much was published since."""
    monkeypatch.setattr(module, "SEARCHED", 5)
    log = Log(*(("r1", n, b"{}") for n in range(50)))
    assert "offsets 0 to 4" in await search(log)
    assert log.read_of == 5


async def test_letters_of_routes_and_of_others_are_not_searched(search):
    """A route's results are in its own topic; what is no letter of ours names no request."""
    assert await search(Log(), letter(route="orders")) == OF_A_ROUTE
    assert await search(Log(), letter(id=None)) == NO_REQUEST


async def test_a_kafka_that_refuses_or_hangs_keeps_nobody_from_the_letter(search, monkeypatch):
    """The reason stands where the result would be."""

    async def refuse(*_, **__):
        raise AccessError("no Read on topic results")

    async def hang(*_, **__):
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "require", refuse)
    assert await search(Log()) == "no Read on topic results"
    monkeypatch.setattr(module, "require", hang)
    monkeypatch.setattr(module, "SEARCH_TIMEOUT", 0.01)
    assert "in vain" in await search(Log())
