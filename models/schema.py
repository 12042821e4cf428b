"""The schema base, and fields that are stricter than marshmallow's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from marshmallow import RAISE, Schema, ValidationError, fields, post_dump

from models.strictjson import Raw

_Data = dict[str, Any]


class StrictSchema(Schema):
    """Refuses unknown keys on input, and leaves out keys whose value is None on output."""

    class Meta:
        """Applies to every schema of the contract."""

        unknown = RAISE

    error_messages = {  # noqa: RUF012  marshmallow's own attribute
        "unknown": "unknown field",
        "type": "must be a JSON object",
    }

    @post_dump
    def _drop_inapplicable(self, data: _Data, **_: Any) -> _Data:
        return {key: value for key, value in data.items() if value is not None}


class Seconds(fields.Field[float]):
    """A finite number of seconds, 0 or more. Unlike `fields.Float` it accepts neither strings nor booleans."""

    what = "a number of seconds"

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> float:  # noqa: ARG002
        if isinstance(value, bool) or not isinstance(value, int | float):
            msg = f"must be {self.what}, not {kind(value)}"
            raise ValidationError(msg)
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if not math.isfinite(seconds) or seconds < 0:
            msg = f"must be {self.what}, 0 or more"
            raise ValidationError(msg)
        return seconds


class Text(fields.Field[str]):
    """A string validated by one function: a chain of marshmallow validators costs 3 µs a field."""

    def __init__(self, validator: Callable[[str], None], **options: Any) -> None:
        super().__init__(**options)
        self._validator = validator

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> str:  # noqa: ARG002  marshmallow's signature
        if not isinstance(value, str):
            msg = f"must be a string, not {kind(value)}"
            raise ValidationError(msg)
        self._validator(value)
        return value


def refuse(reason: str, field: str = "_schema") -> NoReturn:
    """Raise ValidationError, of the whole value unless a field is named."""
    raise ValidationError(reason, field)


def kind(value: Any) -> str:
    """Return the name of a JSON value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return value.kind if isinstance(value, Raw) else "an object"


def flatten(messages: Any) -> list[str]:
    """Turn marshmallow's nested messages into lines of the form `field.path: reason`."""
    return [f"{'.'.join(path)}: {reason}" if path else reason for path, reason in problems(messages)]


def problems(messages: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield marshmallow's nested messages one by one: the path of the field, and the reason."""
    if isinstance(messages, dict):
        for key, inner in messages.items():
            yield from problems(inner, path if key == "_schema" else (*path, str(key)))
        return
    for reason in messages if isinstance(messages, list) else [messages]:
        yield path, str(reason).rstrip(".")
