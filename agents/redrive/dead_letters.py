"""Reads the dead letters, and redrives selected ones: each at most once, whatever happens.

Request and mark (a record of the compacted topic `<group>-redriven`) are written in ONE transaction. The transactional
id belongs to the group: a new redrive fences a running one, whose open transaction is aborted, and only then reads the
marks. So a redriven dead letter is recognised after a kill -9, and by a concurrent redrive.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from operator import attrgetter

from aiokafka import TopicPartition

from agents.redrive.published import Published, find_published
from agents.redrive.redriver import COMPACTED, MARKS, Redriver, marks_of
from models.dead_letter import DeadLetter, DeadLetterFilter, Position, read_dead_letter
from models.errors import BrokerError
from streams.config.settings import Settings
from streams.kafka.commit_metadata import Identity
from streams.kafka.outgoing import RECORD_OVERHEAD
from streams.kafka.reader import Reader, Record, Span
from streams.kafka.topics import Admin, Topic, require

logger = logging.getLogger(__name__)

RATE = 100.0
"""Dead letters a second, by default: a flood would only come back as another."""
SEARCHED = 10_000
"""The newest dead letters, of all partitions together, among which `latest` looks for those that match a filter."""
MANY_MARKS = 10_000
"""Marks that are always kept; beyond, and beyond two for each dead letter, marks without a dead letter are deleted."""
MARK_AGE = 86_400.0
"""Seconds for which a mark is always kept: much longer than a request may take."""
BEFORE = "redriven before"
OTHERWISE = "it does not match the other filters"


@dataclass(slots=True)
class Report:
    """Counts: redriven (or to be redriven), refused by reason; and which dead letters were not found."""

    redriven: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    missing: list[Position] = field(default_factory=list)


OnDeadLetter = Callable[[DeadLetter, str | None], None]
"""Called for each selected dead letter with the reason why it is not redriven, or None."""


def _ignore(letter: DeadLetter, refusal: str | None) -> None: ...


class DeadLetters:
    """The dead letters of one group. Raises BrokerError for what Kafka refuses."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._marks = marks_of(settings)
        self._marked: set[bytes] = set()
        self._marks_read = 0
        self._marks_topic: Identity | None = None
        self._lost: set[bytes] = set()
        self._busy = asyncio.Lock()

    async def latest(self, limit: int, selected: DeadLetterFilter | None = None) -> list[DeadLetter]:
        """Return the newest dead letters, newest first, without headers; a value is b"" if there is one. With a filter,
        those that match among the SEARCHED newest ones, as many of each partition.
        """
        topic = self._settings.dead_letters_topic
        partitions = (await require(self._settings.kafka, read=[topic]))[topic].partitions
        newest: list[DeadLetter] = []
        async with self._busy, Reader(self._settings.kafka) as reader:
            await self._learn_marks(reader, exist=await self._marks_exist())
            since = None if selected is None else selected.since
            spans = await reader.spans(topic, partitions, since)
            depth = limit if selected is None else max(limit, SEARCHED // partitions)
            tails = {tp: (max(first, end - depth), end) for tp, (first, end) in spans.items()}
            read: Counter[int] = Counter()
            step = depth
            while tails:
                async for record in reader.read(tails):
                    read[record.partition] += 1
                    letter = self._letter(record)
                    if selected is not None and not selected.matches(letter):
                        continue
                    newest.append(letter._replace(value=None if letter.value is None else b"", headers=()))
                    if len(newest) >= 2 * limit:
                        newest = heapq.nlargest(limit, newest, key=attrgetter("at"))
                # The markers of transactions take offsets, too: what has given too few may have older ones.
                step *= 2
                tails = {tp: (max(spans[tp][0], start - step), start) for tp, (start, _) in tails.items()
                         if start > spans[tp][0] and read[tp.partition] < depth}  # fmt: skip
        return heapq.nlargest(limit, newest, key=attrgetter("at"))

    async def whole(self, position: Position) -> DeadLetter | None:
        """Return a dead letter with key, value and headers; None if there is none at this partition and offset."""
        topic = self._settings.dead_letters_topic
        letters = (await require(self._settings.kafka, read=[topic]))[topic]
        async with self._busy, Reader(self._settings.kafka) as reader:
            await self._learn_marks(reader, exist=await self._marks_exist())
            spans = await _spans(reader, letters, DeadLetterFilter(positions=frozenset({position})))
            async with aclosing(reader.read(spans)) as records:
                async for record in records:
                    return self._letter(record)
        return None

    async def published(self, letter: DeadLetter) -> Published | str:
        """Return the result that was published with a dead letter, or the reason why there is none to show."""
        return await find_published(self._settings, letter)

    async def redrive(
        self,
        selected: DeadLetterFilter,
        *,
        rate: float = RATE,
        limit: int | None = None,
        dry_run: bool = False,
        on_result: OnDeadLetter = _ignore,
    ) -> Report:
        """Put the selected dead letters back on the requests topic, `rate` a second (0: unlimited).

        Those of each partition go oldest first; `limit` is the maximum. With `dry_run` nothing is written. `on_result`
        is called for each. Raises BrokerError also when another redrive begins: it takes over.
        """
        settings = self._settings
        found = await require(settings.kafka, read=[settings.dead_letters_topic], write=[settings.requests_topic])
        requests, letters = found[settings.requests_topic], found[settings.dead_letters_topic]
        report, missing = Report(), set(selected.positions)
        taken: set[bytes] = set()

        def done(redriven: list[DeadLetter]) -> None:
            report.redriven += len(redriven)
            for each in redriven:
                if not dry_run:
                    self._marked.add(each.redrive_key)
                on_result(each, None)

        async with self._busy, AsyncExitStack() as stack:
            writer = None
            exist = await self._marks_exist(make=not dry_run)
            if not dry_run:
                writer = await stack.enter_async_context(
                    Redriver(settings, requests, marks=self._marks, rate=rate, done=done)
                )
            reader = await stack.enter_async_context(Reader(settings.kafka))
            await self._learn_marks(reader, writer, exist=exist)
            spans = await _spans(reader, letters, selected)
            records = await stack.enter_async_context(aclosing(reader.read(spans)))
            async for letter in self._chosen(records, selected, report, missing):
                refusal = _refusal(letter, requests, taken)
                if refusal is not None:
                    report.refused[refusal] += 1
                    on_result(letter, refusal)
                    continue
                taken.add(letter.redrive_key)
                if writer is not None:
                    await writer.write(letter)
                else:
                    done([letter])
                if len(taken) == limit:
                    missing.clear()  # the rest was not searched
                    break
            if writer is not None:
                await writer.flush()
                await self._forget(reader, writer, letters)
        report.missing = sorted(missing)
        return report

    async def _forget(self, reader: Reader, writer: Redriver, letters: Topic) -> None:
        """Delete the marks of dead letters that Kafka has deleted, once they are many: Kafka deletes no marks.

        Young ones stay: after a crash their requests may be answered again, and get another dead letter.
        """
        spans = await reader.spans(letters.name, letters.partitions)
        if len(self._marked) <= max(MANY_MARKS, 2 * sum(end - first for first, end in spans.values())):
            return
        young = await reader.spans(self._marks, 1, time.time() - MARK_AGE)
        kept = {record.key async for record in reader.read(young)}
        kept |= {self._letter(record).redrive_key async for record in reader.read(spans)}
        gone = self._marked - kept
        await writer.forget(gone)
        self._marked -= gone
        logger.info("deleted %d marks of redriven dead letters that no longer exist", len(gone))

    async def _chosen(
        self, records: AsyncIterator[Record], selected: DeadLetterFilter, report: Report, missing: set[Position]
    ) -> AsyncIterator[DeadLetter]:
        async for record in records:
            letter = self._letter(record)
            missing.discard(letter.position)
            if selected.matches(letter):
                yield letter
            elif letter.position in selected.positions and not selected._replace(topic=None).matches(letter):
                report.refused[OTHERWISE] += 1

    def _letter(self, record: Record) -> DeadLetter:
        place = record.partition, record.offset
        letter = read_dead_letter(place, record.timestamp, record.key, record.value, record.headers)
        return letter._replace(redriven=letter.redrive_key in self._marked)

    async def _marks_exist(self, *, make: bool = False) -> bool:
        """Whether the topic of marks exists; `make` creates it if it is missing. Raises BrokerError if that fails, or
        if it is not compacted.
        """
        name = self._marks
        async with Admin(self._settings.kafka) as admin:
            found = await admin.describe(name)
            if make and not found:
                try:
                    await admin.create(name, 1, -1, **MARKS)
                except BrokerError as exc:
                    msg = f"{exc}; redriven dead letters are marked there: create it, compacted, with 1 partition"
                    raise BrokerError(msg) from exc
                found = await admin.settled(name)
        if make and not found:
            msg = f"topic {name!r}, where redriven dead letters are marked, is not visible: nothing is redriven"
            raise BrokerError(msg)
        if make and found[name].cleanup not in (COMPACTED, None):
            msg = (
                f"topic {name!r}, where redriven dead letters are marked, has cleanup.policy={found[name].cleanup}: "
                f"Kafka deletes marks, and dead letters would be redriven again; set cleanup.policy={COMPACTED}"
            )
            raise BrokerError(msg)
        return bool(found)

    async def _learn_marks(self, reader: Reader, writer: Redriver | None = None, *, exist: bool) -> None:
        """Read the marks that came since last time. Those once read are kept, whatever becomes of their topic: what
        it has not, because it was deleted and created again, is written again by `writer`.
        """
        if not exist:
            return
        topic = await reader.identity(self._marks)
        spans = await reader.spans(self._marks, 1)
        end = max((end for _, end in spans.values()), default=0)
        if topic != self._marks_topic:
            self._marks_topic, self._marks_read, self._lost = topic, 0, set(self._marked)
        begin = self._marks_read if self._marks_read <= end else 0  # else it was created again
        async for record in reader.read({tp: (max(first, begin), end) for tp, (first, _) in spans.items()}):
            self._lost.discard(record.key)
            if record.key is not None and record.value is not None:
                self._marked.add(record.key)
            elif record.key is not None:
                self._marked.discard(record.key)
        self._marks_read = end
        if writer is not None:
            await writer.remember(self._lost)
            self._lost.clear()


async def _spans(reader: Reader, letters: Topic, selected: DeadLetterFilter) -> dict[TopicPartition, Span]:
    """Return the offsets to read: since the filter's time, or from the first to the last named offset."""
    if not selected.positions:
        return await reader.spans(letters.name, letters.partitions, selected.since)
    narrow: dict[TopicPartition, Span] = {}
    for tp, (first, end) in (await reader.spans(letters.name, letters.partitions)).items():
        offsets = [offset for partition, offset in selected.positions if partition == tp.partition]
        if offsets:
            narrow[tp] = max(first, min(offsets)), min(end, max(offsets) + 1)
    return narrow


def _refusal(letter: DeadLetter, requests: Topic, taken: set[bytes]) -> str | None:
    """Return why this dead letter is not redriven, or None. Two may be of one request, if it was answered again."""
    if letter.redriven or letter.redrive_key in taken:
        return BEFORE
    reason = letter.not_redrivable_reason(requests.name)
    if reason is None and requests.max_bytes is not None and _size(letter) > requests.max_bytes:
        return f"with its headers it exceeds the {requests.max_bytes} bytes that topic {requests.name!r} allows"
    if reason is None and letter.key is None and COMPACTED in (requests.cleanup or ""):
        return (
            f"it has no key, and topic {requests.name!r} is compacted: Kafka refuses it there; "
            "set cleanup.policy=delete, or send the request again with a key"
        )
    return reason


def _size(letter: DeadLetter) -> int:
    headers = sum(len(name.encode()) + len(content or b"") + 4 for name, content in letter.request_headers())
    return RECORD_OVERHEAD + len(letter.key or b"") + len(letter.value or b"") + headers
