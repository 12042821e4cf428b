"""Finds the result that was published with a dead letter, in the results topic: in the partition that the request's
stands for, from the letter's time on.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import NamedTuple

from aiokafka import TopicPartition

from models.dead_letter import DeadLetter
from models.errors import BrokerError
from models.moment import iso
from models.result import read_result
from streams.config.settings import Settings
from streams.kafka.reader import Reader, Record, Span
from streams.kafka.topics import require

BEFORE = 1.0
"""Seconds before the letter's time from which it is searched: their times are of two clocks, if brokers set them."""
SEARCHED = 20_000
"""Results among which it is searched: it follows its letter within some batches."""
SEARCH_TIMEOUT = 10.0
"""Seconds that all of it may take."""
OF_A_ROUTE = "the record is a route's: if the route publishes failures, the result is in the route's own topic"
NO_REQUEST = "the letter lacks the headers that say which request it is of"


class Published(NamedTuple):
    """A result as it was published; `at` is in milliseconds since the epoch."""

    partition: int
    offset: int
    at: int
    value: bytes


async def find_published(settings: Settings, letter: DeadLetter) -> Published | str:
    """Return the result that was published with a dead letter, or the reason why there is none to show."""
    if letter.route is not None:
        return OF_A_ROUTE
    if letter.topic is None or letter.request_id is None:
        return NO_REQUEST
    try:
        async with asyncio.timeout(SEARCH_TIMEOUT):
            return await _find(settings, letter, letter.request_id.encode())
    except TimeoutError:
        return f"the results topic was searched for {SEARCH_TIMEOUT:g} s, in vain: Kafka is slow, or away"
    except BrokerError as exc:
        return str(exc)


async def _find(settings: Settings, letter: DeadLetter, request_id: bytes) -> Published | str:
    name = settings.results_topic
    topic = (await require(settings.kafka, read=[name]))[name]
    tp = TopicPartition(name, letter.origin_partition % topic.partitions)
    async with Reader(settings.kafka) as reader:
        kept = (await reader.spans(name, topic.partitions)).get(tp)
        first, end = (await reader.spans(name, topic.partitions, letter.at - BEFORE)).get(tp, (0, 0))
        if kept is None or first >= end:
            return f"{name}-{tp.partition} has no result from {iso(int(letter.at * 1000))} on"
        span, begins = (first, min(end, first + SEARCHED)), None
        async with aclosing(reader.read({tp: span})) as records:
            async for record in records:
                begins = record.timestamp if begins is None else begins
                if _is_of(record, request_id):
                    return Published(record.partition, record.offset, record.timestamp, record.value or b"")
    if first == kept[0] > 0 and begins is not None and begins > letter.at * 1000:
        return f"{name}-{tp.partition} begins at {iso(begins)}: Kafka has deleted what was before"
    return _not_found(tp, span)


def _not_found(tp: TopicPartition, span: Span) -> str:
    return (
        f"it is not among offsets {span[0]} to {span[1] - 1} of {tp.topic}-{tp.partition}, the first from the letter's "
        "time on: it was compacted, came later, or is not published yet"
    )


def _is_of(record: Record, request_id: bytes) -> bool:
    """Whether a record is a request's last result, no interim one: only headers are read of the others."""
    if ("ce_id", request_id) not in record.headers:
        return False
    try:
        return "retry_at" not in read_result(record.value or b"null")
    except (ValueError, TypeError):
        return True
