"""JMESPath as expressions of routes have it. Numbers keep their digits in its functions, and what cannot be compared is
null, as its specification says; the package would raise TypeError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Context, Decimal
from typing import Any

from jmespath import functions, parser, visitor

from models import strictjson
from models.strictjson import NegativeZero, Number

OF_DIGITS = frozenset({"abs", "avg", "ceil", "floor", "sum", "to_string"})
"""Functions that make something of a number's digits."""
_OURS = {Number.__name__: "number", NegativeZero.__name__: "number"}
_EXACTLY = Context(prec=1_000)
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_ORDERED: tuple[type | tuple[type, ...], ...] = ((int, float), str)


class _Functions(functions.Functions):  # type: ignore[misc]
    """The package knows types by their names."""

    def _get_allowed_pytypes(self, types: Any) -> tuple[list[str], list[Any]]:
        allowed, inner = super()._get_allowed_pytypes(types)
        return (
            [*allowed, *_OURS] if "float" in allowed else allowed,
            [(*each, *_OURS) if "float" in each else each for each in inner],
        )

    def _convert_to_jmespath_type(self, name: str) -> str:
        return _OURS.get(name) or str(super()._convert_to_jmespath_type(name))

    @functions.signature({"types": ["number"]})  # type: ignore[untyped-decorator]
    def _func_abs(self, number: float) -> float:
        return Number(number.text.removeprefix("-")) if isinstance(number, Number) else abs(number)

    @functions.signature({"types": ["array-number"]})  # type: ignore[untyped-decorator]
    def _func_avg(self, numbers: list[float]) -> float | None:
        return float(_sum(numbers) / len(numbers)) if numbers else None

    @functions.signature({"types": ["number"]})  # type: ignore[untyped-decorator]
    def _func_ceil(self, number: float) -> int:
        return math.ceil(Decimal(str(number)))

    @functions.signature({"types": ["number"]})  # type: ignore[untyped-decorator]
    def _func_floor(self, number: float) -> int:
        return math.floor(Decimal(str(number)))

    @functions.signature({"types": ["array-number"]})  # type: ignore[untyped-decorator]
    def _func_sum(self, numbers: list[float]) -> float:
        if not any(isinstance(each, float) for each in numbers):
            return sum(numbers)
        total = _sum(numbers)
        if not math.isfinite(total):
            msg = "sum(): the number is out of range"
            raise ValueError(msg)
        return Number(str(total))

    @functions.signature({"types": []})  # type: ignore[untyped-decorator]
    def _func_to_string(self, value: Any) -> str:
        return value if isinstance(value, str) else strictjson.dumps(value, exact=True).decode()

    @functions.signature({"types": []})  # type: ignore[untyped-decorator]
    def _func_to_number(self, value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        if not isinstance(value, str):
            return value
        try:
            number: float | None = (
                strictjson.loads(value.encode(), exact=True) if _JSON_NUMBER.fullmatch(value) else None
            )
        except ValueError:  # out of range
            return None
        return number


class _Interpreter(visitor.TreeInterpreter):  # type: ignore[misc]
    def visit_comparator(self, node: Mapping[str, Any], value: Any) -> Any:
        if node["value"] in self._EQUALITY_OPS:
            return super().visit_comparator(node, value)
        left, right = (self.visit(child, value) for child in node["children"])
        if isinstance(left, bool) or isinstance(right, bool):
            return None
        alike = any(isinstance(left, kind) and isinstance(right, kind) for kind in _ORDERED)
        return self.COMPARATOR_FUNC[node["value"]](left, right) if alike else None


_INTERPRETER = _Interpreter(visitor.Options(custom_functions=_Functions()))


def _sum(numbers: list[float]) -> Decimal:
    total = Decimal(0)
    for each in numbers:
        total = _EXACTLY.add(total, Decimal(str(each)))
    return total


def search(tree: Mapping[str, Any], value: Any) -> Any:
    """Return what an expression finds. Raises JMESPath's errors, which are ValueErrors, and ArithmeticError."""
    return _INTERPRETER.visit(tree, value)


def compiled(text: str) -> Mapping[str, Any]:
    """Return an expression's tree. Raises ValueError for one that is none, or that calls what is no function."""
    tree: Mapping[str, Any] = parser.Parser().parse(text).parsed
    _check(tree)
    return tree


def functions_of(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the functions that an expression calls."""
    if tree["type"] == "function_expression":
        yield tree["value"]
    for child in _children(tree):
        yield from functions_of(child)


def _children(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [child for child in node["children"] if isinstance(child, Mapping)]  # those of a slice are numbers


def _check(node: Mapping[str, Any], *, may_refer: bool = False) -> None:
    """Raise ValueError for functions that there are not, and for `&` where none takes it: at run time they would fail
    for every record.
    """
    if node["type"] == "expref" and not may_refer:
        msg = "& is for the functions that take an expression, such as sort_by"
        raise ValueError(msg)
    wanted: tuple[Any, ...] = ()
    if node["type"] == "function_expression":
        wanted = _signature(node["value"], len(node["children"]))
    for at, child in enumerate(_children(node)):
        _check(child, may_refer=at < len(wanted) and "expref" in wanted[at]["types"])


def _signature(name: str, count: int) -> tuple[Any, ...]:
    known = _Functions.FUNCTION_TABLE
    if name not in known:
        msg = f"no function {name}(); known: {', '.join(sorted(known))}"
        raise ValueError(msg)
    wanted: tuple[Any, ...] = known[name]["signature"]
    least, any_number = len(wanted), bool(wanted) and bool(wanted[-1].get("variadic"))
    if count < least or (count > least and not any_number):
        msg = f"{name}() takes {least}{' or more' if any_number else ''} arguments, not {count}"
        raise ValueError(msg)
    return wanted
