"""A plugin's plain functions, as sources name them: `package.module:function`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import inspect
import logging
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Self, TypeAlias

from pebble import ThreadPool

from models import strictjson
from models.documents import Body
from models.errors import AnswerError, InvalidDocument, TimedOut, TooLarge, Unreachable, UpstreamError
from models.source import REQUIRED, Limits, Param, Source
from models.strictjson import Raw
from streams.http import turn
from streams.http.limits import Host
from streams.http.response import Response
from streams.http.retry import pause_before_next
from streams.http.secret_scan import contains_secret, large_contains_secret
from streams.tasks import start_thread

logger = logging.getLogger(__name__)

LOG_EVERY = 60.0
"""Seconds between two log lines about a function's errors."""
JOIN_TIMEOUT = 1.0
"""Seconds that threads may take to end when the worker stops."""
DEFAULT_THREADS = 8
"""Concurrent calls of a source without `concurrency`."""


_Ended: TypeAlias = tuple[Body | None, BaseException | None]
"""What a function returned, or what it raised."""


def function_of(call: str) -> Callable[..., Any]:
    """Return the function that `package.module:function` names. Raises ValueError."""
    module, _, name = call.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as exc:  # a plugin is foreign code
        msg = f"{call!r} cannot be imported: {type(exc).__name__}: {exc}"
        raise ValueError(msg) from exc
    if not callable(function) or inspect.iscoroutinefunction(function):
        msg = f"{call!r} is not a plain function"
        raise ValueError(msg)
    found: Callable[..., Any] = function
    return found


