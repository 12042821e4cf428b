"""A plugin's functions, plain and async, as sources name them: `package.module:function`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import inspect
import logging
import traceback
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Self, TypeAlias

from pebble import ThreadPool

from models import strictjson
from models.documents import Body
from models.errors import AnswerError, InvalidDocument, TooLarge, UpstreamError
from models.raised import FunctionError, kind_of, retry_after_of, status_of
from models.source import DEFAULT_THREADS, REQUIRED, Limits, Param, Source
from models.strictjson import Raw
from streams.coroutine_calls import BlockingLog, Steps
from streams.http import turn
from streams.http.limits import Host
from streams.http.response import Response
from streams.http.retry import pause_before_next, retry_after
from streams.http.secret_scan import contains_secret, large_contains_secret
from streams.log_pause import LogPause
from streams.tasks import end_tasks, start, start_thread

logger = logging.getLogger(__name__)

JOIN_TIMEOUT = 1.0
"""Seconds that threads may take to end when the worker stops."""


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
    if not callable(function) or inspect.isasyncgenfunction(function):
        msg = f"{call!r} is not a plain function, nor an async one"
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
    """Calls the functions of sources, each source within its own limits, breaker and retries: plain ones in threads,
    async ones on the loop, where a deadline cancels them.

    A plain function that hangs keeps its thread and its place: its requests end by their deadlines, and at most the
    source's `concurrency` threads are lost. `max_bytes` caps the returned value, which must not contain one of the
    sources' `secrets`. Opened with `async with`.
    """

    def __init__(self, max_bytes: int, secrets: Collection[str] = ()) -> None:
        self._max_bytes = max_bytes
        self._secrets = secrets
        self._log_pause = LogPause()
        self._pools: dict[str, ThreadPool] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._running: set[asyncio.Task[_Ended]] = set()
        self._blocking = BlockingLog()
        self.hosts: dict[str, Host] = {}

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks(*self._running)
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
        try:
            turn.begin()
            # The place is free when the thread, or task, is, not when the request gives up.
            ended = self._start(source, params, limit, partial(_leave, source.name, host, ticket))
        except BaseException:
            host.release(ticket, ok=None)
            raise
        try:
            body, raised = await asyncio.shield(ended)
        except asyncio.CancelledError:
            ended.cancel()
            raise
        if raised is not None:
            self._log(source, raised)
            error = self._silent(translated(source.name, raised))
            if isinstance(error, UpstreamError) and error.retry_after:
                host.pause(error.retry_after)
            raise error from (None if error is raised else raised)
        assert body is not None
        return body

    def _start(
        self, source: Source, params: Mapping[str, Any], limit: int, leave: Callable[[Any], None]
    ) -> asyncio.Future[_Ended]:
        """Begin a call; `leave` is called on the loop when it has ended."""
        function = self._functions[source.name]
        if not inspect.iscoroutinefunction(function):
            done = self._pools[source.name].schedule(_ended, args=(function, dict(params), limit))
            done.add_done_callback(partial(self._free, leave))
            return asyncio.wrap_future(done)
        task = start(self._run(source, function, params, limit), f"a call of source {source.name}",
                     means="its request fails", fatal=False)  # fmt: skip
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(leave)
        return task

    async def _run(self, source: Source, function: Callable[..., Any], params: Mapping[str, Any], limit: int) -> _Ended:
        """Call an async function; returns its body or what it raised. Values are encoded in a thread."""
        try:
            work = function(**_values(params))
            value = await Steps(work, partial(self._blocking.note, source.name, source.call))
            if isinstance(value, str | bytes):
                return _body(value, limit), None
            encoded = self._pools[source.name].schedule(_body, args=(value, limit))
            return await asyncio.wrap_future(encoded), None
        except BaseException as exc:
            task = asyncio.current_task()
            if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            return None, exc

    def _free(self, leave: Callable[[Any], None], ended: Any) -> None:
        """Give a place back; called in the function's thread, which may end after the worker."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(leave, ended)

    def _silent(self, error: AnswerError) -> AnswerError:
        """Return an error, with another message if its own contains a secret."""
        if not contains_secret(self._secrets, error.whole_text().encode(errors="replace")):
            return error
        return error.reworded("the function failed; its message contains a secret of a source")

    def _log(self, source: Source, raised: BaseException) -> None:
        """Log where a function failed, once a minute for each source."""
        if isinstance(raised, AnswerError | FunctionError | OSError) or status_of(raised) is not None:
            return  # the result says so
        if not self._log_pause.is_over(source.name):
            return
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
        return _body(function(**_values(params)), limit), None
    except BaseException as exc:  # noqa: BLE001  foreign code, in a thread that is ours
        return None, exc


def _values(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.read() if isinstance(value, Raw) else value for name, value in params.items()}


def _leave(
    name: str, host: Host, ticket: int, ended: asyncio.Future[_Ended] | concurrent.futures.Future[_Ended]
) -> None:
    """Give a place back, with what its host is to know of the call's end."""
    if ended.cancelled():
        host.release(ticket, ok=None)
        return
    raised = ended.result()[1]
    if raised is None:
        host.release(ticket, ok=True)
        return
    # Other errors are about the arguments, not about what is behind the function.
    error = translated(name, raised)
    known = isinstance(raised, AnswerError | FunctionError) or status_of(raised) is not None
    host.release(ticket, ok=not error.retryable, result=error.outcome if known else type(raised).__name__)


def translated(source: str, exc: BaseException) -> AnswerError:
    """Translate what a function raised, by what it says or by the status of a library's HTTP error."""
    if isinstance(exc, AnswerError):
        return exc
    if isinstance(exc, FunctionError):
        return exc.answer_error(source)
    try:
        reason = f"source {source}: {type(exc).__name__}: {exc}"
    except Exception:  # noqa: BLE001  foreign code: its error may not even have a text
        reason = f"source {source}: {type(exc).__name__}"
    if (status := status_of(exc)) is not None:
        return UpstreamError(reason, status, retry_after(retry_after_of(exc)))
    return kind_of(exc)(reason)


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
