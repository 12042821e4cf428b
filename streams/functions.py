"""A plugin's plain functions, as sources name them: `package.module:function`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from pebble import ThreadPool

from models import strictjson
from models.documents import Body
from models.errors import AnswerError, InvalidDocument, TimedOut, Unreachable, UpstreamError
from models.source import Limits, Param, Source
from streams.http.limits import Host
from streams.http.response import Response
from streams.http.retry import pause_after

DEFAULT_THREADS = 8
"""Calls under way of one source that names no `concurrency`."""
JOIN_TIMEOUT = 1.0
"""Seconds that threads may take to end when the worker stops."""


def function_of(call: str) -> Callable[..., Any]:
    """Return the function that `package.module:function` names. Raises ValueError for none."""
    module, _, name = call.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as exc:  # a plugin is foreign code
        msg = f"{call!r} cannot be imported: {type(exc).__name__}: {exc}"
        raise ValueError(msg) from exc
    if not callable(function) or inspect.iscoroutinefunction(function):
        msg = f"{call!r} is no plain function"
        raise ValueError(msg)
    found: Callable[..., Any] = function
    return found


def signature_of(function: Callable[..., Any]) -> dict[str, Param]:
    """Return a function's named parameters as those of its source; none for one that tells nothing."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        each.name: Param(None if each.default is each.empty else each.default)
        for each in parameters
        if each.kind in named
    }


class Caller:
    """Calls the functions of sources in threads, each source within its own limits, breaker and retries.

    A function that hangs keeps its thread and its place: the requests end by their deadlines, and no more than the
    source's `concurrency` threads are ever lost to it. Opened with `async with`.
    """

    def __init__(self) -> None:
        self._pools: dict[str, ThreadPool] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self.hosts: dict[str, Host] = {}

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.stop()
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for pool in self._pools.values():
            with contextlib.suppress(TimeoutError):  # a function that hangs; its thread ends with the process
                pool.join(JOIN_TIMEOUT)

    async def call(self, source: Source, params: Mapping[str, Any], deadline: float | None) -> Response:
        """Call a source's function, as often as its retries allow. Raises AnswerError."""
        attempt = 1
        while True:
            try:
                return _response(await self._once(source, params, deadline), attempt)
            except AnswerError as error:
                error.attempts = attempt
                pause = pause_after(attempt, error, source.retry)
                if pause is None:
                    raise
                if deadline is not None and time.monotonic() + pause >= deadline:
                    error.hurried = True
                    raise
            await asyncio.sleep(pause)
            attempt += 1

    async def _once(self, source: Source, params: Mapping[str, Any], deadline: float | None) -> Any:
        host = self._host(source)
        ticket = await host.enter(deadline)
        try:
            done = self._pools[source.name].schedule(self._functions[source.name], kwargs=dict(params))
        except BaseException:
            host.leave(ticket, ok=None)
            raise
        # The place is free when the thread is, not when the request has given up.
        done.add_done_callback(lambda ended: self._loop.call_soon_threadsafe(_leave, host, ticket, ended))
        try:
            return await asyncio.wrap_future(done)
        except AnswerError:
            raise
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            raise _translated(source, exc) from exc

    def _host(self, source: Source) -> Host:
        host = self.hosts.get(source.name)
        if host is None:
            limits = source.limits or Limits(concurrency=DEFAULT_THREADS)
            host = self.hosts[source.name] = Host(f"source {source.name}", limits)
            self._functions[source.name] = function_of(source.call or "")
            self._pools[source.name] = ThreadPool(max_workers=limits.concurrency)
        return host


def _leave(host: Host, ticket: int, ended: concurrent.futures.Future[Any]) -> None:
    if ended.cancelled():
        host.leave(ticket, ok=None)
    else:
        error = ended.exception()
        host.leave(ticket, ok=error is None or (isinstance(error, AnswerError) and not error.retryable))


def _translated(source: Source, exc: Exception) -> AnswerError:
    """Say what a function raised. Time-outs and errors of the system may pass; any other is its answer."""
    reason = f"source {source.name}: {type(exc).__name__}: {exc}"
    if isinstance(exc, TimeoutError):
        return TimedOut(reason)
    return Unreachable(reason) if isinstance(exc, OSError) else UpstreamError(reason)


def _response(value: Any, attempts: int) -> Response:
    """Make a body of what a function returned: text of a string, bytes as they are, JSON of anything else."""
    if isinstance(value, str):
        body = Body(value.encode(), "text/plain", "utf-8")
    elif isinstance(value, bytes):
        body = Body(value)
    else:
        try:
            body = Body(strictjson.dumps(value), "application/json")
        except (ValueError, TypeError) as exc:
            msg = f"the function returned what is no JSON: {exc}"
            raise InvalidDocument(msg) from None
    return Response(None, body, {}, attempts)
