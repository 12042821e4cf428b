"""Templates with named parameters, `{name}`: each value is escaped for its context, and cannot break out of it.
`{{` and `}}` stand for braces.

`{name*}` takes a list (RFC 6570, section 3.2.1, explode): a query and a form repeat their field for each value, a path
segment has the values with commas between, a JSON body the array itself. One value is a list of one.

The parameter of a batch stands for a list as `{name}`, too: with commas between, or in a JSON body as the array.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn, Self, TypeAlias, TypeGuard
from urllib.parse import quote, quote_plus, unquote

from models.errors import InvalidRequest
from models.schema import kind
from models.strictjson import Raw

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]{0,63})(\*)?\}|[{}]")
_ORIGIN = re.compile(r"https?://[^/?#{}\s\\@]+(?=[/?]|\Z)", re.IGNORECASE)
_HEADER_TEXT = re.compile(r"[\x20-\x7e]*")
_OUT_OF_PATH = re.compile(r"[/\\\x00-\x1f\x7f]")
_PATH_END = re.compile(r"([/?])")
_QUERY_FIELD = re.compile(r"[?&]([^?&={}]+=)\Z")
MAX_LIST = 64 << 10
"""Bytes of a list's JSON from which on its values go into a JSON body only: in a URL they would be too long."""
MAX_EXPONENT = 4_000
"""Digits behind the point, or zeros before it, that a number may have as plain decimals."""
MAX_DECODINGS = 4
"""Times that a value is percent-decoded in search of characters that would leave its path segment."""

Params = Mapping[str, Any]


class Placeholder(NamedTuple):
    """Stands for a parameter's value; of a list, `between` is what separates the values, None for one value. `joined`:
    the list is one text where a field could be repeated.
    """

    name: str
    between: str | None = None
    joined: bool = False


Parts: TypeAlias = tuple[str | Placeholder, ...]
"""Texts and placeholders, in order."""


class Template:
    """Text with placeholders. Raises ValueError for a brace that is neither part of one nor doubled, and for a list
    where none can be.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts = self._placed(_parts(text))
        self.names = frozenset(part.name for part in self.parts if isinstance(part, Placeholder))

    @property
    def lists(self) -> frozenset[str]:
        """Return the names of the parameters that take lists."""
        return frozenset(part.name for part in self.parts if is_list(part))

    def joined(self, name: str) -> Self:
        """Return a template in which `{name}` takes a list, too, and has commas between its values."""
        made = copy.copy(self)
        listed = Placeholder(name, ",", joined=True)
        made.parts = tuple(listed if part == Placeholder(name) else part for part in self.parts)
        return made

    def _placed(self, parts: Parts) -> Parts:
        """Return the parts, lists with what separates their values. Raises ValueError for a list in the wrong place."""
        for part in parts if len(parts) > 1 else ():
            if is_list(part):
                msg = f"{{{part.name}*}} is a list: it must be the whole value"
                raise ValueError(msg)
        return parts

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def expand(self, params: Params) -> str:
        """Return the text with the values filled in. Raises InvalidRequest for an unsuitable value."""
        return "".join(part if isinstance(part, str) else self._text(part, params) for part in self.parts)

    def _text(self, part: Placeholder, params: Params) -> str:
        return self.escape(part.name, params) if part.between is None else ",".join(list_texts(part.name, params))

    def texts(self, params: Params) -> list[str]:
        """Return the text for each value of a list, or the only one. Raises InvalidRequest."""
        only = self.parts[0] if len(self.parts) == 1 else ""
        return list_texts(only.name, params) if is_list(only) and not only.joined else [self.expand(params)]

    def escape(self, name: str, params: Params) -> str:
        """Return a value escaped for this kind of text."""
        return as_text(name, params[name])


class HeaderTemplate(Template):
    """A header's value. It takes no list."""

    def _placed(self, parts: Parts) -> Parts:
        for part in parts:
            if is_list(part):
                msg = f"{{{part.name}*}} is a list: none goes into a header"
                raise ValueError(msg)
        return parts

    def escape(self, name: str, params: Params) -> str:
        """Return the value unchanged. Raises InvalidRequest if a header cannot hold it."""
        value = params[name]
        if isinstance(value, str) and not _HEADER_TEXT.fullmatch(value):
            refuse(name, "goes into a header: visible ASCII only")
        return super().escape(name, params)


