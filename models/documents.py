"""What an upstream's body becomes. A schema is a marshmallow class with a name; its `post_load` makes the
class that the service works with, its dump what the result says.

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

import codecs
import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from marshmallow import Schema, ValidationError, fields, post_load

from models import strictjson
from models.errors import InvalidDocument
from models.schema import StrictSchema, flatten

MAX_TITLE = 300
"""Characters of a page's title that are kept."""
TITLE_SEARCH_BYTES = 65_536
"""How far into a page a title is looked for."""

_TEXT_CODEC = re.compile(
    r"ascii|utf-(?:8|8-sig|16|16-le|16-be|32|32-le|32-be)|iso8859-\d+|cp(?:125\d|437|85\d|866|932|949|950)|koi8-[rut]"
    r"|shift_jis\w*|euc_\w+|gb2312|gbk|gb18030|big5\w*|mac-\w+|tis-620"
)
_TITLE = re.compile(r"<title(?:\s[^>]{0,256})?>([^<]{0,4096})</title", re.IGNORECASE)


class Body(NamedTuple):
    """What the upstream sent, decoded from its content coding: bytes, media type and charset (None if not given)."""

    content: bytes
    media_type: str = "application/octet-stream"
    charset: str | None = None

    def text(self) -> str:
        """Decode by the charset given, else UTF-8. Raises InvalidDocument."""
        codec = text_codec(self.charset)
        if codec is None:
            msg = f"the body's charset {(self.charset or '')[:40]!r} is none that is read"
            raise InvalidDocument(msg)
        try:
            return self.content.decode(codec)
        except UnicodeDecodeError as exc:
            msg = f"the body is not {codec} at byte {exc.start}"
            raise InvalidDocument(msg) from None


@lru_cache(maxsize=256)
def text_codec(charset: str | None) -> str | None:
    """Return the codec for a charset that an upstream names (UTF-8 for None), None for one that is not read.

    Only codecs that turn bytes into text in linear time: Python's others decompress (zlib), take quadratic time
    (punycode) or make lone surrogates (utf-7).
    """
    try:
        name = codecs.lookup(charset or "utf-8").name
    except (LookupError, ValueError):
        return None
    return name if _TEXT_CODEC.fullmatch(name) else None


_REGISTRY: dict[str, type[Schema]] = {}
_INSTANCES: dict[str, Schema] = {}


def schema(name: str) -> Callable[[type[Schema]], type[Schema]]:
    """Register a marshmallow schema class under `name`. Raises ValueError if the name is taken."""

    def register(cls: type[Schema]) -> type[Schema]:
        if name in BUILT_IN or _REGISTRY.get(name, cls) is not cls:
            msg = f"the schema name {name!r} is taken"
            raise ValueError(msg)
        _REGISTRY[name] = cls
        _INSTANCES[name] = cls()
        return cls

    return register


def names() -> list[str]:
    """Return every schema name a request may give."""
    return sorted((*BUILT_IN, *_REGISTRY))


def check_known(name: str) -> None:
    """Raise ValidationError, naming the known ones, if no schema has this name."""
    if name not in BUILT_IN and name not in _REGISTRY:
        msg = f"no schema {name[:60]!r}; known: {', '.join(names())}"
        raise ValidationError(msg)


def load(name: str, body: Body) -> Any:
    """Load a body by the schema of that name and return the document as plain JSON values.

    Raises InvalidDocument with every field that does not fit.
    """
    built_in = BUILT_IN.get(name)
    if built_in is not None:
        return built_in(body)
    instance = _INSTANCES[name]
    value = _json(body)
    try:
        # As JSON has it: checks see the same of a document that was kept.
        return strictjson.loads(strictjson.dumps(instance.dump(instance.load(value))))
    except ValidationError as exc:
        raise InvalidDocument("; ".join(flatten(exc.messages))) from None
    except Exception as exc:  # a plugin's post_load or dump is foreign code: whatever it raises is about this document
        msg = f"schema {name}: {type(exc).__name__}: {exc}"
        raise InvalidDocument(msg) from exc


def _json(body: Body) -> Any:
    content = body.content
    if body.charset is not None and text_codec(body.charset) not in ("utf-8", "ascii"):
        content = body.text().encode()
    try:
        return strictjson.loads(content)
    except ValueError as exc:
        raise InvalidDocument(str(exc)) from None


@dataclass(frozen=True, slots=True)
class Page:
    """What is worth knowing of a page without its text. `size` is in bytes, decoded."""

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


def _page(body: Body) -> Any:
    page: Page = _PAGE.load({"size": len(body.content), "media_type": body.media_type, "title": _title(body)})
    return _PAGE.dump(page)


def _title(body: Body) -> str | None:
    if "html" not in body.media_type:
        return None
    start = body.content[:TITLE_SEARCH_BYTES]
    text = start.decode(text_codec(body.charset) or "utf-8", errors="replace")
    found = _TITLE.search(text)
    return " ".join(html.unescape(found[1]).split())[:MAX_TITLE] if found else None


BUILT_IN: dict[str, Callable[[Body], Any]] = {"json": _json, "text": Body.text, "page": _page}
"""The schemas that are not marshmallow classes of a plugin, by name."""
