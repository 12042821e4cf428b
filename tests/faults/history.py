"""The questions, asked of topics, commits and samples by another client than the service's."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import aiohttp
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from tests.faults.load import document

STEADY = re.compile(r"r(\d+)")
"""The ids of steady requests, with their numbers."""
SAMPLE = 0.25
"""Seconds between samples."""
SINCE_COMMIT = 3.5
"""Seconds before a crash in which a finished request may not be committed: an interval of 1 s, a time-out of 2 s."""
SESSION = 10.0
"""Seconds after a fault in which a member may still lose its partitions: the session that the fault has cut."""


@dataclass(frozen=True, slots=True)
class Result:
    """A result as it was read; `at` is when its producer made it, in seconds, `number` that in its document."""

    request_id: str
    partition: int
    offset: int
    at: float
    key: bytes | None
    outcome: str
    number: int | None = None


@dataclass(slots=True)
class Samples:
    """What was seen meanwhile: commits of the group, and what /readyz answered (0: nothing), with the time."""

    commits: list[tuple[float, dict[int, int]]] = field(default_factory=list)
    ready: list[tuple[float, str, int]] = field(default_factory=list)


class Observer:
    """Takes samples from `start` to `stop`; reads topics."""

    def __init__(self, servers: str, group: str, topic: str) -> None:
        self._servers = servers
        self._topic = topic
        # Not librdkafka's admin client: 2.16.1 ended the process when brokers were killed under its requests.
        self._reader = Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False,
                                 "log_level": 0})  # fmt: skip
        self.samples = Samples()
        self.urls: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take samples."""
        self._tasks = [asyncio.create_task(self._commits()), asyncio.create_task(self._ready())]

    async def stop(self) -> None:
        """Take no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def committed(self) -> dict[int, int]:
        """Return the group's commits by partition of its topic, without joining it. Raises KafkaException."""
        partitions = self._reader.list_topics(self._topic, timeout=5).topics[self._topic].partitions
        found = self._reader.committed([TopicPartition(self._topic, number) for number in partitions], timeout=5)
        return {tp.partition: tp.offset for tp in found if tp.offset >= 0}

    async def _commits(self) -> None:
        while True:
            with contextlib.suppress(KafkaException):
                found = await asyncio.to_thread(self.committed)
                self.samples.commits.append((time.time(), found))
            await asyncio.sleep(SAMPLE)

    async def _ready(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2.0)) as session:
            while True:
                for url in self.urls:
                    try:
                        async with session.get(f"{url}/readyz") as response:
                            status = response.status
                    except (aiohttp.ClientError, TimeoutError):
                        status = 0
                    self.samples.ready.append((time.time(), url, status))
                await asyncio.sleep(SAMPLE)

    async def lag(self) -> int:
        """Return how many records of the topic the group has not committed. Raises KafkaException."""

        def look() -> int:
            committed = self.committed()
            return sum(abs(end - committed.get(partition, 0)) for partition, end in self.ends_of(self._topic).items())

        return await asyncio.to_thread(look)

    def ends(self) -> dict[int, int]:
        """Return the ends of the topic's partitions. Raises KafkaException."""
        return self.ends_of(self._topic)

    def ends_of(self, topic: str) -> dict[int, int]:
        """Return the ends of a topic's partitions. Raises KafkaException."""
        consumer = Consumer({"bootstrap.servers": self._servers, "group.id": "reader", "log_level": 0})
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            return {number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
                    for number in partitions}  # fmt: skip
        finally:
            consumer.close()

    def results(self, topic: str) -> list[Result]:
        """Return every result that a reader of committed records gets, partition by partition, in order."""
        found = []
        for message in self._read(topic):
            value = json.loads(message.value())
            found.append(Result(value["id"], message.partition(), message.offset(), message.timestamp()[1] / 1000,
                                message.key(), value["outcome"], _number(value.get("document"))))  # fmt: skip
        return sorted(found, key=lambda each: (each.partition, each.offset))

    def located(self, acknowledged: dict[str, tuple[int, int | None]]) -> dict[str, tuple[int, int]]:
        """Return the place of each request. That of one whose first acknowledgement got lost comes without its offset:
        Kafka only says that it has it already, so it is looked up in the topic.
        """
        places = {name: (partition, offset) for name, (partition, offset) in acknowledged.items() if offset is not None}
        if without := acknowledged.keys() - places.keys():
            for message in self._read(self._topic):
                with contextlib.suppress(ValueError, TypeError, KeyError):  # there is poison between
                    name = json.loads(message.value())["id"]
                    if name in without:
                        places[name] = message.partition(), message.offset()
            assert places.keys() == acknowledged.keys(), f"acknowledged, and not there: {without - places.keys()}"
        return places

    def _read(self, topic: str) -> Iterator[Message]:
        """Yield all that a reader of committed records gets that is there now. Ends are looked up, too: a partition
        that alone has its leader on a broker, and gets records all the time, never comes to one.
        """
        consumer = Consumer({"bootstrap.servers": self._servers, "group.id": "reader", "enable.auto.commit": False,
                             "auto.offset.reset": "earliest", "enable.partition.eof": True,
                             "log_level": 0})  # fmt: skip
        try:
            open_ = self.ends_of(topic)
            consumer.assign([TopicPartition(topic, number, 0) for number in open_])
            while open_:
                message = consumer.poll(30)
                assert message is not None, f"{topic} could not be read"
                if message.error() is None:
                    yield message
                if message.error() is not None or message.offset() + 1 >= open_.get(message.partition(), 0):
                    open_.pop(message.partition(), None)
        finally:
            consumer.close()


