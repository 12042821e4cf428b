"""Reads the dead letters, and puts chosen ones back on the topic of the requests: each at most once, whatever happens.

Request and mark (a record of the compacted topic `<group>-redriven`) are written in ONE transaction. The transactional
id is the group's: whoever begins to redrive fences whoever was at it, whose open transaction is undone, and only then
reads the marks. So a letter that was redriven is known as such after a kill -9, and by whoever redrives beside us.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Self

from aiokafka import TopicPartition

from models.errors import BrokerError
from models.letter import Choice, Letter, Place, read_letter
from streams.kafka.parcel import RECORD_OVERHEAD
from streams.kafka.reader import Reader, Record, Span
from streams.kafka.redriver import Redriver
from streams.kafka.topics import Admin, Topic, require
from streams.settings import Settings

RATE = 100.0
"""Letters a second that are put back unless told otherwise: a flood would only come back as another."""
BEFORE = "redriven before"


@dataclass(slots=True)
class Report:
    """What came of it: how many were redriven (or would be), why how many were not, and which were not to be found."""

    redriven: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    missing: list[Place] = field(default_factory=list)


Told = Callable[[Letter, str | None], None]
"""Is told of each chosen letter: None once it is redriven (or would be), else why it is not."""


def _silent(letter: Letter, refusal: str | None) -> None: ...


class Letters:
    """The dead letters of one group, opened with `async with`. Raises BrokerError for what Kafka does not give."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._marks = f"{settings.group}-redriven"
        self._marked: set[bytes] = set()
        self._marks_read = 0
        self._busy = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def latest(self, limit: int) -> list[Letter]:
        """Return the newest letters, newest first."""
        topic = self._settings.dead_letters_topic
        partitions = (await require(self._settings.kafka, read=[topic]))[topic].partitions
        newest: list[Letter] = []
        async with self._busy, Reader(self._settings.kafka) as reader:
            await self._learn_marks(reader)
            spans = await reader.spans(topic, partitions)
            tails = {tp: (max(first, end - limit), end) for tp, (first, end) in spans.items()}
            async for record in reader.read(tails):
                newest.append(self._letter(record))
                if len(newest) >= 2 * limit:
                    newest = heapq.nlargest(limit, newest, key=attrgetter("at"))
        return heapq.nlargest(limit, newest, key=attrgetter("at"))

    async def redrive(
        self,
        choice: Choice,
        *,
        rate: float = RATE,
        limit: int | None = None,
        dry_run: bool = False,
        told: Told = _silent,
    ) -> Report:
        """Put the chosen letters back on the topic of the requests, `rate` a second (0: as fast as it goes).

        Those of each partition go oldest first; `limit` is how many at most. With `dry_run` nothing is written. Raises
        BrokerError also when somebody else begins to redrive: what this one had not finished is left to them.
        """
        settings = self._settings
        found = await require(settings.kafka, read=[settings.dead_letters_topic], write=[settings.requests_topic])
        requests, letters = found[settings.requests_topic], found[settings.dead_letters_topic]
        report = Report(missing=sorted(choice.places))
        taken: set[bytes] = set()

        def done(redriven: list[Letter]) -> None:
            report.redriven += len(redriven)
            for each in redriven:
                if not dry_run:
                    self._marked.add(each.mark)
                told(each, None)

        async with self._busy, AsyncExitStack() as stack:
            writer = None
            if not dry_run:
                await self._make_marks()
                writer = await stack.enter_async_context(
                    Redriver(settings, requests, marks=self._marks, rate=rate, done=done)
                )
            reader = await stack.enter_async_context(Reader(settings.kafka))
            await self._learn_marks(reader)
            spans = _narrowed(await reader.spans(letters.name, letters.partitions, choice.since), choice)
            records = await stack.enter_async_context(aclosing(reader.read(spans)))
            async for letter in self._chosen(records, choice, report):
                refusal = _refusal(letter, requests, taken)
                if refusal is not None:
                    report.refused[refusal] += 1
                    told(letter, refusal)
                    continue
                taken.add(letter.mark)
                if writer is not None:
                    await writer.write(letter)
                else:
                    done([letter])
                if len(taken) == limit:
                    break
            if writer is not None:
                await writer.flush()
        return report

    async def _chosen(self, records: AsyncIterator[Record], choice: Choice, report: Report) -> AsyncIterator[Letter]:
        async for record in records:
            letter = self._letter(record)
            if choice.takes(letter):
                if letter.place in choice.places:
                    report.missing.remove(letter.place)
                yield letter

    def _letter(self, record: Record) -> Letter:
        place = record.partition, record.offset
        letter = read_letter(place, record.timestamp, record.key, record.value, record.headers)
        return letter._replace(redriven=letter.mark in self._marked)

    async def _make_marks(self) -> None:
        async with Admin(self._settings.kafka) as admin:
            if not await admin.describe(self._marks):
                try:
                    await admin.create(self._marks, 1, -1, **{"cleanup.policy": "compact"})
                except BrokerError as exc:
                    msg = f"{exc}; it is where redriven letters are marked: make it, compacted, with 1 partition"
                    raise BrokerError(msg) from exc
                await admin.settled(self._marks)

    async def _learn_marks(self, reader: Reader) -> None:
        async with Admin(self._settings.kafka) as admin:
            if not await admin.describe(self._marks):
                self._marked.clear()
                return
        spans = await reader.spans(self._marks, 1)
        for tp, (first, end) in spans.items():
            async for record in reader.read({tp: (max(first, self._marks_read), end)}):
                if record.key is not None:
                    self._marked.add(record.key)
            self._marks_read = end


def _narrowed(spans: dict[TopicPartition, Span], choice: Choice) -> dict[TopicPartition, Span]:
    """Return the spans without what lies before or behind the places that are chosen, if places are."""
    if not choice.places:
        return spans
    narrow: dict[TopicPartition, Span] = {}
    for tp, (first, end) in spans.items():
        offsets = [offset for partition, offset in choice.places if partition == tp.partition]
        if offsets:
            narrow[tp] = max(first, min(offsets)), min(end, max(offsets) + 1)
    return narrow


def _refusal(letter: Letter, requests: Topic, taken: set[bytes]) -> str | None:
    """Say why this letter is not redriven, if it is not. Two letters may tell of one request, answered again."""
    if letter.redriven or letter.mark in taken:
        return BEFORE
    flaw = letter.flaw(requests.name)
    if flaw is None and requests.max_bytes is not None and _size(letter) > requests.max_bytes:
        return f"with its headers it has more bytes than the {requests.max_bytes} that topic {requests.name!r} takes"
    return flaw


def _size(letter: Letter) -> int:
    headers = sum(len(name) + len(content or b"") + 4 for name, content in letter.request_headers())
    return RECORD_OVERHEAD + len(letter.key or b"") + len(letter.value or b"") + headers
