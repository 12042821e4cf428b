"""The charset of a text, by its label or as the HTML standard determines it, and the title of an HTML page."""

from __future__ import annotations

import codecs
import html
import re
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache

MAX_LABEL = 64
"""Longest label of a charset, in characters."""

_TEXT_CODEC = re.compile(
    r"ascii|utf-(?:8|8-sig|16|16-le|16-be|32|32-le|32-be)|iso8859-\d+|cp(?:125\d|437|85\d|866|874|932|949|950)"
    r"|koi8-[rut]|iso2022_jp|shift_jis\w*|euc_\w+|gb2312|gbk|gb18030|big5\w*|mac-\w+|tis-620"
)
# Labels of the web that Python lacks (Encoding standard, section 4.2), and MySQL's for UTF-8.
_LABELS = {
    "utf8mb3": "utf-8", "utf8mb4": "utf-8", "unicode-1-1-utf-8": "utf-8", "x-unicode20utf8": "utf-8",
    "x-sjis": "cp932", "windows-31j": "cp932", "windows-949": "cp949", "windows-874": "cp874", "dos-874": "cp874",
    "x-cp1250": "cp1250", "x-cp1251": "cp1251", "x-cp1252": "cp1252", "x-gbk": "gbk", "x-x-big5": "big5",
    "iso-8859-8-i": "iso8859-8", "iso-8859-8-e": "iso8859-8", "x-mac-roman": "mac-roman",
    "x-mac-cyrillic": "mac-cyrillic", "x-mac-ukrainian": "mac-cyrillic", "x-euc-jp": "euc_jp", "koi": "koi8-r",
    "unicode": "utf-16-le", "ucs-2": "utf-16-le", "iso-10646-ucs-2": "utf-16-le", "unicodefeff": "utf-16-le",
}  # fmt: skip
# Names to look up in Python, which caches any other name for ever (`encodings._cache`).
_PYTHON_NAMES = {*aliases, *aliases.values(), "cp856", "cp874", "koi8_u", "koi8_t", "mac_croatian", "mac_farsi",
             "mac_arabic", "mac_romanian", "utf_8_sig"}  # fmt: skip

SNIFFED_BYTES = 1_024
"""Bytes of a page that are searched for its charset (HTML, section 13.2.3.2)."""
TITLE_SEARCH_BYTES = 65_536
"""Bytes of a page that are searched for its title."""
MAX_TITLE = 300
"""Characters of a title; the rest is cut off."""
MAX_ELEMENTS = 1_000
"""Scripts, images and the like that may precede a title."""
MAX_TITLE_TEXT = 4_096
"""Characters beyond which a title is ignored."""

_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_UTF_32_BOMS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
# Codecs that the web uses for these of Python's names (Encoding standard, section 4.2).
_OF_THE_WEB = {"ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874",
               "tis-620": "cp874", "shift_jis": "cp932", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030",
               "big5": "big5hkscs", "utf-16": "utf-16-le"}  # fmt: skip
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

# Elements whose content is not markup, and those whose titles are not the page's.
_RAW = ("script", "style", "textarea", "noframes", "noembed", "iframe", "xmp", "title")
_FOREIGN = ("svg", "math", "template")
_NAMES = "|".join((*_RAW, *_FOREIGN))
# Attributes to the end of a tag (HTML, section 13.2.5.32); an unclosed quote extends to the end.
_ATTRIBUTES = (
    r"(?:[\t\n\f\r /]++|[^\t\n\f\r />][^\t\n\f\r />=]*+"
    r"(?:[\t\n\f\r ]*+=[\t\n\f\r ]*+(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|[^\t\n\f\r >\"'][^\t\n\f\r >]*+)?+)?+)*+>"
)
_OPENING = re.compile(rf"<(/?)({_NAMES})(?=[\t\n\f\r />]){_ATTRIBUTES}", re.IGNORECASE)
# Text, comments, declarations, and the tags of all other elements, with their quoted attributes.
_PASSED_OVER = re.compile(
    r"(?:[^<]++|<!--(?:-?>|[^-]*+(?:-(?!-!?>)[^-]*+)*+--!?>)|<(?:\?|!(?!--)|/[^a-z])[^>]*+>|<(?![a-z/!?])"
    rf"|</?(?!(?:{_NAMES})[\t\n\f\r />])[a-z][^\t\n\f\r />]*+{_ATTRIBUTES})*+",
    re.IGNORECASE,
)
_CLOSING = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW}


def text_codec(charset: str | None) -> str | None:
    """Return the codec for a charset's label (UTF-8 for None), None for an unsupported one.

    Supported are codecs that decode bytes in linear time: others in Python decompress (zlib), take quadratic time
    (punycode) or produce lone surrogates (utf-7).
    """
    label = (charset or "utf-8").strip().lower()
    return _text_codec(label) if len(label) <= MAX_LABEL and label.isascii() and label.isprintable() else None


@lru_cache(maxsize=256)
def _text_codec(label: str) -> str | None:
    name = normalize_encoding(_LABELS.get(label, label))
    if name not in _PYTHON_NAMES:
        return None
    try:
        codec = codecs.lookup(name).name
    except LookupError:  # missing on this system
        return None
    return codec if _TEXT_CODEC.fullmatch(codec) else None


def codec_of(media_type: str, content: bytes, given: str | None) -> str | None:
    """Return the codec of a text by its byte order mark (Encoding standard, section 6), the given charset, or the
    declaration in HTML or XML; UTF-8 without any of them, None for an unsupported charset.
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
    """Return the codec of a page by its byte order mark, the given charset, or its first bytes.

    None if there is none, or it is unsupported.
    """
    for mark, of_mark in _BOMS:
        if content.startswith(mark):
            return of_mark
    codec = text_codec(given) if given else _sniffed(content[:SNIFFED_BYTES])
    codec = _OF_THE_WEB.get(codec or "", codec)
    return "iso8859-1" if codec == "cp1252" and any(map(content.__contains__, _NOT_IN_CP1252)) else codec


def _sniffed(start: bytes) -> str | None:
    """Return the codec that a page's first bytes declare: the standard's prescan."""
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
                # The declaration was read as ASCII, so UTF-16 and UTF-32 are wrong.
                return "utf-8" if codec.startswith(("utf-16", "utf-32")) else codec
        else:
            end = start.find(b">", position)
            position = len(start) if end < 0 else end + 1
    declared = _XML.match(start)
    return text_codec(declared[1].decode("latin-1")) if declared else None


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
    return text_codec(name.strip().decode("latin-1")) if name else None


def title_of(content: bytes, codec: str | None) -> str | None:
    """Return a page's title as plain text, None without one. Ignores comments, scripts and images.

    Scans each part of the text once.
    """
    text = content[:TITLE_SEARCH_BYTES].decode(codec or "utf-8", errors="replace")
    position = inside = 0
    for _ in range(MAX_ELEMENTS):
        passed_over = _PASSED_OVER.match(text, position)
        found = passed_over and _OPENING.match(text, passed_over.end())
        if not found:
            return None
        position, name = found.end(), found[2].lower()
        if name in _FOREIGN:
            empty = text.startswith("/>", position - 2) and name != "template"
            inside = max(0, inside - 1) if found[1] else inside + (not empty)
        elif not found[1] and not (inside and name == "title"):
            closing = _CLOSING[name].search(text, position)
            if closing is None:
                return None
            if name == "title":
                return _plain(text[position : closing.start()])
            position = closing.start()
    return None


def _plain(text: str) -> str | None:
    return None if len(text) > MAX_TITLE_TEXT else " ".join(html.unescape(text).split())[:MAX_TITLE]
