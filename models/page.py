"""What an HTML page says of itself: the charset it is in, found as the HTML standard has it, and its title."""

from __future__ import annotations

import html
import re

from models.charset import text_codec

SNIFFED_BYTES = 1_024
"""How far into a page its charset is looked for (HTML, section 13.2.3.2)."""
TITLE_SEARCH_BYTES = 65_536
"""How far into a page its title is looked for."""
MAX_TITLE = 300
"""Characters of a page's title that are kept."""
MAX_ELEMENTS = 1_000
"""Scripts, pictures and the like that may come before a title."""
MAX_TITLE_TEXT = 4_096
"""Characters of a title beyond which it is none."""

_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_UTF_32_BOMS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
# What the web means by these names (Encoding standard, section 4.2), by Python's.
_OF_THE_WEB = {"ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874",
               "tis-620": "cp874", "shift_jis": "cp932", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030",
               "big5": "big5hkscs", "utf-16": "utf-16-le"}  # fmt: skip
_NOT_IN_CP1252 = (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d")  # a search for each takes 0.3 ms for 8 MiB

_MARKUP = re.compile(rb"<(?:(!--)|(meta)(?=[\t\n\f\r /])|(/?[a-z][^\t\n\f\r >]*)|[!/?])", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    rb"[\t\n\f\r /]*+([^\t\n\f\r />][^\t\n\f\r />=]*+)"
    rb"(?:[\t\n\f\r ]*+=[\t\n\f\r ]*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\t\n\f\r >\"'][^\t\n\f\r >]*+)?))?"
)
_IN_CONTENT = re.compile(
    rb"charset[\t\n\f\r ]*+=[\t\n\f\r ]*+(?:\"([^\"]+)\"|'([^']+)'|([^\t\n\f\r ;\"']+))", re.IGNORECASE
)
_XML = re.compile(rb"<\?xml[^>]*?encoding[\t\n\r ]*=[\t\n\r ]*[\"']([^\"'>]+)")

# Elements whose content is no markup, and those inside of which a title is no page's.
_RAW = ("script", "style", "textarea", "noframes", "noembed", "iframe", "xmp", "title")
_FOREIGN = ("svg", "math", "template")
_NAMES = "|".join((*_RAW, *_FOREIGN))
# Attributes to the end of a tag (HTML, section 13.2.5.32); a quote that is not closed takes all that follows.
_ATTRIBUTES = (
    r"(?:[\t\n\f\r /]++|[^\t\n\f\r />][^\t\n\f\r />=]*+"
    r"(?:[\t\n\f\r ]*+=[\t\n\f\r ]*+(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|[^\t\n\f\r >\"'][^\t\n\f\r >]*+)?+)?+)*+>"
)
_OPENING = re.compile(rf"<(/?)({_NAMES})(?=[\t\n\f\r />]){_ATTRIBUTES}", re.IGNORECASE)
# Text, comments, declarations, and the tags of all other elements, with what is quoted in them.
_PASSED_OVER = re.compile(
    r"(?:[^<]++|<!--(?:-?>|[^-]*+(?:-(?!-!?>)[^-]*+)*+--!?>)|<(?:\?|!(?!--)|/[^a-z])[^>]*+>|<(?![a-z/!?])"
    rf"|</?(?!(?:{_NAMES})[\t\n\f\r />])[a-z][^\t\n\f\r />]*+{_ATTRIBUTES})*+",
    re.IGNORECASE,
)
_CLOSING = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW}


def codec_of(media_type: str, content: bytes, given: str | None) -> str | None:
    """Return the codec of a text: by its byte order mark (Encoding standard, section 6), the charset given, or what
    HTML or XML says of itself. UTF-8 where nothing is given, None for a charset that is not read.
    """
    if "html" in media_type:
        return charset_of(content, given) or (None if given else "utf-8")
    codec = text_codec(given)
    if codec is not None and codec.startswith("utf-32"):
        return "utf-32" if content.startswith(_UTF_32_BOMS) else codec
    for mark, of_mark in _BOMS:
        if content.startswith(mark):
            return of_mark
    if given or not media_type.endswith(("/xml", "+xml")):
        return codec
    return _of_xml(content[:SNIFFED_BYTES])


