"""The part of a worker that tries again later: its Faust app reads the delay topics in a consumer group of its own, and
hands what is due to the answering part or to its route, which treat it as the record that it once was.

A delayed record is finished, and with it committed, once Kafka has acknowledged what became of it: a result, a dead
letter, or the record in the next delay topic. So a kill loses nothing, and may repeat what was not committed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from agents.answer.agent import TURN, Answerer
from agents.answer.app import AnswerApp
from agents.answer.headers import dead_letter_headers, first_place, shrink_dead_letter
from agents.later.release import Releases, later_group
from agents.later.waiting import Record, RetryLease, Waiting, as_first_read, as_lease
from agents.routes.app import RouteApp
from agents.routes.runner import RouteRunner
from models.dead_letter import LOOKUP, ROUTE
from models.errors import InvalidRequest
from models.retry_later import delay_topics
from streams.app import App
from streams.config.settings import Settings
from streams.kafka.batch import RecordBatch
from streams.kafka.outgoing import OutgoingRecord
from streams.kafka.publisher import Publisher
from streams.kafka.topics import Topic
from streams.tasks import end_tasks, keep, start

if TYPE_CHECKING:
    from agents.answer.retry_later import Deferral

MAX_IN_PROGRESS = 512
"""Records taken up and not finished: what an outage of hours has left is tried again steadily, beside new requests."""
LOOK_EVERY = 1.0
"""Seconds between looks at what is due at least: somebody may set the clock."""
RELEASES_EVERY = 5.0
"""Seconds between looks for what `millrace redrive --later` has released, while anything waits."""


class LaterApp:
    """See the module. `taken_up` counts records by delay topic."""

    def __init__(
        self, settings: Settings, delays: frozenset[int], answering: AnswerApp, routing: Sequence[RouteApp],
        find_topics: Callable[[], Awaitable[Mapping[str, Topic]]],
    ) -> None:  # fmt: skip
        self.topics = delay_topics(settings.group, delays)
        self.taken_up: Counter[str] = Counter(dict.fromkeys(self.topics, 0))
        self.waiting = Waiting(self.topics)
        self._settings = settings
        self._answering = answering
        self._find_topics = find_topics
        self._answerer: Answerer | None = None
        self._publisher: Publisher | None = None
        self._runners: dict[str, RouteRunner] = {}
        self._queues: defaultdict[RouteRunner, deque[RecordBatch]] = defaultdict(deque)
        self._tasks: dict[RouteRunner, asyncio.Task[None]] = {}
        self.app = App(settings, id=later_group(settings), resting=True)
        for part in routing:
            self.app.opens(partial(self._open_route, part))
        self.app.opens(self.open)
        topic = self.app.topic(*self.topics, key_type=bytes, value_type=bytes)
        self.app.agent(topic, name="later")(self.work)

    async def work(self, stream: Any) -> None:
        """The agent: has each batch wait."""
        await self.app.deliver(stream, self._take)

    async def _open_route(self, part: RouteApp, stack: AsyncExitStack) -> Publisher:
        """Wait for a route; return what its outputs go by: what Kafka does not take of these holds up this app, too."""
        self._runners[part.route.name] = await part.lent.borrow(stack)
        assert part.publisher is not None  # what was lent
        return part.publisher

    async def open(self, stack: AsyncExitStack) -> Publisher:
        """Wait for the answering part, and begin. Raises MillraceError."""
        await self._find_topics()
        await self._answering.lent.borrow(stack)
        resources = self._answering.resources
        assert resources is not None  # what was lent
        self._answerer, self._publisher = resources.answerer, resources.publisher
        working = keep(self._run, "trying again later", means="what waits in delay topics is not tried again")
        looking = keep(self._look_for_releases, "looking for releases of what waits",
                       means="`millrace redrive --later` has no effect", again=RELEASES_EVERY)  # fmt: skip
        stack.push_async_callback(self._end, working, looking)
        return resources.publisher

    def readiness(self) -> str:
        """Return `ok`, or what this part waits for."""
        if self._answerer is None:
            return "starting"
        return next((state for state in self.app.readiness().values() if state != "ok"), "ok")

    def deferred(self) -> Counter[str]:
        """Return how many records this worker has published to each delay topic."""
        counted: Counter[str] = Counter()
        for each in self._deferrals():
            counted.update(each.deferred)
        return counted

    def exhausted(self) -> int:
        """Return how many records became dead letters after their last try."""
        return sum(each.exhausted for each in self._deferrals())

    def _deferrals(self) -> list[Deferral]:
        found = [runner.later for runner in self._runners.values()]
        return found if self._answerer is None else [self._answerer.later, *found]

    def status(self) -> list[dict[str, Any]]:
        """Return for each delay topic what waits in the partitions that this worker holds, and what it has counted.

        `next_due` is in seconds since the epoch; for `overdue_s` seconds the first record could have been taken up.
        """
        deferred, now = self.deferred(), time.time()
        leases = [lease for lease in self.app.holder.leases.values() if lease.alive] if self.app.started else []
        found = []
        for topic, delay in self.topics.items():
            due = self.waiting.next_due(topic)
            held = [lease for lease in leases if lease.topic == topic]
            found.append({
                "topic": topic, "delay_s": delay, "partitions": len(held),
                "waiting": sum(self.waiting.count(lease) for lease in held),
                "next_due": due, "overdue_s": 0.0 if due is None else round(max(0.0, now - due), 1),
                "deferred": deferred[topic], "taken_up": self.taken_up[topic],
            })  # fmt: skip
        return found

    async def _take(self, batch: RecordBatch) -> None:
        self.waiting.add(batch)

    async def _run(self) -> None:
        while True:
            self.waiting.changed.clear()
            pause = await self._take_up()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.waiting.changed.wait()

    async def _take_up(self) -> float:
        """Take up what is due, as much as may be in progress; returns the seconds until there may be more."""
        due, turn = self.waiting.due(time.time()), time.monotonic()
        for _ in range(self.waiting.in_progress(), MAX_IN_PROGRESS):  # what ends meanwhile has us come back at once
            found = next(due, None)
            if found is None:
                break
            record, lease = found
            self.taken_up[record.topic] += 1
            await self._begin(as_first_read(record), lease)
            if time.monotonic() - turn > TURN:
                await asyncio.sleep(0)
                turn = time.monotonic()
        else:
            return LOOK_EVERY  # the end of any wakes us earlier
        next_due = self.waiting.next_due()
        return LOOK_EVERY if next_due is None else min(LOOK_EVERY, max(0.0, next_due - time.time()))

    async def _begin(self, record: Record, lease: RetryLease) -> None:
        assert self._answerer is not None
        batch = RecordBatch([record], as_lease(lease), time.monotonic())
        name = next((content for name, content in record.headers if name == ROUTE), None)
        if name is None:
            await self._answerer.answer(batch)
            return
        runner = self._runners.get(name.decode(errors="replace"))
        if runner is None:
            self._bury(record, lease, name)
            return
        # A route holds up its own partitions while it has no place, but not what waits for others. One of its records
        # at a time waits for a place: hundreds would leave next to none to new records, and all be woken for each.
        self._queues[runner].append(batch)
        if runner not in self._tasks:
            self._tasks[runner] = start(
                self._feed(runner), "records that a route tries again", means="they are never answered"
            )

    async def _feed(self, runner: RouteRunner) -> None:
        queue = self._queues[runner]
        while queue:
            await runner.take(queue.popleft())
        del self._tasks[runner]

    def _bury(self, record: Record, lease: RetryLease, route: bytes) -> None:
        """Publish the dead letter of a record whose route is gone."""
        assert self._publisher is not None
        error = InvalidRequest(f"there is no route {route.decode(errors='replace')!r} any more that could try it again")
        headers = dead_letter_headers(record, self._settings.group, b'"%b"' % first_place(record), error)
        headers += [(name, content) for name, content in record.headers if name in (ROUTE, LOOKUP)]
        letter = OutgoingRecord(as_lease(lease), record.offset, record.key, record.value, headers, shrink_dead_letter)
        lease.begun += 1
        self._publisher.publish(self._settings.dead_letters_topic, record.partition, letter)

    async def _look_for_releases(self) -> None:
        async with Releases(self._settings) as releases:
            while True:
                if self.waiting.next_due() is not None:
                    self.waiting.released = await releases.read(self.topics)
                    self.waiting.changed.set()
                await asyncio.sleep(RELEASES_EVERY)

    async def _end(self, *tasks: asyncio.Task[None]) -> None:
        await end_tasks(*tasks, *self._tasks.values())
