"""The tags of an HTML page that its parser sees as HTML's: none in a comment, a script or an attribute, none of svg or
math (HTML, sections 13.2.5 and 13.2.6.5). As far as a title and a `meta` need it: which elements of HTML may hold which
others is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_STEPS = 1_000
"""Tags of scripts, pictures and the like, and of what is in pictures, that may come before what is looked for."""

_HTML, _SVG, _MATH = "html", "svg", "math"
# Elements whose content is no markup. HTML's own alone: in svg and math, they are elements like all others.
_RAW = ("script", "style", "textarea", "noframes", "noembed", "iframe", "xmp", "plaintext", "title")
_NAMES = "|".join((*_RAW, _SVG, _MATH, "template", "meta"))
# Attributes to the end of a tag (HTML, section 13.2.5.32); a quote that is not closed takes all that follows.
_ATTRIBUTES = (
    r"(?:{}[\t\n\f\r /]++)|[^\t\n\f\r />][^\t\n\f\r />=]*+"
    r"(?:[\t\n\f\r ]*+=[\t\n\f\r ]*+(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|[^\t\n\f\r >\"'][^\t\n\f\r >]*+)?+)?+)*+>"
)
_FLAGS = re.IGNORECASE | re.ASCII
_TAG = re.compile(rf"<(/?)([a-z][^\t\n\f\r />]*+)({_ATTRIBUTES.format('(')})", _FLAGS)
# Text, comments and declarations, then also the tags of elements that are not looked at, with what is quoted in them.
_NO_TAG = r"[^<]++|<!--(?:-?>|[^-]*+(?:-(?!-!?>)[^-]*+)*+--!?>)|</>|<(?:\?|/[^a-z>]|!(?!--{}))[^>]*+>|<(?![a-z/!?])"
_TO_ANY_TAG = re.compile("(?:" + _NO_TAG.format(r"|\[CDATA\[") + ")*+", _FLAGS)
_TO_NAMED_TAG = re.compile(
    rf"(?:{_NO_TAG.format('')}"
    rf"|</?(?!(?:{_NAMES})[\t\n\f\r />])[a-z][^\t\n\f\r />]*+{_ATTRIBUTES.format('(?:')})*+",
    _FLAGS,
)
_CLOSING = {name: re.compile(rf"</{name}(?=[\t\n\f\r />])", _FLAGS) for name in _RAW}
_CLOSING["plaintext"] = re.compile("(?!)")
_IN_SCRIPT = re.compile(r"<!---*+(?P<empty>>)?|(?P<end>-->)|<(?P<slash>/?)script(?=[\t\n\f\r />])", _FLAGS)

# Elements of svg and math within which HTML goes on.
_POINTS = frozenset(
    [(_SVG, "foreignobject"), (_SVG, "desc"), (_SVG, "title")]
    + [(_MATH, name) for name in ("mi", "mo", "mn", "ms", "mtext")]
)
_HTML_ENCODING = re.compile(r"[\s/\"']encoding\s*=\s*[\"']?(?:text/html|application/xhtml\+xml)", _FLAGS)
# Tags of HTML that end svg and math.
_ENDS_FOREIGN = frozenset(
    ("b", "big", "blockquote", "body", "br", "center", "code", "dd", "div", "dl", "dt", "em", "embed", "h1", "h2", "h3",
     "h4", "h5", "h6", "head", "hr", "i", "img", "li", "listing", "menu", "meta", "nobr", "ol", "p", "pre", "ruby", "s",
     "small", "span", "strong", "strike", "sub", "sup", "table", "tt", "u", "ul", "var")
)  # fmt: skip
_FONT_OF_HTML = re.compile(r"[\s/\"'](?:color|face|size)[\s/=>]", _FLAGS)


class Tag(NamedTuple):
    """The start of a `title` or a `meta`, and a title's text."""

    name: str
    source: str
    content: str = ""


class _Element(NamedTuple):
    """An open element of svg or math, or a template."""

    space: str
    name: str
    holds_html: bool = True