def _of_xml(start: bytes) -> str | None:
    """Return the codec that an XML declaration names (RFC 7303, section 3; XML, appendix F), UTF-8 without one."""
    for utf_16 in ("utf-16-be", "utf-16-le"):
        if start.startswith("<?".encode(utf_16)):
            return utf_16
    declared = _XML.match(start)
    codec = text_codec(declared[1].decode("latin-1")) if declared else "utf-8"
    return "utf-8" if codec is not None and codec.startswith(("utf-16", "utf-32")) else codec


def charset_of(content: bytes, given: str | None) -> str | None:
    """Return the codec of a page: by its byte order mark, the charset that its response gives, or its own first bytes.

    None if neither says one that is read.
    """
    for mark, of_mark in _BOMS:
        if content.startswith(mark):
            return of_mark
    codec = text_codec(given) if given else _sniffed(content[:SNIFFED_BYTES])
    codec = _OF_THE_WEB.get(codec or "", codec)
    return "iso8859-1" if codec == "cp1252" and any(map(content.__contains__, _NOT_IN_CP1252)) else codec


def _sniffed(start: bytes) -> str | None:
    """Return the codec that a page's first bytes name: the standard's prescan, without its passes for parsers."""
    place = 0
    while (found := _MARKUP.search(start, place)) is not None:
        place = found.end()
        if found[1]:
            end = start.find(b"-->", place - 2)
            place = len(start) if end < 0 else end + 3
        elif found[2] or found[3]:
            attributes, place = _attributes(start, place)
            codec = _of_meta(attributes) if found[2] else None
            if codec is not None:
                # It was read as ASCII, so it is none of these.
                return "utf-8" if codec.startswith(("utf-16", "utf-32")) else codec
        else:
            end = start.find(b">", place)
            place = len(start) if end < 0 else end + 1
    declared = _XML.match(start)
    return text_codec(declared[1].decode("latin-1")) if declared else None


def _attributes(start: bytes, place: int) -> tuple[dict[bytes, bytes], int]:
    found: dict[bytes, bytes] = {}
    while (each := _ATTRIBUTE.match(start, place)) is not None:
        found.setdefault(each[1].lower(), each[2] or each[3] or each[4] or b"")
        place = each.end()
    return found, place


def _of_meta(attributes: dict[bytes, bytes]) -> str | None:
    name = attributes.get(b"charset")
    if name is None and attributes.get(b"http-equiv", b"").lower() == b"content-type":
        found = _IN_CONTENT.search(attributes.get(b"content", b""))
        name = (found[1] or found[2] or found[3]) if found else None
    return text_codec(name.strip().decode("latin-1")) if name else None


def title_of(content: bytes, codec: str | None) -> str | None:
    """Return a page's title as plain text, None without one: not one in a comment, a script, a picture.

    Each part of the text is looked at once.
    """
    text = content[:TITLE_SEARCH_BYTES].decode(codec or "utf-8", errors="replace")
    place = inside = 0
    for _ in range(MAX_ELEMENTS):
        passed_over = _PASSED_OVER.match(text, place)
        found = passed_over and _OPENING.match(text, passed_over.end())
        if not found:
            return None
        place, name = found.end(), found[2].lower()
        if name in _FOREIGN:
            empty = text.startswith("/>", place - 2) and name != "template"
            inside = max(0, inside - 1) if found[1] else inside + (not empty)
        elif not found[1] and not (inside and name == "title"):
            closing = _CLOSING[name].search(text, place)
            if closing is None:
                return None
            if name == "title":
                return _plain(text[place : closing.start()])
            place = closing.start()
    return None


def _plain(text: str) -> str | None:
    return None if len(text) > MAX_TITLE_TEXT else " ".join(html.unescape(text).split())[:MAX_TITLE]
