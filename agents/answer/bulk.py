"""Bulk lookups: misses of one source that differ in their key alone are gathered and requested in one call. Each gets
a response of its own, with its item as the body, so whatever comes after it is as for any other request.

A call leaves when it has `size` keys, or `wait` seconds after its first key; but as long as one that is not full waits
for its turn (limits, breaker, pauses), keys are gathered on: it could not leave any sooner.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import pickle
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from agents.answer.parsed_requests import ParsedRequest
from models import strictjson
from models.batch import Batch, Items, take_apart
from models.documents import Item
from models.errors import NOT_FOUND, AnswerError, InvalidDocument, InvalidRequest, UpstreamError
from models.large import LARGE
from models.source import Filled, Source
from models.template import as_text
from streams.functions import FunctionCaller
from streams.http import turn as turns
from streams.http.bodies import kept_until_answered
from streams.http.client import Client
from streams.http.excerpt import excerpt
from streams.http.policy import UpstreamPolicy
from streams.http.response import Response, unusable
from streams.http.retry import IDEMPOTENCY_KEY, repeatable
from streams.http.turn import Turn
from streams.log_pause import LogPause
from streams.pool import LargeWork
from streams.tasks import end_tasks, every, start

logger = logging.getLogger(__name__)

MAX_URL, MAX_BODY = 8_000, 1 << 20
"""Bytes of a call's URL, as many as every server should take (RFC 9110, section 4.1), and of its body: one that is
longer is sent in halves.
"""
BUSY = 0.1
"""Seconds more that keys are gathered as long as each turn of the event loop brings new ones: the worker is busy, and
fewer calls are less work.
"""
STEP = 16
"""Keys that are answered in one turn of the event loop: each request then has some 0.2 ms of work to do."""
_JSON = "application/json"

GroupKey: TypeAlias = tuple[str, bytes]
"""A source, and the values of its other parameters."""


class _Waiter(NamedTuple):
    """Who waits for a key: its `deadline` is in monotonic seconds, or that of its `turn` once that has come."""

    answer: asyncio.Future[Response]
    deadline: float
    turn: Turn | None


class _Call:
    """The keys of one call, and all who wait for each. `due`: when it is to leave (the event loop's seconds), and
    `counted` how many keys it had when that was looked at; `overdue`: it would have left, but could not.
    """

    def __init__(self, known: ParsedRequest, headers: Mapping[str, str], turn: Turn) -> None:
        assert known.source is not None
        self.source: Source = known.source
        self.params = known.request.params
        self.headers = headers
        self.turn = turn
        self.values: dict[str, Any] = {}
        self.waiters: defaultdict[str, list[_Waiter]] = defaultdict(list)
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.context = contextvars.copy_context()
        self.context.run(turns.current.set, turn)
        self.due = 0.0
        self.counted = 0
        self.overdue = False

    def deadline(self) -> float | None:
        """Return when the last of those who wait gives up, None if one has not had its turn yet."""
        deadlines = [each.deadline if each.turn is None else each.turn.deadline
                     for key in self.waiters.values() for each in key if not each.answer.done()]  # fmt: skip
        known = [each for each in deadlines if each is not None]
        return max(known, default=0.0) if len(known) == len(deadlines) else None

    def latest(self) -> float:
        """Return the last of the deadlines, turns left aside."""
        return max((each.deadline for key in self.waiters.values() for each in key), default=0.0)

    def unanswered(self, key: str) -> list[asyncio.Future[Response]]:
        """Return the futures of those who wait for a key."""
        return [waiter.answer for waiter in self.waiters.get(key, ()) if not waiter.answer.done()]

    def fail(self, keys: Sequence[str], error: Exception) -> None:
        """Give an error to all who wait for these keys."""
        for answer in (each for key in keys for each in self.unanswered(key)):
            answer.set_exception(error.copied() if isinstance(error, AnswerError) else error)


class BulkFetcher:
    """Fetches from sources that have a `batch`. `calls` and `keys` count by source: calls, those of halves too, and the
    keys in them. `large` takes large answers apart in another process.
    """

    def __init__(
        self, client: Client, caller: FunctionCaller, policies: Mapping[str, UpstreamPolicy], large: LargeWork | None
    ) -> None:
        self._client = client
        self._caller = caller
        self._policies = policies
        self._large = large
        self._gathering: dict[GroupKey, _Call] = {}
        self._unbegun: Counter[GroupKey] = Counter()
        self._log_pause = LogPause()
        self._tasks: set[asyncio.Task[None]] = set()
        self.calls: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()

    async def close(self) -> None:
        """End the calls in progress."""
        await end_tasks(*self._tasks)

    async def fetch(self, known: ParsedRequest, extra: Mapping[str, str], deadline: float) -> Response:
        """Return a response whose body is the item of the request's key. Raises AnswerError.

        The call has the headers of its first request, but no Idempotency-Key of ours: its keys would not be the same at
        a second delivery.
        """
        source, params = known.source, known.request.params
        assert source is not None
        assert source.batch is not None
        batch, value = source.batch, params[source.batch.param]
        key = as_text(batch.param, value)
        group = source.name, b""
        if len(params) > 1:
            group = source.name, strictjson.canonical({**params, batch.param: None})
        call = self._gathering.get(group)
        if call is None:
            call = self._begin(group, known, batch, extra)
        turn = turns.current.get()
        waiter = _Waiter(
            asyncio.get_running_loop().create_future(), deadline, None if turn is None or turn.over else turn
        )
        call.values.setdefault(key, value)
        call.waiters[key].append(waiter)
        if len(call.values) >= batch.size:
            self._send(group, call)
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            self._leave(group, call, key, waiter)
            raise

    def _begin(self, group: GroupKey, known: ParsedRequest, batch: Batch, extra: Mapping[str, str]) -> _Call:
        headers = {name: each for name, each in extra.items() if name != IDEMPOTENCY_KEY}
        call = self._gathering[group] = _Call(known, headers, Turn(lambda: self._begun(group, call)))
        loop = asyncio.get_running_loop()
        call.due = loop.time() + batch.wait
        call.timer = loop.call_at(call.due, self._due, group, call)
        return call

    def _due(self, group: GroupKey, call: _Call) -> None:
        """Send what was gathered, unless another call of the group waits for its turn."""
        if self._gathering.get(group) is not call:
            return
        loop = asyncio.get_running_loop()
        if len(call.values) > call.counted and loop.time() < call.due + BUSY:
            call.counted = len(call.values)
            call.timer = loop.call_later(0, self._due, group, call)
            return
        call.overdue = True
        if group not in self._unbegun:
            self._send(group, call)

    def _send(self, group: GroupKey, call: _Call) -> None:
        del self._gathering[group]
        if call.timer is not None:
            call.timer.cancel()
        self._unbegun[group] += 1
        call.turn.deadline = call.deadline()
        call.task = call.context.run(start, self._run(call), f"a call of {call.source.name}",
                                means="its keys are never answered")  # fmt: skip
        self._tasks.add(call.task)
        call.task.add_done_callback(partial(self._ended, group, call))

    def _begun(self, group: GroupKey, call: _Call) -> None:
        """Note that a call has its turn, and so have all who wait for it."""
        for waiters in call.waiters.values():
            for waiter in waiters:
                if waiter.turn is not None:
                    try:
                        waiter.turn.begin()
                    except asyncio.CancelledError:  # its partition is given up
                        waiter.answer.cancel()
        if call.task is not None and not any(map(call.unanswered, call.waiters)):
            call.task.cancel()
            raise asyncio.CancelledError
        call.turn.deadline = call.deadline()
        self._follow(group)

    def _follow(self, group: GroupKey) -> None:
        """Send what was gathered meanwhile, now that a call of the group has its turn, or has ended without one."""
        self._unbegun[group] -= 1
        if self._unbegun[group] <= 0:
            del self._unbegun[group]
        following = self._gathering.get(group)
        if following is not None and following.overdue and group not in self._unbegun:
            self._send(group, following)

    def _leave(self, group: GroupKey, call: _Call, key: str, waiter: _Waiter) -> None:
        """Forget who gave up; a call for which nobody waits ends."""
        call.waiters[key].remove(waiter)
        if call.waiters[key]:
            return
        del call.waiters[key]
        if call.task is None:
            del call.values[key]
        if call.waiters:
            return
        if call.task is not None:
            call.task.cancel()
        elif self._gathering.get(group) is call:
            del self._gathering[group]
            if call.timer is not None:
                call.timer.cancel()

    async def _run(self, call: _Call) -> None:
        try:
            with kept_until_answered():
                await self._request(call, list(call.values))
        except Exception as exc:  # noqa: BLE001  a fault of ours is that of each request
            call.fail(list(call.waiters), exc)

    def _ended(self, group: GroupKey, call: _Call, task: asyncio.Task[None]) -> None:
        """Clean up after a call, also one that was cancelled before its first step."""
        self._tasks.discard(task)
        if not call.turn.begun:
            self._follow(group)
        call.turn.over = True
        for answer in (each for key in call.waiters for each in call.unanswered(key)):
            answer.cancel()  # the worker stops

    async def _request(self, call: _Call, keys: Sequence[str], before: int = 0) -> None:
        """Request keys, after so many attempts `before` in calls that were refused; in halves if they are too many."""
        keys = [key for key in keys if key in call.waiters]
        if not keys:
            return None
        source, batch = call.source, call.source.batch
        assert batch is not None
        several = len(keys) > 1
        try:
            filled = _filled(call, batch, keys)
            if filled is None or (several and _is_too_long(filled)):
                return await self._request_halves(call, keys, before)
            self.calls[source.name] += 1
            self.keys[source.name] += len(keys)
            response = await self._fetch(call, keys, filled)
        except AnswerError as error:
            if before or error.attempts:
                error.attempts = (error.attempts or 0) + before
            if several and isinstance(error, UpstreamError) and error.status in batch.split:
                self._log(source.name, len(keys), error)
                return await self._request_halves(call, keys, error.attempts or 0)
            return await _fail(call, keys, error)
        response = response._replace(own=False, attempts=response.attempts + before)
        try:
            items = await self._take_apart(response, batch, keys)
        except AnswerError as error:
            error.body, error.body_truncated = excerpt(response.body)
            return await _fail(call, keys, unusable(response, error))
        for step in _steps(keys):
            self._deliver(call, step, response, items)
            await asyncio.sleep(0)
        return None

    def _log(self, source: str, count: int, error: AnswerError) -> None:
        """Log a call that was refused as a whole, once a minute for each source."""
        if self._log_pause.is_over(source):
            logger.warning("source %s: a call for %d keys was refused (%s) and is sent in halves; if it is too large, "
                           "lower its batch.size (logged once a minute)", source, count, error)  # fmt: skip

    async def _request_halves(self, call: _Call, keys: Sequence[str], before: int) -> None:
        middle = len(keys) // 2
        await every(self._request(call, keys[:middle], before), self._request(call, keys[middle:], before))

    async def _fetch(self, call: _Call, keys: Sequence[str], filled: Filled) -> Response:
        source, deadline = call.source, call.latest()
        if source.call is not None:
            assert source.batch is not None
            params = {**call.params, source.batch.param: [call.values[key] for key in keys]}
            return await self._caller.call(source, params, deadline)
        assert filled.url is not None
        return await self._client.fetch(
            source.method, filled.url, {**filled.headers, **call.headers}, filled.body, deadline=deadline,
            policy=self._policies[source.name], again=repeatable(source.method, filled.headers),
        )  # fmt: skip

    async def _take_apart(self, response: Response, batch: Batch, keys: Sequence[str]) -> Items:
        if not response.body.content:
            msg = "the body is empty"
            raise InvalidDocument(msg)
        if self._large is None or len(response.body.content) <= LARGE:
            return take_apart(response.body, batch, frozenset(keys))
        texts = batch.items.text, None if batch.key is None else batch.key.text
        pickled = await self._large.run("take a batch apart", *response.body, texts, frozenset(keys))
        return Items(*pickle.loads(pickled))  # noqa: S301  our own process

    def _deliver(self, call: _Call, keys: Sequence[str], response: Response, items: Items) -> None:
        """Give each key its item, or the error that there is none, or more than one."""
        for key in keys:
            if key in items.ambiguous:
                error: AnswerError = InvalidDocument("the answer has several items with its key, which differ")
                call.fail([key], unusable(response, error))
            elif key not in items.found:
                error = UpstreamError("the answer has no item with its key", response.status)
                error.kind = NOT_FOUND
                call.fail([key], unusable(response, error))
            else:
                own = response._replace(body=Item(items.found[key], _JSON))
                for answer in call.unanswered(key):
                    answer.set_result(own)


async def _fail(call: _Call, keys: Sequence[str], error: AnswerError) -> None:
    """Give an error to all who wait for these keys."""
    for step in _steps(keys):
        call.fail(step, error)
        await asyncio.sleep(0)


def _steps(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[at : at + STEP] for at in range(0, len(keys), STEP))


def _filled(call: _Call, batch: Batch, keys: Sequence[str]) -> Filled | None:
    """Return the call for keys, None if no call can have so many. Raises InvalidRequest for one key."""
    try:
        return call.source.filled({**call.params, batch.param: [call.values[key] for key in keys]})
    except InvalidRequest:  # each alone was looked at before: together they are too long for any URL
        if len(keys) == 1:
            raise
        return None


def _is_too_long(filled: Filled) -> bool:
    if filled.url is not None and len(filled.url) > MAX_URL:
        return True
    if filled.body is None:
        return False
    text = filled.body if isinstance(filled.body, str) else strictjson.dumps(filled.body, exact=True)
    return len(text) > MAX_BODY