def titles_and_metas(text: str) -> Iterator[Tag]:
    """Yield each HTML `meta`, and each HTML `title` outside of templates. Each part of the text is looked at once."""
    page = _Page(text)
    while page.steps < MAX_STEPS and (found := page.next_tag()) is not None:
        name = found[2].lower()
        if found[1]:
            page.close(name)
        elif page.open_element(name, found):
            pass
        elif name == "meta":
            yield Tag(name, found[0])
        elif name in _RAW:
            content = page.raw(name)
            if content is None:
                return
            if name == "title" and not page.templates:
                yield Tag(name, found[0], content)


class _Page:
    def __init__(self, text: str) -> None:
        self._text = text
        self._place = self.steps = self.templates = 0
        self._open: list[_Element] = []

    def next_tag(self) -> re.Match[str] | None:
        """Return the next tag that matters, None if there is no more."""
        self.steps += 1
        foreign = bool(self._open) and self._open[-1].space != _HTML
        between = _TO_ANY_TAG if foreign else _TO_NAMED_TAG
        while (passed := between.match(self._text, self._place)) is not None and self.steps < MAX_STEPS:
            self._place = passed.end()
            if not (foreign and self._text.startswith("<![CDATA[", self._place)):
                break
            self.steps += 1
            end = self._text.find("]]>", self._place)
            self._place = len(self._text) if end < 0 else end + 3
        found = _TAG.match(self._text, self._place)
        self._place = found.end() if found else len(self._text)
        return found

    def _is_empty(self, tag: re.Match[str]) -> bool:
        """Whether a tag closes itself: its slash is no part of an attribute's value."""
        return tag.end(4) == tag.end() - 1 and tag[4].endswith("/")

    def close(self, name: str) -> None:
        """Close the open element of that name, and what is open in it; none outside of a template."""
        if name in ("p", "br"):
            self._end_foreign()
            return
        for place in reversed(range(len(self._open))):
            space, each, _ = self._open[place]
            if each == name:
                del self._open[place:]
                self.templates -= space == _HTML
                return
            if space == _HTML:
                return
            self.steps += 1

    def open_element(self, name: str, tag: re.Match[str]) -> bool:
        """Open an element of svg or math, or a template; return False for another tag of HTML, after what it ends."""
        if not self._open:
            return self._open_html(name, tag)
        space, around, holds_html = self._open[-1]
        is_html = holds_html and not (
            space == _MATH and name in ("mglyph", "malignmark") and around != "annotation-xml"
        )
        if is_html or (space, around, name) == (_MATH, "annotation-xml", _SVG):
            return self._open_html(name, tag)
        if name in _ENDS_FOREIGN or (name == "font" and _FONT_OF_HTML.search(tag[3])):
            self._end_foreign()
            return False
        if not self._is_empty(tag):
            encoded = (space, name) == (_MATH, "annotation-xml") and _HTML_ENCODING.search(tag[3]) is not None
            self._open.append(_Element(space, name, (space, name) in _POINTS or encoded))
        return True

    def _open_html(self, name: str, tag: re.Match[str]) -> bool:
        if name == "template":
            self._open.append(_Element(_HTML, name))
            self.templates += 1
        elif name in (_SVG, _MATH) and not self._is_empty(tag):
            self._open.append(_Element(name, name, holds_html=False))
        return name in ("template", _SVG, _MATH)

    def _end_foreign(self) -> None:
        while self._open and not self._open[-1].holds_html:
            self._open.pop()

    def raw(self, name: str) -> str | None:
        """Return the text to the end tag of such an element, None if there is none."""
        start = self._place
        end = self._end_of_script() if name == "script" else _CLOSING[name].search(self._text, start)
        if end is None:
            return None
        self._place = end.start()
        return self._text[start : end.start()]

    def _end_of_script(self) -> re.Match[str] | None:
        """Return where a script ends: not at the end tag of a script that is written in a comment of it."""
        first = _CLOSING["script"].search(self._text, self._place)
        if first is None or self._text.find("<!--", self._place, first.start()) < 0:
            return first
        in_comment = in_script = False
        for found in _IN_SCRIPT.finditer(self._text, self._place):
            if found["slash"] == "/":
                if not in_script:
                    return found
                in_script = False
            elif found["slash"] is not None:
                in_script = in_comment
            elif found["end"] or found["empty"]:
                in_comment = in_script = False
            else:
                in_comment = True
        return None