def signature_of(function: Callable[..., Any]) -> dict[str, Param]:
    """Return a function's named parameters as those of its source; none without a readable signature.

    Raises ValueError for a function that cannot be called by names alone.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return {}
    if any(each.kind is each.POSITIONAL_ONLY and each.default is each.empty for each in parameters):
        msg = "takes a parameter that has no name"
        raise ValueError(msg)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        each.name: Param(REQUIRED if each.default is each.empty else each.default)
        for each in parameters
        if each.kind in named
    }


class FunctionCaller:
    """Calls the functions of sources in threads, each source within its own limits, breaker and retries.

    A function that hangs keeps its thread and its place: its requests end by their deadlines, and at most the source's
    `concurrency` threads are lost. `max_bytes` caps the returned value, which must not contain one of the sources'
    `secrets`. Opened with `async with`.
    """

    def __init__(self, max_bytes: int, secrets: Collection[str] = ()) -> None:
        self._max_bytes = max_bytes
        self._secrets = secrets
        self._quiet_until: dict[str, float] = {}
        self._pools: dict[str, ThreadPool] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self.hosts: dict[str, Host] = {}

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.stop()
        # In a daemon thread: Pebble joins a pool for as long as its function hangs.
        joined = asyncio.Event()
        start_thread(partial(self._join, joined), "joining functions' threads", means="nobody waits for them")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(joined.wait(), JOIN_TIMEOUT)

    def _join(self, joined: asyncio.Event) -> None:
        for pool in self._pools.values():
            pool.join()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(joined.set)

    async def call(self, source: Source, params: Mapping[str, Any], deadline: float | None) -> Response:
        """Call a source's function, with retries. Raises AnswerError."""
        attempt = 1
        while True:
            try:
                body = await self._once(source, params, deadline)
                if await large_contains_secret(partial(contains_secret, self._secrets), body.content, None):
                    msg = f"source {source.name} returned a secret of a source, which is not passed on"
                    raise InvalidDocument(msg)
                return Response(None, body, {}, attempt)
            except AnswerError as error:
                pause = pause_before_next(attempt, error, source.retry, turn.deadline_of(deadline))
            await asyncio.sleep(pause)
            attempt += 1

    async def _once(self, source: Source, params: Mapping[str, Any], deadline: float | None) -> Body:
        host = self.host(source)
        limit = min(source.max_bytes or self._max_bytes, self._max_bytes)
        ticket = await host.acquire(turn.deadline_of(deadline))
        turn.begin()
        try:
            done = self._pools[source.name].schedule(_ended, args=(self._functions[source.name], dict(params), limit))
        except BaseException:
            host.release(ticket, ok=None)
            raise
        # The place is free when the thread is, not when the request gives up.
        done.add_done_callback(partial(self._free, host, ticket))
        ended: _Ended = await asyncio.wrap_future(done)
        body, raised = ended
        if raised is not None:
            self._log(source, raised)
            error = self._silent(raised if isinstance(raised, AnswerError) else _translated(source, raised))
            raise error from (None if error is raised else raised)
        assert body is not None
        return body

    def _free(self, host: Host, ticket: int, ended: Any) -> None:
        """Give a place back; called in the function's thread, which may end after the worker."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(_leave, host, ticket, ended)

    def _silent(self, error: AnswerError) -> AnswerError:
        """Return an error, with another message if its own contains a secret."""
        if not contains_secret(self._secrets, error.whole_text().encode(errors="replace")):
            return error
        silent = type(error)("the function failed; its message contains a secret of a source")
        silent.retryable = error.retryable
        return silent

    def _log(self, source: Source, raised: BaseException) -> None:
        """Log where a function failed, once a minute for each source."""
        now = time.monotonic()
        if isinstance(raised, AnswerError | OSError) or now < self._quiet_until.get(source.name, 0.0):
            return
        self._quiet_until[source.name] = now + LOG_EVERY
        frame = traceback.extract_tb(raised.__traceback__)[-1]
        logger.warning("source %s: %s raised %s in %s:%s, so its request failed: correct it (logged once a minute)",
                       source.name, source.call, type(raised).__name__, frame.filename, frame.lineno)  # fmt: skip

    def host(self, source: Source) -> Host:
        """Return the limits of a source, made on first use."""
        host = self.hosts.get(source.name)
        if host is None:
            limits = source.limits or Limits(concurrency=DEFAULT_THREADS)
            host = self.hosts[source.name] = Host(f"source {source.name}", limits)
            self._functions[source.name] = function_of(source.call or "")
            self._pools[source.name] = ThreadPool(max_workers=limits.concurrency)
        return host


def _ended(function: Callable[..., Any], params: Mapping[str, Any], limit: int) -> _Ended:
    """Call a function; returns its body or what it raised, SystemExit and StopIteration included."""
    try:
        values = {name: value.read() if isinstance(value, Raw) else value for name, value in params.items()}
        return _body(function(**values), limit), None
    except BaseException as exc:  # noqa: BLE001  foreign code, in a thread that is ours
        return None, exc


def _leave(host: Host, ticket: int, ended: concurrent.futures.Future[_Ended]) -> None:
    raised = None if ended.cancelled() else ended.result()[1]
    # Other errors are about the arguments, not about what is behind the function.
    failed = isinstance(raised, OSError) or (isinstance(raised, AnswerError) and raised.retryable)
    result = raised.outcome if isinstance(raised, AnswerError) else type(raised).__name__
    host.release(ticket, ok=None if ended.cancelled() else not failed, result=result)


def _translated(source: Source, exc: BaseException) -> AnswerError:
    """Translate what a function raised: time-outs and errors of the system are retried, others are not."""
    try:
        reason = f"source {source.name}: {type(exc).__name__}: {exc}"
    except Exception:  # noqa: BLE001  foreign code: its error may not even have a text
        reason = f"source {source.name}: {type(exc).__name__}"
    if isinstance(exc, TimeoutError):
        return TimedOut(reason)
    return Unreachable(reason) if isinstance(exc, OSError) else UpstreamError(reason)


def _body(value: Any, limit: int) -> Body:
    """Return a value as a body: text of a string, bytes as they are, JSON of anything else."""
    try:
        match value:
            case str():
                body = Body(value.encode(), "text/plain", "utf-8")
            case bytes():
                body = Body(value)
            case _:
                body = Body(strictjson.dumps_in_steps(value, limit), "application/json")
        if len(body.content) <= limit:
            return body
        msg = f"the function returned {len(body.content)} bytes; at most {limit} are taken"
        raise TooLarge(msg)
    except OverflowError:
        msg = f"the function returned JSON of more than {limit} bytes"
        raise TooLarge(msg) from None
    except (ValueError, TypeError, RecursionError) as exc:
        msg = f"the function returned a value that is not JSON: {exc}"
        raise InvalidDocument(msg) from None
