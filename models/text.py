"""The charset of a text, by its label or as the HTML standard determines it, and the title of an HTML page."""

from __future__ import annotations

import codecs
import html
import re
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache
from itertools import islice

from models.labels import CODEC_OF_LABEL, UNSAFE, X_USER_DEFINED
from models.markup import titles_and_metas

MAX_LABEL = 64
"""Longest label of a charset, in characters."""

_TEXT_CODEC = re.compile(
    r"ascii|utf-(?:8|8-sig|16|16-le|16-be|32|32-le|32-be)|iso8859-\d+|cp(?:125\d|437|85\d|866|874|932|949|950)"
    r"|koi8-[rut]|iso2022_jp|shift_jis\w*|euc_\w+|gb2312|gbk|gb18030|big5\w*|mac-\w+|tis-620"
)
_MYSQL = {"utf8mb3": "utf-8", "utf8mb4": "utf-8"}
# Names to look up in Python, which caches any other name for ever (`encodings._cache`).
_PYTHON_NAMES = {*aliases, *aliases.values(), "cp856", "cp874", "koi8_u", "koi8_t", "mac_croatian", "mac_farsi",
             "mac_arabic", "mac_romanian", "utf_8_sig"}  # fmt: skip

SNIFFED_BYTES = 1_024
"""Bytes of a page that are searched for its charset (HTML, section 13.2.3.2)."""
TITLE_SEARCH_BYTES = 65_536
"""Bytes of a page that are searched for its title, and for a `meta` with its charset after the first bytes (HTML,
section 13.2.3.4).
"""
MAX_TITLE = 300
"""Characters of a title; the rest is cut off."""
MAX_LATER_METAS = 200
"""Titles and metas after the first bytes that are searched for a charset."""
MAX_TITLE_TEXT = 4_096
"""Characters beyond which a title is ignored."""

