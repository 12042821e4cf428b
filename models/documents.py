"""Loads an upstream's body as a document. A schema is a named marshmallow class; its `post_load` builds an object, and
its dump is the document in the result.

Built in: `json` (any JSON value), `text` (the decoded text), `page` (size, media type, title).
A plugin adds its own:

    @schema("quote")
    class QuoteSchema(StrictSchema):
        symbol = fields.String(required=True)
        price = fields.Decimal(required=True, as_string=True)

        @post_load
        def _quote(self, data, **_):
            return Quote(**data)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from marshmallow import Schema, ValidationError, fields, post_load

from models import strictjson
from models.errors import InvalidDocument
from models.schema import StrictSchema, flatten
from models.text import charset_of, codec_of, text_codec, title_of

_ASCII = ("ascii", "us-ascii")


UNREAD: Any = object()
"""Stands for a document's value that another process has loaded."""


class Document(NamedTuple):
    """A document as JSON, for the result, and as plain values, for checks."""

    encoded: bytes
    value: Any = UNREAD


class Body(NamedTuple):
    """A response body after content decoding: bytes, media type and charset (None if not given)."""

    content: bytes
    media_type: str = "application/octet-stream"
    charset: str | None = None

    def codec(self) -> str | None:
        """Return the codec of the bytes by JSON's rules, HTML or the given charset; None if it is unknown."""
        if b"\0" in self.content[:4]:
            return json.detect_encoding(self.content[:4])
        return codec_of(self.media_type, self.content, self.charset)

    def text(self) -> str:
        """Decode by byte order mark, given charset, or the declaration in HTML or XML; else as UTF-8.

        JSON is UTF-8 if it can be, whatever charset is given (RFC 8259, sections 8.1 and 11).

        Raises InvalidDocument.
        """
        is_json = self.media_type.endswith(("/json", "+json"))
        if self.charset and is_json and b"\0" not in self.content[:4] and b"\x1b" not in self.content:
            with suppress(InvalidDocument):
                return self._replace(charset=None).text()
        codec = codec_of(self.media_type, self.content, self.charset)
        if codec is None:
            msg = f"the body's charset {(self.charset or '')[:40]!r} is not supported"
            raise InvalidDocument(msg)
        return _decoded(self.content, codec, self.charset if codec == text_codec(self.charset) else None)


class Item(Body):
    """An item of a larger answer: JSON that was read and written already, without blanks."""

    __slots__ = ()


_REGISTRY: dict[str, type[Schema]] = {}
_INSTANCES: dict[str, Schema] = {}


def _is_a(kind: type, thing: object) -> bool:
    """Whether a plugin gives what the types of its decorators say."""
    return isinstance(thing, kind)


def schema(name: str) -> Callable[[type[Schema]], type[Schema]]:
    """Register a marshmallow schema class under `name`. Raises ValueError if the name is taken, or no name or class."""
    if not _is_a(str, name):
        msg = 'a schema needs its name: write @schema("name")'
        raise ValueError(msg)

    def register(cls: type[Schema]) -> type[Schema]:
        if not (_is_a(type, cls) and issubclass(cls, Schema)):
            msg = f"the schema {name!r} is no subclass of marshmallow.Schema"
            raise ValueError(msg)
        if name in BUILT_IN or _REGISTRY.get(name, cls) is not cls:
            msg = f"the schema name {name!r} is taken"
            raise ValueError(msg)
        _REGISTRY[name] = cls
        _INSTANCES[name] = cls()
        return cls

    return register


def names() -> list[str]:
    """Return every schema name."""
    return sorted((*BUILT_IN, *_REGISTRY))


def check_known(name: str) -> None:
    """Raise ValidationError, listing the known names, if no schema has this one."""
    if name not in BUILT_IN and name not in _REGISTRY:
        msg = f"unknown schema {name[:60]!r}; known: {', '.join(names())}"
        raise ValidationError(msg)


def load(name: str, body: Body) -> Document:
    """Load a body by the schema of that name. Raises InvalidDocument, listing every invalid field."""
    built_in = BUILT_IN.get(name)
    if built_in is not None:
        return built_in(body)
    instance = _INSTANCES[name]
    value, _ = _read(body, exact=True)  # a Decimal field needs the original digits
    try:
        encoded = strictjson.dumps(instance.dump(instance.load(value)), exact=True)
        return Document(encoded, strictjson.loads(encoded))  # checks see the same value for a cached document
    except ValidationError as exc:
        raise InvalidDocument("; ".join(flatten(exc.messages))) from None
    except Exception as exc:  # a plugin's post_load or dump may raise anything
        msg = f"schema {name}: {type(exc).__name__}: {exc}"
        raise InvalidDocument(msg) from exc


def read_json(body: Body) -> Any:
    """Return a body's JSON value, numbers with their digits. Raises InvalidDocument."""
    return _read(body, exact=True)[0]


def _json(body: Body) -> Document:
    """Load JSON; the document keeps the original text, so that numbers and escapes do not change."""
    if isinstance(body, Item):
        return Document(body.content)
    value, text = _read(body)
    return Document(strictjson.compact(text), value)


def _read(body: Body, *, exact: bool = False) -> tuple[Any, bytes]:
    """Read JSON; returns the value and its text in UTF-8, whatever charset is given (RFC 8259, section 8.1).

    The given charset counts only for text that is not UTF-8; UTF-16 and UTF-32 are detected.
    """
    text = body.content
    try:
        if b"\0" in text[:4]:  # JSON text in UTF-8 has no NUL
            text = _decoded(text, json.detect_encoding(text)).encode()
        try:
            return strictjson.loads(text, exact=exact), text
        except strictjson.NotUtf8:
            if (body.charset or "").lower() in _ASCII or text_codec(body.charset) in (None, "utf-8"):
                raise
            text = body.text().encode()
            return strictjson.loads(text, exact=exact), text
    except ValueError as exc:
        raise InvalidDocument(str(exc)) from None


def _decoded(content: bytes, codec: str, charset: str | None = None) -> str:
    try:
        return content.decode(codec)
    except UnicodeDecodeError as exc:
        msg = f"the body is not {charset or codec} at byte {exc.start}"
        raise InvalidDocument(msg) from None


def _text(body: Body) -> Document:
    text = body.text()
    return Document(strictjson.quote(text), text)


@dataclass(frozen=True, slots=True)
class Page:
    """A page without its text. `size` is in decoded bytes."""

    size: int
    media_type: str
    title: str | None = None


class PageSchema(StrictSchema):
    """The JSON of a page."""

    size = fields.Integer(required=True, strict=True)
    media_type = fields.String(required=True)
    title = fields.String(allow_none=True)

    @post_load
    def _page(self, data: dict[str, Any], **_: Any) -> Page:
        return Page(**data)


_PAGE = PageSchema()


def _page(body: Body) -> Document:
    page: Page = _PAGE.load({"size": len(body.content), "media_type": body.media_type, "title": _title(body)})
    value = _PAGE.dump(page)
    return Document(strictjson.dumps(value), value)


def _title(body: Body) -> str | None:
    if "html" not in body.media_type:
        return None
    return title_of(body.content, charset_of(body.content, body.charset))


BUILT_IN: dict[str, Callable[[Body], Document]] = {"json": _json, "text": _text, "page": _page}
"""The built-in schemas by name; those of plugins are marshmallow classes."""
TAKE_NOTHING = frozenset({"text", "page"})
"""Schemas that accept an empty body."""
