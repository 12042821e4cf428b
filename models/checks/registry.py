"""The registered checks, and `@check`, which adds one."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from marshmallow import ValidationError

from models.checks.signature import Signature, signature_of

Function = TypeVar("Function", bound=Callable[..., Any])
ArgumentCheck = Callable[[Mapping[str, Any]], None]
"""Raises ValueError, with the reason, for arguments that fit their hints and are still invalid."""

_UNPLAIN = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Call:
    """A check to run: its name, the dotted path of its field (None: the whole document), its arguments."""

    name: str
    field: str | None = None
    args: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """A registered check. `inline`: the worker may run it in its own process once that proves cheaper."""

    name: str
    function: Callable[..., Any]
    inline: bool
    signature: Signature
    check_arguments: ArgumentCheck | None = None

    def problems(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Return the problem of each invalid argument, by name; under "" a problem of all together."""
        wrong = self.signature.problems(given)
        if not wrong and self.check_arguments is not None:
            try:
                self.check_arguments(given)
            except ValueError as exc:
                return {"": str(exc)}
            except Exception as exc:  # noqa: BLE001  a plugin may raise anything
                return {"": f"cannot be validated: {type(exc).__name__}"}
        return wrong


_REGISTRY: dict[str, Check] = {}


@overload
def check(target: Function, /) -> Function: ...
@overload
def check(
    target: str | None = None, /, *, inline: bool = False, judge: ArgumentCheck | None = None
) -> Callable[[Function], Function]: ...
def check(
    target: Callable[..., Any] | str | None = None, /, *, inline: bool = False, judge: ArgumentCheck | None = None
) -> Any:
    """Register a function as a check, under its own name or the one given.

    `inline` promises that it is quick for any small value and can neither hang nor end its process; then the worker may
    run it itself. `judge` raises ValueError for arguments that fit their hints and are still invalid. Raises ValueError
    for a name that is invalid or taken, and for a function that no request could call.
    """
    if target is None or isinstance(target, str):
        return lambda function: _register(target, function, inline, judge)
    return _register(None, target, inline, judge)


def _register(given: str | None, function: Function, inline: bool, judge: ArgumentCheck | None) -> Function:  # noqa: FBT001
    if not inspect.isroutine(function):
        msg = f"check {given!r}: {str(function)[:200]} is not a function: write a `def` that calls it"
        raise ValueError(msg)
    name = given or function.__name__
    taken = _REGISTRY.get(name)
    if taken is not None and not _is_same(taken.function, function):
        msg = f"the check name {name!r} is taken by {taken.function.__module__}.{taken.function.__qualname__}"
        raise ValueError(msg)
    where = f"check {name!r} ({function.__module__}.{function.__qualname__})"
    if not _NAME.fullmatch(name):
        msg = f"{where}: a name has letters, digits, '_', '.' and '-', 64 at most: use @check(\"name\")"
        raise ValueError(msg)
    if any(is_kind(inspect.unwrap(function)) for is_kind in _UNPLAIN):
        msg = f"{where}: a check is a plain function, not one that is awaited or iterated: return the answer"
        raise ValueError(msg)
    try:
        signature = signature_of(function)
    except (ValueError, TypeError) as exc:
        msg = f"{where}: {exc}"
        raise ValueError(msg) from None
    _REGISTRY[name] = Check(name, function, inline, signature, judge)
    return function


def _is_same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two functions are one, imported twice. Two of the same name, such as lambdas, differ in their code."""
    return _identity(one) == _identity(other)


def _identity(function: Callable[..., Any]) -> tuple[Any, ...]:
    return function.__module__, function.__qualname__, getattr(inspect.unwrap(function), "__code__", None)


def names() -> list[str]:
    """Return the names of all checks."""
    return sorted(_REGISTRY)


def find(name: str) -> Check:
    """Return a check. Raises KeyError for an unknown name."""
    return _REGISTRY[name]


def check_known(name: str) -> None:
    """Raise ValidationError, listing the known names, if no check has this one."""
    if name not in _REGISTRY:
        msg = f"unknown check {name[:60]!r}; known: {', '.join(names())}"
        raise ValidationError(msg)


def check_call(call: Call) -> None:
    """Raise ValidationError, listing the invalid arguments, if a registered check cannot be called so."""
    found = _REGISTRY[call.name]
    if not call.args and not found.signature.required and found.check_arguments is None:
        return
    wrong = found.problems(call.args)
    if wrong:
        raise ValidationError({"args": wrong.get("", wrong)})