_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_UTF_32_BOMS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_NOT_IN_CP1252 = (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d")  # searching for each takes 0.3 ms in 8 MiB

_MARKUP = re.compile(rb"<(?:(!--)|(meta)(?=[\t\n\f\r /])|(/?[a-z][^\t\n\f\r >]*)|[!/?])", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    rb"[\t\n\f\r /]*+([^\t\n\f\r />][^\t\n\f\r />=]*+)"
    rb"(?:[\t\n\f\r ]*+=[\t\n\f\r ]*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\t\n\f\r >\"'][^\t\n\f\r >]*+)?))?"
)
_IN_CONTENT = re.compile(
    rb"charset[\t\n\f\r ]*+=[\t\n\f\r ]*+(?:\"([^\"]+)\"|'([^']+)'|([^\t\n\f\r ;\"']+))", re.IGNORECASE
)
_XML = re.compile(rb"<\?xml[^>]*?encoding[\t\n\r ]*=[\t\n\r ]*[\"']([^\"'>]+)")


def text_codec(charset: str | None) -> str | None:
    """Return the codec for a charset's label (UTF-8 for None), None for an unsupported one.

    Labels mean what they mean in browsers: `gb2312` is GB 18030. Supported are codecs that decode bytes in linear
    time: others in Python decompress (zlib), take quadratic time (punycode) or produce lone surrogates (utf-7).
    """
    label = (charset or "utf-8").strip().lower()
    return _text_codec(label) if len(label) <= MAX_LABEL and label.isascii() and label.isprintable() else None


@lru_cache(maxsize=256)
def _text_codec(label: str) -> str | None:
    if label in CODEC_OF_LABEL:
        return CODEC_OF_LABEL[label]
    name = normalize_encoding(_MYSQL.get(label, label))
    if name not in _PYTHON_NAMES:
        return None
    try:
        codec = codecs.lookup(name).name
    except LookupError:  # missing on this system
        return None
    return CODEC_OF_LABEL.get(codec.replace("_", "-"), codec) if _TEXT_CODEC.fullmatch(codec) else None


def _is_unsafe(charset: str | None) -> bool:
    return charset is not None and charset.strip().lower() in UNSAFE


def codec_of(media_type: str, content: bytes, given: str | None) -> str | None:
    """Return the codec of a text by its byte order mark (Encoding standard, section 6), the given charset, or the
    declaration in HTML or XML; UTF-8 without any of them, None for an unsupported charset.
    """
    if "html" in media_type:
        return charset_of(content, given) or (None if _is_unsafe(given) else "utf-8")
    codec = text_codec(given)
    if codec is not None and codec.startswith("utf-32"):
        return "utf-32" if content.startswith(_UTF_32_BOMS) else codec
    for mark, of_mark in _BOMS:
        if content.startswith(mark):
            return of_mark
    if not given and media_type.endswith(("/xml", "+xml")):
        codec = _of_xml(content[:SNIFFED_BYTES])
    return _for_all_bytes(codec, content)


def _of_xml(start: bytes) -> str | None:
    """Return the codec that an XML declaration names (RFC 7303, section 3; XML, appendix F), UTF-8 without one."""
    for utf_16 in ("utf-16-be", "utf-16-le"):
        if start.startswith("<?".encode(utf_16)):
            return utf_16
    return _declared(start) if _XML.match(start) else "utf-8"


def _declared(start: bytes) -> str | None:
    declared = _XML.match(start)
    return _of_ascii(declared[1]) if declared else None


def _of_ascii(label: bytes) -> str | None:
    """Return the codec for a label inside of a text, which was read as ASCII, so UTF-16 and UTF-32 are wrong."""
    codec = text_codec(label.decode("latin-1"))
    if codec is not None and codec.startswith(("utf-16", "utf-32")):
        return "utf-8"
    return "cp1252" if codec == X_USER_DEFINED else codec


def charset_of(content: bytes, given: str | None) -> str | None:
    """Return the codec of a page by its byte order mark, the given charset if it is supported, or its own declaration.

    None if there is none.
    """
    for mark, of_mark in _BOMS:
        if content.startswith(mark):
            return of_mark
    codec = text_codec(given) if given else None
    if codec is None and not _is_unsafe(given):
        codec = _sniffed(content)
    return _for_all_bytes(codec, content)


def _for_all_bytes(codec: str | None, content: bytes) -> str | None:
    """Return windows-1252 in place of Latin-1, but Latin-1 for a text with bytes that Python's windows-1252 lacks."""
    if codec not in ("iso8859-1", "cp1252"):
        return codec
    return "iso8859-1" if any(map(content.__contains__, _NOT_IN_CP1252)) else "cp1252"


def _sniffed(content: bytes) -> str | None:
    """Return the codec that a page declares in its first bytes, in a later `meta`, or in an XML declaration."""
    start = content[:SNIFFED_BYTES]
    return _prescanned(start) or _of_later_meta(content) or _declared(start)


def _of_later_meta(content: bytes) -> str | None:
    if b"<meta" not in content[SNIFFED_BYTES:TITLE_SEARCH_BYTES].lower():
        return None
    for tag in islice(titles_and_metas(content[:TITLE_SEARCH_BYTES].decode("latin-1")), MAX_LATER_METAS):
        if tag.name == "meta":
            codec = _of_meta(_attributes(tag.source.encode("latin-1"), len("<meta"))[0])
            if codec is not None:
                return codec
    return None


def _prescanned(start: bytes) -> str | None:
    """Return the codec that a page's first bytes declare: the standard's prescan, which ignores what is a script."""
    position = 0
    while (found := _MARKUP.search(start, position)) is not None:
        position = found.end()
        if found[1]:
            end = start.find(b"-->", position - 2)
            position = len(start) if end < 0 else end + 3
        elif found[2] or found[3]:
            attributes, position = _attributes(start, position)
            codec = _of_meta(attributes) if found[2] else None
            if codec is not None:
                return codec
        else:
            end = start.find(b">", position)
            position = len(start) if end < 0 else end + 1
    return None


def _attributes(start: bytes, position: int) -> tuple[dict[bytes, bytes], int]:
    found: dict[bytes, bytes] = {}
    while (each := _ATTRIBUTE.match(start, position)) is not None:
        found.setdefault(each[1].lower(), each[2] or each[3] or each[4] or b"")
        position = each.end()
    return found, position


def _of_meta(attributes: dict[bytes, bytes]) -> str | None:
    name = attributes.get(b"charset")
    if name is None and attributes.get(b"http-equiv", b"").lower() == b"content-type":
        found = _IN_CONTENT.search(attributes.get(b"content", b""))
        name = (found[1] or found[2] or found[3]) if found else None
    return _of_ascii(name.strip()) if name else None


def title_of(content: bytes, codec: str | None) -> str | None:
    """Return a page's title as plain text, None without one. Ignores comments, scripts and images."""
    text = content[:TITLE_SEARCH_BYTES].decode(codec or "utf-8", errors="replace")
    return next((_plain(tag.content) for tag in titles_and_metas(text) if tag.name == "title"), None)


def _plain(text: str) -> str | None:
    return None if len(text) > MAX_TITLE_TEXT else " ".join(html.unescape(text).split())[:MAX_TITLE]