def _number(document: Any) -> int | None:
    return document.get("n") if isinstance(document, dict) else None


def lost(acknowledged: Iterable[str], results: list[Result], nameless: int = 0) -> str:
    """I1: each acknowledged request has its result; so have those that are `nameless`, as nobody can read their id."""
    named, answered = set(acknowledged), {each.request_id for each in results}
    found = []
    if missing := sorted(named - answered):
        found.append(f"{len(missing)} without a result: {missing[:5]}")
    if (others := len(answered - named)) < nameless:
        found.append(f"{nameless} that are no requests have {others} results")
    return "; ".join(found)


def repeated(
    results: list[Result],
    crashes: list[tuple[float, float]],
    places: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    samples: Samples | None = None,
) -> tuple[int, str]:
    """I2: how many results repeat another, and which did though no crash explains it. One from `crashes`, each a time
    from and to, explains a repeat if it came after the crash began, and the first result not much before or after it:
    by as much as a commit may be late, or a session lasts. Nothing explains the repeat of a request from `places` of
    which a sample had seen that it was committed before the repeat was made.
    """
    first: dict[str, Result] = {}
    count, wrong = 0, []
    committed: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)  # how far, and when that was first seen
    for at, commits in [] if samples is None else samples.commits:
        for partition, offset in commits.items():
            if not committed[partition] or offset > committed[partition][-1][0]:
                committed[partition].append((offset, at))
    for each in sorted(results, key=lambda result: result.at):
        earlier = first.setdefault(each.request_id, each)
        if earlier is not each:
            count += 1
            partition, offset = places.get(each.request_id, (-1, 0))
            seen = committed[partition]
            past = bisect.bisect_right(seen, (offset, float("inf")))
            if (past < len(seen) and seen[past][1] < each.at) or not any(
                began - SINCE_COMMIT <= earlier.at <= ended + SESSION and each.at >= began for began, ended in crashes
            ):
                wrong.append(each.request_id)
    return count, f"{len(wrong)} repeated without need: {wrong[:5]}" if wrong else ""


def failed(results: Iterable[Result], hurt: Sequence[tuple[float, float]] = ()) -> str:
    """I7: no steady request failed but in times from `hurt`, each the beginning and end of one in which some may, and
    none has another's document; those of a fault's own have other names.
    """
    wrong, foreign = [], []
    for each in results:
        if (steady := STEADY.fullmatch(each.request_id)) is None:
            continue
        if each.outcome == "ok":
            if each.number != document(int(steady[1])):
                foreign.append((each.request_id, each.number))
        elif not any(began <= each.at <= ended for began, ended in hurt):
            wrong.append((each.request_id, each.outcome))
    found = [f"{len(wrong)} failed: {wrong[:3]}"] if wrong else []
    return "; ".join([*found, *([f"{len(foreign)} with another's document: {foreign[:3]}"] if foreign else [])])


def unlike(results: Iterable[Result], expected: Mapping[str, Collection[str]]) -> str:
    """I7: a fault's own requests, by the beginning of their names, came to the outcomes that they are to have, and
    each kind of them was there.
    """
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in results:
        found[each.request_id.rpartition("-")[0]][each.outcome] += 1
    wrong = []
    for name, outcomes in expected.items():
        if not found[name]:
            wrong.append(f"no result of {name!r}")
        elif other := found[name].keys() - set(outcomes):
            wrong.append(f"{name!r}: {', '.join(f'{found[name][outcome]} {outcome}' for outcome in sorted(other))}")
    return "; ".join(wrong)


def skipped(acknowledged: dict[str, tuple[int, int]], results: list[Result], samples: Samples) -> str:
    """I3: no commit that was seen went past a request that had no result by then."""
    answered: dict[str, float] = {}
    for each in results:
        answered[each.request_id] = min(each.at, answered.get(each.request_id, each.at))
    requests: defaultdict[int, list[tuple[int, float, str]]] = defaultdict(list)
    for name, (partition, offset) in acknowledged.items():
        requests[partition].append((offset, answered.get(name, float("inf")), name))
    latest: dict[int, list[tuple[float, int, str]]] = {}
    for partition, each in requests.items():  # of each request and those before it, the one that was answered last
        each.sort()
        latest[partition] = list(itertools.accumulate(((at, offset, name) for offset, at, name in each), max))
    if not any(commits for _, commits in samples.commits):
        return "no commit was seen"
    for at, commits in samples.commits:
        for partition, committed in commits.items():
            before = bisect.bisect_left(requests[partition], (committed,))
            if before and (last := latest[partition][before - 1])[0] > at:
                return f"{last[2]} at {partition}/{last[1]} was committed ({committed}) before it had a result"
    return ""


def disordered(acknowledged: dict[str, tuple[int, int]], keys: dict[str, bytes], results: list[Result]) -> str:
    """I5: the first results of a key come in the order of its requests; with partitions that are added, a key moves to
    another, and has an order in each.
    """
    seen: set[str] = set()
    order: defaultdict[tuple[bytes, int], list[int]] = defaultdict(list)
    for each in results:
        if each.request_id in acknowledged and each.request_id not in seen:
            seen.add(each.request_id)
            partition, offset = acknowledged[each.request_id]
            order[keys[each.request_id], partition].append(offset)
    for (key, _), offsets in order.items():
        for one, other in itertools.pairwise(offsets):
            if other < one:
                return f"key {key!r}: the result of offset {other} came after that of {one}"
    return ""
