"""Templates with named parameters, `{name}`: each value is escaped for the place it goes to, and none can leave it.
`{{` and `}}` stand for braces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, quote_plus, unquote

from models.errors import InvalidRequest
from models.schema import kind

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]{0,63})\}|[{}]")
_ORIGIN = re.compile(r"https?://[^/?#{}\s\\@]+(?=[/?]|\Z)", re.IGNORECASE)
_HEADER_TEXT = re.compile(r"[\x20-\x7e]*")
_OUT_OF_PATH = re.compile(r"[/\\\x00-\x1f\x7f]")
_PATH_END = re.compile(r"([/?])")
MAX_DECODINGS = 4
"""Times that a value is percent-decoded in search of what would leave its path segment."""

Params = Mapping[str, Any]


class Place(NamedTuple):
    """Where a parameter goes."""

    name: str


class Template:
    """Text with places. Raises ValueError for braces that are neither a place nor doubled."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts = _parts(text)
        self.names = frozenset(part.name for part in self.parts if isinstance(part, Place))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def expand(self, params: Params) -> str:
        """Return the text with the values in their places. Raises InvalidRequest for one that does not fit."""
        return "".join(part if isinstance(part, str) else self.escape(part.name, params) for part in self.parts)

    def escape(self, name: str, params: Params) -> str:
        """Return a value as it stands in this kind of text."""
        return as_text(name, params[name])


class HeaderTemplate(Template):
    """A header's value."""

    def escape(self, name: str, params: Params) -> str:
        """Return the value as it is; raises InvalidRequest for what a header cannot hold."""
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

    def expand(self, params: Params) -> str:
        """Return the URL. Raises InvalidRequest for a value that would leave its path segment."""
        written, segment = "", ""  # what is done, and the path segment that is being written
        placed: list[str] = []  # the parameters in that segment
        for part in self.parts:
            if isinstance(part, Place):
                text = as_text(part.name, params[part.name])
                if "?" not in written:
                    _check_in_path(part.name, text)
                segment += quote(text, safe="")
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


def _check_segment(segment: str, names: list[str]) -> None:
    """Look at a whole segment: values that are harmless each may make up what is not."""
    decoded = _decoded(segment)
    made = "path segment of dots" if decoded in (".", "..") else "slash" if _OUT_OF_PATH.search(decoded) else ""
    if made:
        msg = f"params: {', '.join(sorted(names))} would make a {made}"
        raise InvalidRequest(msg)


def _check_in_path(name: str, text: str) -> None:
    """Refuse what leaves a path segment. A slash is not sent encoded: many servers decode it before they route."""
    if not text:
        refuse(name, "is empty, which would make another path")
    if _OUT_OF_PATH.search(_decoded(text)):
        refuse(name, "has a slash, backslash or control character, which would leave its path segment")


class JsonTemplate:
    """A JSON body: a string that is one place becomes the parameter's JSON value, any other holds it as text."""

    def __init__(self, value: Any) -> None:
        self._value = _templates(value)
        self.names = _names(self._value)

    def expand(self, params: Params) -> Any:
        """Return the body with the values in their places."""
        return _filled(self._value, params)


def as_text(name: str, value: Any) -> str:
    """Return a parameter as text: numbers as they were written, or else as plain decimals, never as `1e-05`.

    Raises InvalidRequest for null, arrays and objects.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        refuse(name, f"must be a string, number or boolean, not {kind(value)}")
    try:
        text = str(value)
    except ValueError:
        refuse(name, "has too many digits")
    if isinstance(value, float) and "e" in text.lower():
        text = f"{Decimal(text):f}"
    if not text.isascii() and not _encodable(text):
        refuse(name, "is no Unicode text")
    return text


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encode_form(fields: Mapping[str, Template], params: Params) -> str:
    """Write a form body (application/x-www-form-urlencoded)."""
    return "&".join(f"{quote_plus(name)}={quote_plus(value.expand(params))}" for name, value in fields.items())


def refuse(name: str, reason: str) -> NoReturn:
    """Raise InvalidRequest for a parameter."""
    msg = f"params.{name}: {reason}"
    raise InvalidRequest(msg)


def _decoded(text: str) -> str:
    """Decode what is percent-encoded, also more than once: what a lenient server would make of it."""
    for _ in range(MAX_DECODINGS):
        plain = unquote(text)
        if plain == text:
            break
        text = plain
    return text


def _parts(text: str) -> tuple[str | Place, ...]:
    parts: list[str | Place] = []
    literal, end = "", 0
    for found in _PLACE.finditer(text):
        literal += text[end : found.start()]
        end = found.end()
        if found[1] is not None:
            parts += [literal, Place(found[1])]
            literal = ""
        elif len(found[0]) == len("{{"):
            literal += found[0][0]
        else:
            msg = f"{found[0]!r} at character {found.start() + 1} is no parameter: write {{name}}, or {found[0] * 2}"
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


def _names(value: Any) -> frozenset[str]:
    match value:
        case Template():
            return value.names
        case list() | dict():
            inner = value.values() if isinstance(value, dict) else value
            return frozenset[str]().union(*(_names(each) for each in inner))
    return frozenset()


def _filled(value: Any, params: Params) -> Any:
    match value:
        case Template(parts=(Place(name=name),)):
            return params[name]
        case Template():
            return value.expand(params)
        case list():
            return [_filled(each, params) for each in value]
        case dict():
            return {key: _filled(each, params) for key, each in value.items()}
    return value
