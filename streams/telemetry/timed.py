"""`@timed`: measures any function, plain or async, for log and metrics.

    @timed
    def load(path): ...

    @timed(name="purge", level=logging.INFO)
    async def purge(self, key): ...

A call's time ends when the function returns or raises; for an async function that is when its coroutine does, waiting
included; a coroutine that nobody awaits does not count. Timed calls may nest: the outer time contains the inner.
"""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast, overload

from models.histogram import Histogram

P = ParamSpec("P")
T = TypeVar("T")

timings: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
"""Histograms by the name of what was timed and how it ended, `returned` or `raised`; as many as there are names."""


@overload
def timed(function: Callable[P, T], /) -> Callable[P, T]: ...
@overload
def timed(*, name: str | None = None, level: int = logging.DEBUG) -> Callable[[Callable[P, T]], Callable[P, T]]: ...


def timed(function: Any = None, /, *, name: str | None = None, level: int = logging.DEBUG) -> Any:
    """Return the function, measured: same signature, name and docstring.

    `name`: what it is called in log and metrics (default: `module.qualname`); must be one of few, since each is a
    series of its own. `level`: of the line that each call writes to the logger of the function's module. Works on
    methods, and over `@staticmethod` and `@classmethod`; raises TypeError for a generator function, whose call takes no
    time, and for anything but a function.
    """
    if function is None:
        return functools.partial(_timed, name=name, level=level)
    return _timed(function, name, level)


def _timed(function: Any, name: str | None, level: int) -> Any:
    if isinstance(function, staticmethod | classmethod):
        return type(function)(_timed(function.__func__, name, level))
    if not callable(function) or isinstance(function, type):
        msg = f"@timed measures functions, not {function!r}"
        raise TypeError(msg)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        msg = f"@timed: {function.__qualname__} is a generator: time what consumes it"
        raise TypeError(msg)
    module = getattr(function, "__module__", None) or "?"
    called = name or f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    note = functools.partial(_note, called, logging.getLogger(module), level)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def measured(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                result = await function(*args, **kwargs)
            except BaseException as exc:
                note(began, exc)
                raise
            note(began, None)
            return result
    else:

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                result = function(*args, **kwargs)
            except BaseException as exc:
                note(began, exc)
                raise
            note(began, None)
            return result

    return cast("Any", measured)


def _note(name: str, logger: logging.Logger, level: int, began: float, raised: BaseException | None) -> None:
    seconds = time.perf_counter() - began
    timings[name, "returned" if raised is None else "raised"].add(seconds)
    if logger.isEnabledFor(level):
        if raised is None:
            logger.log(level, "%s took %.3f ms", name, seconds * 1000)
        else:
            logger.log(level, "%s took %.3f ms and raised %s", name, seconds * 1000, type(raised).__name__)
