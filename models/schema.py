"""The schema base and the fields that the contract's JSON needs stricter than marshmallow's own."""

from __future__ import annotations

import math
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_dump

_Data = dict[str, Any]


class StrictSchema(Schema):
    """Unknown keys are refused on the way in; keys whose value does not apply (None) are left out on the way out."""

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
    """A finite number of seconds, not negative. Unlike `fields.Float` it takes no string and no boolean."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> float:  # noqa: ARG002
        if isinstance(value, bool) or not isinstance(value, int | float):
            msg = f"must be a number of seconds, not {kind(value)}"
            raise ValidationError(msg)
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if not math.isfinite(seconds) or seconds < 0:
            msg = "must be a number of seconds, 0 or more"
            raise ValidationError(msg)
        return seconds


def kind(value: Any) -> str:
    """Name a JSON value's type the way a producer knows it."""
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
    return "an object"


def flatten(messages: Any, path: str = "") -> list[str]:
    """Turn marshmallow's nested messages into lines of the form `field.path: reason`."""
    if isinstance(messages, dict):
        lines: list[str] = []
        for key, inner in messages.items():
            name = path if key == "_schema" else f"{path}.{key}" if path else str(key)
            lines += flatten(inner, name)
        return lines
    reasons = messages if isinstance(messages, list) else [messages]
    return [f"{path}: {_plain(reason)}" if path else _plain(reason) for reason in reasons]


def _plain(reason: Any) -> str:
    return str(reason).rstrip(".")
