"""Run one check here and now: in a child of the pool, or in the worker if it is known to be cheap."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models import strictjson
from models.checks import registry

MAX_VALUE_BYTES = 65_536
"""Bytes of JSON that one check may return."""
MAX_REASON = 400
"""Characters of what is told of a failure."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one call: `value`, or `error` saying why there is none. `elapsed` is in seconds."""

    value: Any = None
    error: str | None = None
    elapsed: float = 0.0


def select(document: Any, path: str | None) -> Any:
    """Return what a dotted path names in a document; numbers index arrays. Raises ValueError if it is not there."""
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


def run(name: str, value: Any, args: Mapping[str, Any]) -> Verdict:
    """Run one check; whatever it raises, `SystemExit` included, becomes the verdict's error."""
    started = time.perf_counter()
    try:
        found = registry.find(name)
        if not found.signature.value.fits(value):
            msg = f"takes {found.signature.value.problem(value)}"
            raise TypeError(msg)  # noqa: TRY301  one place turns every failure into a verdict
        answer = found.function(value, **args)
        _check_answer(answer)
    except BaseException as exc:  # noqa: BLE001  a check is foreign code
        return Verdict(error=_reason(exc), elapsed=time.perf_counter() - started)
    return Verdict(value=answer, elapsed=time.perf_counter() - started)


def _check_answer(answer: Any) -> None:
    """Raise ValueError or TypeError for what a result cannot carry."""
    if answer is None or type(answer) is bool:
        return
    encoded = strictjson.dumps(answer)
    if strictjson.deeper_than(encoded, strictjson.MAX_DEPTH):
        msg = f"returned a value nested deeper than {strictjson.MAX_DEPTH} levels"
        raise ValueError(msg)
    if len(encoded) > MAX_VALUE_BYTES:
        msg = f"returned more than {MAX_VALUE_BYTES} bytes of JSON"
        raise ValueError(msg)


def _reason(exc: BaseException) -> str:
    try:
        said = str(exc)
    except BaseException:  # noqa: BLE001  its text is foreign code too
        said = "(it cannot say why)"
    reason = f"{type(exc).__name__}: {said}" if said else type(exc).__name__
    return " ".join(reason[:MAX_REASON].split()).encode(errors="backslashreplace").decode()[:MAX_REASON]


def prepare_child(modules: Sequence[str]) -> None:
    """Import the plugins in a fresh pool child, so that their checks are registered there too."""
    for module in modules:
        importlib.import_module(module)
