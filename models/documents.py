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
from typing import Any, NamedTuple

from marshmallow import Schema, ValidationError, fields, post_load

from models import strictjson
from models.errors import InvalidDocument
from models.schema import StrictSchema, flatten

MAX_TITLE = 300
"""Characters of a page's title that are kept."""
TITLE_SEARCH_BYTES = 65_536
"""How far into a page a title is looked for."""

_TITLE = re.compile(r"<title(?:\s[^>]{0,256})?>([^<]{0,4096})</title", re.IGNORECASE)


class Body(NamedTuple):
    """What the upstream sent, decoded from its content coding: bytes, media type and charset (None if not given)."""

    content: bytes
    media_type: str = "application/octet-stream"
    charset: str | None = None

    def text(self) -> str:
        """Decode by the charset given, else UTF-8. Raises InvalidDocument."""
        name = self.charset or "utf-8"
        try:
            return codecs.decode(self.content, codecs.lookup(name).name)
        except LookupError:
            msg = f"the body's charset {name[:40]!r} is not known"
        except (UnicodeDecodeError, ValueError) as exc:
            msg = f"the body is not {name[:40]}: {exc}"
        raise InvalidDocument(msg)


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
        return instance.dump(instance.load(value))
    except ValidationError as exc:
        raise InvalidDocument("; ".join(flatten(exc.messages))) from None
    except Exception as exc:  # a plugin's post_load or dump is foreign code: whatever it raises is about this document
        msg = f"schema {name}: {type(exc).__name__}: {exc}"
        raise InvalidDocument(msg) from exc


def _json(body: Body) -> Any:
    content = body.content
    if body.charset is not None and body.charset.lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
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
    try:
        text = start.decode(body.charset or "utf-8", errors="replace")
    except LookupError:
        text = start.decode(errors="replace")
    found = _TITLE.search(text)
    return " ".join(html.unescape(found[1]).split())[:MAX_TITLE] if found else None


BUILT_IN: dict[str, Callable[[Body], Any]] = {"json": _json, "text": Body.text, "page": _page}
"""The schemas that are not marshmallow classes of a plugin, by name."""
