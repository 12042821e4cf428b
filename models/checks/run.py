"""Runs one check in this process: a child of the pool, or the worker itself if the check is cheap."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models import strictjson
from models.checks import registry

MAX_VALUE_BYTES = 65_536
"""Bytes of JSON that one check may return."""
MAX_REASON = 400
"""Characters of an error message."""

MAX_DEPTH = strictjson.MAX_DEPTH + 8
"""Levels that a result may nest (`models.result.RESULT_DEPTH`)."""

_TEXT_OR_NUMBER = (str, int, float)
_SMALL = 1 << 63
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """The outcome of one call: its `value`, or the `error` message. `elapsed` is in seconds."""

    value: Any = None
    error: str | None = None
    elapsed: float = 0.0


@dataclass(frozen=True, slots=True)
class Unread:
    """A value still to be parsed: a field (None: all) of the document in a result's shared part."""

    shared: bytes
    field: str | None

    def read(self) -> Any:
        """Return the value. Raises ValueError if it is missing."""
        members = strictjson.loads(b"{%b}" % self.shared, max_depth=MAX_DEPTH)
        if "document" not in members:
            msg = "there is no document: the answer had no body"
            raise ValueError(msg)
        return select(members["document"], self.field)


def select(document: Any, path: str | None) -> Any:
    """Return the value at a dotted path of a document; numbers index arrays. Raises ValueError if it is missing."""
    value = document
    for step in path.split(".") if path else ():
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            msg = f"the document has no field {path!r}"
            raise ValueError(msg)
    return value


def run(name: str, value: Any, args: Mapping[str, Any]) -> CheckOutcome:
    """Run one check; whatever it raises, `SystemExit` included, becomes the outcome's error.

    The value is what JSON makes of the return value, wherever the check runs: a list of a tuple.
    """
    started = time.perf_counter()
    if isinstance(value, Unread):
        try:
            value = value.read()
        except ValueError as exc:
            return CheckOutcome(error=str(exc), elapsed=time.perf_counter() - started)
    if any(isinstance(each, strictjson.Raw) for each in args.values()):
        args = {each: arg.read() if isinstance(arg, strictjson.Raw) else arg for each, arg in args.items()}
    try:
        answer = _as_json(_call(name, value, args))
    except BaseException as exc:  # noqa: BLE001  a check may raise anything
        return CheckOutcome(error=_reason(exc), elapsed=time.perf_counter() - started)
    return CheckOutcome(value=answer, elapsed=time.perf_counter() - started)


def _call(name: str, value: Any, args: Mapping[str, Any]) -> Any:
    found = registry.find(name)
    takes = found.signature.value
    if not takes.fits(value):
        msg = f"takes {takes.problem(value)}"
        raise TypeError(msg)
    try:
        return found.function(value, **args)
    except TypeError as exc:
        wrong = found.signature.problems(args)
        if not wrong:
            raise
        # Python's message is about functions and parameters, which the sender of the request does not know.
        raise TypeError("; ".join(f"args.{each}: {reason}" for each, reason in wrong.items())) from exc


def _as_json(answer: Any) -> Any:
    """Return a value as a result carries it. Raises ValueError or TypeError if none can."""
    if answer is None or type(answer) is bool or (type(answer) is int and -_SMALL < answer < _SMALL):
        return answer  # the usual case: encoding takes longer than the check
    if inspect.iscoroutine(answer) or inspect.isgenerator(answer):
        answer.close()  # or Python warns that it was never awaited
        msg = f"returned a {type(answer).__name__}: a check must return a plain value"
        raise TypeError(msg)
    encoded = strictjson.dumps(answer)
    if strictjson.deeper_than(encoded, strictjson.MAX_DEPTH):
        msg = f"returned a value nested deeper than {strictjson.MAX_DEPTH} levels"
        raise ValueError(msg)
    if len(encoded) > MAX_VALUE_BYTES:
        msg = f"returned more than {MAX_VALUE_BYTES} bytes of JSON"
        raise ValueError(msg)
    if type(answer) in _TEXT_OR_NUMBER:
        return answer
    try:
        # The keys 1 and "1" collide in JSON: a reader refuses such an object, and the pool would end the process.
        return strictjson.loads(encoded)
    except ValueError as exc:
        msg = f"returned a value that JSON cannot represent: {exc}"
        raise ValueError(msg) from None


def _reason(exc: BaseException) -> str:
    try:
        message = "".join(str(exc)[:MAX_REASON])  # a plain str, even from a subclass
    except BaseException:  # noqa: BLE001  __str__ may raise anything too
        message = "(its message cannot be read)"
    reason = f"{type(exc).__name__}: {message}" if message else type(exc).__name__
    line = " ".join(_CONTROL.sub(" ", reason[:MAX_REASON]).split())
    return line.encode(errors="backslashreplace").decode()[:MAX_REASON]