class UrlTemplate(Template):
    """A URL. Parameters go into path and query, never into scheme or host."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        if _ORIGIN.match(text) is None:
            msg = "must begin with http:// or https:// and a host, without parameters or credentials in them"
            raise ValueError(msg)
        if any(_decoded(segment) in (".", "..") for segment in text.partition("?")[0].split("/")):
            msg = "has a path segment of dots"
            raise ValueError(msg)
        if "#" in text:
            msg = "a fragment is not sent: leave it out"
            raise ValueError(msg)
        first = self.parts[0]
        self._only_in_query = not self.names or (isinstance(first, str) and "?" in first)

    def _placed(self, parts: Parts) -> Parts:
        placed: list[str | Placeholder] = []
        written = ""
        for at, part in enumerate(parts):
            if is_list(part) and "?" in written:
                field = _QUERY_FIELD.search(written)
                behind = parts[at + 1] if at + 1 < len(parts) else "&"
                if field is None or not (isinstance(behind, str) and behind.startswith("&")):
                    msg = f"{{{part.name}*}} is a list: it must be the whole value of a field, ?name={{{part.name}*}}"
                    raise ValueError(msg)
                placed.append(part._replace(between=f"&{field[1]}"))
            else:
                placed.append(part)
            written += part if isinstance(part, str) else "{}"
        return tuple(placed)

    def expand(self, params: Params) -> str:
        """Return the URL. Raises InvalidRequest for a value that would leave its path segment."""
        if self._only_in_query:
            return "".join(
                part if isinstance(part, str) else _quoted(part, _texts(part, params)) for part in self.parts
            )
        written, segment = "", ""  # finished text, and the current path segment
        placed: list[str] = []  # names of the parameters in that segment
        for part in self.parts:
            if isinstance(part, Placeholder):
                texts = _texts(part, params)
                if "?" not in written:
                    for text in texts:
                        _check_in_path(part.name, text)
                segment += _quoted(part, texts)
                placed.append(part.name)
                continue
            for literal in _PATH_END.split(part):
                if _PATH_END.fullmatch(literal):
                    if placed and "?" not in written:
                        _check_segment(segment, placed)
                    written, segment, placed = written + segment + literal, "", []
                else:
                    segment += literal
        if placed and "?" not in written:
            _check_segment(segment, placed)
        return written + segment


def _texts(part: Placeholder, params: Params) -> list[str]:
    return [as_text(part.name, params[part.name])] if part.between is None else list_texts(part.name, params)


def _quoted(part: Placeholder, texts: list[str]) -> str:
    quoted = (text if text.isascii() and text.isalnum() else quote(text, safe="") for text in texts)
    return (part.between or "").join(quoted)


def _check_segment(segment: str, names: list[str]) -> None:
    """Check a whole segment: values that are harmless alone may be harmful together."""
    decoded = _decoded(segment)
    made = "path segment of dots" if decoded in (".", "..") else "slash" if _OUT_OF_PATH.search(decoded) else ""
    if made:
        msg = f"params: {', '.join(sorted(names))} would make a {made}"
        raise InvalidRequest(msg)


def _check_in_path(name: str, text: str) -> None:
    """Refuse a value that leaves its path segment. An encoded slash is refused too: many servers decode it to route."""
    if not text:
        refuse(name, "is empty, which would make another path")
    if _OUT_OF_PATH.search(_decoded(text)):
        refuse(name, "has a slash, backslash or control character, which would leave its path segment")


class JsonTemplate:
    """A JSON body. A string that is just a placeholder becomes the JSON value; in other strings the value is text."""

    def __init__(self, value: Any) -> None:
        self._value = _templates(value)
        self.names = _names(self._value, "names")
        self.lists = _names(self._value, "lists")

    def joined(self, name: str) -> Self:
        """Return a template in which `{name}` takes a list, too: an array, or within a text with commas between."""
        made = copy.copy(self)
        made._value = _joined(self._value, name)
        made.lists = _names(made._value, "lists")
        return made

    def expand(self, params: Params) -> Any:
        """Return the body with the values filled in."""
        return _filled(self._value, params)


def as_text(name: str, value: Any) -> str:
    """Return a parameter as text: numbers as they were written, or else as plain decimals, never as `1e-05`.

    Raises InvalidRequest for null, arrays and objects.
    """
    if type(value) is str and value.isascii():
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        refuse(name, f"must be a string, number or boolean, not {kind(value)}")
    try:
        text = str(value)
    except ValueError:
        refuse(name, "has too many digits")
    if isinstance(value, float) and "e" in text.lower():
        exponent = text.lower().partition("e")[2].lstrip("+-0") or "0"
        if len(exponent) > len(str(MAX_EXPONENT)) or int(exponent) > MAX_EXPONENT:  # else a gigabyte of zeros
            refuse(name, "has too many digits")
        text = f"{Decimal(text):f}"
    if not text.isascii() and not _encodable(text):
        refuse(name, "is not valid Unicode")
    return text


def as_list(name: str, value: Any) -> list[Any] | Raw:
    """Return a list as it is, another value as a list of one. Raises InvalidRequest for an empty list."""
    if isinstance(value, Raw) and value.kind == "an array":
        return value  # with thousands of values
    if value == []:
        refuse(name, "is an empty list: give one value at least")
    return value if isinstance(value, list) else [value]


def list_values(name: str, value: Any) -> list[Any]:
    """Return the values of a list, or of another value's list of one. Raises InvalidRequest for one that is empty, or
    too long to look at its values.
    """
    values = as_list(name, value)
    if isinstance(values, list):
        return values
    if len(values.text) > MAX_LIST:
        refuse(name, f"is a list of {len(values.text)} bytes; at most {MAX_LIST} are allowed here")
    return list_values(name, values.read())


def list_texts(name: str, params: Params) -> list[str]:
    """Return the values of a list as text. Raises InvalidRequest as above, and for a value that has none."""
    return [as_text(f"{name}[{at}]", value) for at, value in enumerate(list_values(name, params[name]))]


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encode_form(fields: Mapping[str, Template], params: Params) -> str:
    """Write a form body (application/x-www-form-urlencoded); a list repeats its field."""
    return "&".join(
        f"{quote_plus(name)}={quote_plus(text)}" for name, value in fields.items() for text in value.texts(params)
    )


def refuse(name: str, reason: str) -> NoReturn:
    """Raise InvalidRequest for a parameter."""
    msg = f"params.{name}: {reason}"
    raise InvalidRequest(msg)


def _decoded(text: str) -> str:
    """Percent-decode repeatedly, as a lenient server might."""
    for _ in range(MAX_DECODINGS):
        plain = unquote(text)
        if plain == text:
            break
        text = plain
    return text


def is_list(part: str | Placeholder) -> TypeGuard[Placeholder]:
    """Whether a part of a template stands for a list."""
    return isinstance(part, Placeholder) and part.between is not None


def _parts(text: str) -> Parts:
    parts: list[str | Placeholder] = []
    literal, end = "", 0
    for found in _PLACEHOLDER.finditer(text):
        literal += text[end : found.start()]
        end = found.end()
        if found[1] is not None:
            parts += [literal, Placeholder(found[1], "," if found[2] else None)]
            literal = ""
        elif len(found[0]) == len("{{"):
            literal += found[0][0]
        else:
            msg = f"{found[0]!r} at character {found.start() + 1} is not a parameter: write {{name}}, or {found[0] * 2}"
            raise ValueError(msg)
    return tuple(part for part in (*parts, literal + text[end:]) if part != "")


def _templates(value: Any) -> Any:
    match value:
        case str():
            return Template(value)
        case list():
            return [_templates(each) for each in value]
        case dict():
            return {key: _templates(each) for key, each in value.items()}
    return value


def _joined(value: Any, name: str) -> Any:
    match value:
        case Template():
            return value.joined(name)
        case list():
            return [_joined(each, name) for each in value]
        case dict():
            return {key: _joined(each, name) for key, each in value.items()}
    return value


def _names(value: Any, which: str) -> frozenset[str]:
    match value:
        case Template():
            names: frozenset[str] = getattr(value, which)
            return names
        case list() | dict():
            inner = value.values() if isinstance(value, dict) else value
            return frozenset[str]().union(*(_names(each, which) for each in inner))
    return frozenset()


def _filled(value: Any, params: Params) -> Any:
    match value:
        case Template(parts=(Placeholder(name=name, between=between),)):
            return params[name] if between is None else as_list(name, params[name])
        case Template():
            return value.expand(params)
        case list():
            return [_filled(each, params) for each in value]
        case dict():
            return {key: _filled(each, params) for key, each in value.items()}
    return value
