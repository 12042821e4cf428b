"""Values for Protobuf messages in the form in which `json_format` loses nothing of them, or refused.

`json_format` (protobuf 7.36) takes more than Protobuf's JSON mapping allows, and makes another value of it: what is no
base64 is left out of bytes, whole numbers with a point or an exponent go through a double, text beyond a double's range
is infinite, `true` is 1, and so on (findings/protobuf-lenient-json.sh).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from streams.registry.proto_scalars import FITS, SHOWN, Fit, anything, boolean, enum, integer, matching, misfit

_DURATION = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?s")
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_GOOGLES: Final = "google.protobuf."
_WRAPPERS = frozenset(
    f"{_GOOGLES}{name}Value" for name in
    ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)  # fmt: skip
_STRUCTS: Final = {f"{_GOOGLES}Struct": dict, f"{_GOOGLES}ListValue": list, f"{_GOOGLES}Value": object}
_TEXTS: Final = {f"{_GOOGLES}Duration": _DURATION, f"{_GOOGLES}Timestamp": _TIMESTAMP}
_ANY: Final = f"{_GOOGLES}Any"
_AS_VALUE: Final = frozenset({_ANY, f"{_GOOGLES}FieldMask", *_WRAPPERS, *_STRUCTS, *_TEXTS})
"""Messages that JSON has in another form than as an object of their fields."""
_NULLS: Final = frozenset({f"{_GOOGLES}Value", f"{_GOOGLES}NullValue"})
"""Types of which null is a value."""


@dataclass(frozen=True, slots=True)
class _Field:
    """`fit` is for one value, of a list or a map too; `key` for a map's keys. `choice` is the oneof that it is of."""

    number: int
    fit: Fit
    key: Fit | None
    is_list: bool
    choice: str
    takes_null: bool


class Fitting:
    """Makes values fit the messages of a pool; what it found out about each message is kept."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._messages: dict[str, dict[str, _Field]] = {}

    def message(self, value: Any, descriptor: Descriptor, path: str) -> Any:
        """Return a message's value. Raises ValueError naming the field that would lose something, or does not fit."""
        if value is None:
            return None
        if not isinstance(value, dict):
            raise misfit(path, value, descriptor.full_name)
        fields, fitted = self._fields(descriptor), {}
        seen: dict[int | str, str] = {}
        for name, each in value.items():
            field = fields.get(name) or self._extension(name, descriptor, path)
            for same in (field.number, field.choice if each is not None or field.takes_null else ""):
                if same and seen.setdefault(same, name) != name:
                    msg = f'{path}: "{seen[same]}" and "{name}" exclude each other'
                    raise ValueError(msg)
            if each is not None:
                fitted[name] = self._field(each, field, f"{path}.{name}")
            elif not field.is_list:  # json_format refuses a null list, which the mapping allows
                fitted[name] = None
        return fitted

    def _field(self, value: Any, field: _Field, path: str) -> Any:
        fit = field.fit
        if field.key is not None:
            if not isinstance(value, dict):
                raise misfit(path, value, "a map")
            return _map(value, field, field.key, path)
        if field.is_list:
            if not isinstance(value, list):
                raise misfit(path, value, "a list")
            return [fit(each, f"{path}[{number}]") for number, each in enumerate(value)]
        return fit(value, path)

    def _fields(self, descriptor: Descriptor) -> dict[str, _Field]:
        found = self._messages.get(descriptor.full_name)
        if found is None:
            made = {field.name: self._made(field) for field in descriptor.fields}
            found = self._messages[descriptor.full_name] = {
                **{field.json_name: made[field.name] for field in descriptor.fields},
                **made,
            }
        return found

    def _extension(self, name: str, descriptor: Descriptor, path: str) -> _Field:
        if name[:1] == "[" and name[-1:] == "]":
            try:
                return self._made(self._pool.FindExtensionByName(name[1:-1]))
            except KeyError:
                pass
        msg = f'{descriptor.full_name} has no field named "{name[:SHOWN]}" at "{path}"'
        raise ValueError(msg)

    def _made(self, field: FieldDescriptor) -> _Field:
        choice = "" if field.containing_oneof is None else field.containing_oneof.full_name
        one, key = field, None
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            one = field.message_type.fields_by_name["value"]
            key = self._fit(field.message_type.fields_by_name["key"])
        kind = one.message_type or one.enum_type
        takes_null = kind is not None and kind.full_name in _NULLS
        return _Field(field.number, self._fit(one), key, field.is_repeated and key is None, choice, takes_null)

    def _fit(self, field: FieldDescriptor) -> Fit:
        if field.message_type is not None:
            return self._fit_message(field.message_type)
        if field.enum_type is not None:
            names, kind = frozenset(field.enum_type.values_by_name), field.enum_type.full_name
            return lambda value, path: enum(value, path, names, kind)
        return FITS.get(field.type, integer)

    def _fit_message(self, descriptor: Descriptor) -> Fit:
        name = descriptor.full_name
        if name in _WRAPPERS:
            return self._fit(descriptor.fields_by_name["value"])
        if name in _STRUCTS:
            kind = _STRUCTS[name]
            return lambda value, path: anything(value, path, kind)
        if name in _TEXTS:
            return lambda value, path: matching(value, path, _TEXTS[name], name)
        if name == _ANY:
            return self._any
        if name in _AS_VALUE:
            return lambda value, _: value
        return lambda value, path: self.message(value, descriptor, path)

    def _any(self, value: Any, path: str) -> Any:
        if value is None or value == {}:
            return value
        url = value.get("@type") if isinstance(value, dict) else None
        if not isinstance(url, str):
            raise misfit(path, value, 'an object with "@type"')
        try:
            descriptor = self._pool.FindMessageTypeByName(url.rpartition("/")[2])
        except KeyError:
            msg = f"{path}: the schema has no message {url[:SHOWN]}"
            raise ValueError(msg) from None
        rest = {name: each for name, each in value.items() if name != "@type"}
        if descriptor.full_name not in _AS_VALUE:
            return {"@type": url, **self.message(rest, descriptor, path)}
        if rest.keys() != {"value"}:
            msg = f'{path}: {descriptor.full_name} has its "value" and nothing else'
            raise ValueError(msg)
        return {"@type": url, "value": self._fit_message(descriptor)(rest["value"], f"{path}.value")}


def _map(value: dict[str, Any], field: _Field, fit_key: Fit, path: str) -> dict[str, Any]:
    fitted: dict[str, Any] = {}
    for key, each in value.items():
        place = f'{path}["{key[:SHOWN]}"]'
        fitted_key = fit_key(key, place) if fit_key is not boolean else key  # json_format takes these as text alone
        name = fitted_key if isinstance(fitted_key, str) else str(fitted_key)
        if name in fitted:
            msg = f"{place}: the key {name} is there twice"
            raise ValueError(msg)
        if each is None and not field.takes_null:
            msg = f"{place}: null"
            raise ValueError(msg)
        fitted[name] = field.fit(each, place)
    return fitted
