"""Answers in pages: what a page holds, and where the next one is.

An item's JSON keeps the digits of its numbers; blanks and escapes are written anew.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_plus

from models import documents, strictjson
from models.documents import Body
from models.errors import InvalidDocument, InvalidRequest
from models.expression import WHOLE, Expression, document_expression
from models.schema import kind
from models.template import as_text

LIMIT, MAX_LIMIT = 20, 1_000
"""Pages of an answer by default, and at most."""
MAX_LINKS = 16 << 10
"""Characters of a Link header that are read."""

# A comma ends a link outside of its brackets and of quotes (RFC 8288, section 3).
_LINK = re.compile(r'[\s,]*+<([^>]*+)>((?:[^,"]++|"(?:[^"\\]++|\\.)*+")*+)', re.DOTALL)
_PARAMETER = re.compile(r';\s*+([^\s;,="]++)\s*+(?:=\s*+(?:"((?:[^"\\]++|\\.)*+)"|([^\s;,"]*+)))?')
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pages:
    """`items` finds an array in each page. Where the next one is: `link`: the Link header says so; `next` finds its
    URL, or with `param` the value of that field of the query; `param` alone: that field counts from `first` in steps
    of `step`, until a page is empty.

    `limit`: pages at most; with more the answer is too large, or, with `truncate`, ends there.
    """

    items: Expression
    next: Expression | None = None
    link: bool = False
    param: str | None = None
    first: int = 1
    step: int = 1
    limit: int = LIMIT
    truncate: bool = False

    @property
    def counts(self) -> bool:
        """Whether pages are numbered."""
        return self.next is None and not self.link


class Page(NamedTuple):
    """The JSON of a page's items, with commas between; and what says where the next page is, None for nothing."""

    items: bytes
    next: str | None = None


def read_page(body: Body, pages: Pages) -> Page:
    """Return what a page has. Raises InvalidDocument."""
    value = documents.read_json(body)
    items = _found("items", pages.items, value)
    if not isinstance(items, list):
        msg = f"pages.items ({pages.items.text}): finds {kind(items)}, not an array"
        raise InvalidDocument(msg)
    text = strictjson.dumps(items, exact=True)[1:-1]
    if pages.next is None:
        return Page(text)
    following = _found("next", pages.next, value)
    if following in (None, "") or following is False:
        return Page(text)
    if isinstance(following, bool | list | dict):
        msg = f"pages.next ({pages.next.text}): finds {kind(following)}, not a link or cursor"
        raise InvalidDocument(msg)
    try:
        return Page(text, as_text("next", following))
    except InvalidRequest:  # it is not the request that is invalid
        msg = f"pages.next ({pages.next.text}): finds a number with too many digits"
        raise InvalidDocument(msg) from None


def read_large_page(content: bytes, media_type: str, charset: str | None, items: str, following: str | None) -> bytes:
    """Do the same in a process of the pool; returns the page pickled."""
    pages = Pages(document_expression(items), None if following is None else document_expression(following))
    return pickle.dumps(tuple(read_page(Body(content, media_type, charset), pages)), pickle.HIGHEST_PROTOCOL)


def next_link(header: str) -> str | None:
    """Return the target of the first link with the relation `next` in Link headers (RFC 8288), None without one.

    A link about something else than the page (`anchor`) is passed over.
    """
    at, text = 0, header[:MAX_LINKS]
    while (found := _LINK.match(text, at)) is not None:
        at = found.end()
        params: dict[str, str] = {}
        for name, quoted, token in _PARAMETER.findall(found[2]):
            params.setdefault(name.lower(), _QUOTED_PAIR.sub(r"\1", quoted) or token)  # the first one counts
        if "next" in params.get("rel", "").lower().split() and "anchor" not in params:
            return found[1].strip()
    return None


def with_field(url: str, name: str, value: str) -> str:
    """Return a URL with a field of its query set to a value; other fields stay as they are."""
    path, _, query = url.partition("?")
    kept = [each for each in query.split("&") if each and unquote_plus(each.partition("=")[0]) != name]
    field = f"{quote(name, safe='')}={quote(value, safe='')}"
    return f"{path}?{'&'.join([*kept, field])}"


def _found(setting: str, expression: Expression, value: Any) -> Any:
    if expression.text == WHOLE:
        return value
    try:
        return expression.evaluate(value)
    except ValueError as exc:
        msg = f"pages.{setting} ({expression.text}): {exc}"
        raise InvalidDocument(msg) from None
