"""Charsets that are read, by the names that upstreams give them."""

from __future__ import annotations

import codecs
import re
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache

MAX_LABEL = 64
"""Characters of a charset's name: a longer one is none."""

_TEXT_CODEC = re.compile(
    r"ascii|utf-(?:8|8-sig|16|16-le|16-be|32|32-le|32-be)|iso8859-\d+|cp(?:125\d|437|85\d|866|874|932|949|950)"
    r"|koi8-[rut]|iso2022_jp|shift_jis\w*|euc_\w+|gb2312|gbk|gb18030|big5\w*|mac-\w+|tis-620"
)
# Names of the web that Python does not know (Encoding standard, section 4.2), and MySQL's for UTF-8.
_NAMES = {
    "utf8mb3": "utf-8", "utf8mb4": "utf-8", "unicode-1-1-utf-8": "utf-8", "x-unicode20utf8": "utf-8",
    "x-sjis": "cp932", "windows-31j": "cp932", "windows-949": "cp949", "windows-874": "cp874", "dos-874": "cp874",
    "x-cp1250": "cp1250", "x-cp1251": "cp1251", "x-cp1252": "cp1252", "x-gbk": "gbk", "x-x-big5": "big5",
    "iso-8859-8-i": "iso8859-8", "iso-8859-8-e": "iso8859-8", "x-mac-roman": "mac-roman",
    "x-mac-cyrillic": "mac-cyrillic", "x-mac-ukrainian": "mac-cyrillic", "x-euc-jp": "euc_jp", "koi": "koi8-r",
    "unicode": "utf-16-le", "ucs-2": "utf-16-le", "iso-10646-ucs-2": "utf-16-le", "unicodefeff": "utf-16-le",
}  # fmt: skip
# What Python is asked for: it keeps each other name that it was ever asked for (`encodings._cache`).
_PYTHON_S = {*aliases, *aliases.values(), "cp856", "cp874", "koi8_u", "koi8_t", "mac_croatian", "mac_farsi",
             "mac_arabic", "mac_romanian", "utf_8_sig"}  # fmt: skip


def text_codec(charset: str | None) -> str | None:
    """Return the codec for a charset that an upstream names (UTF-8 for None), None for one that is not read.

    Only codecs that turn bytes into text in linear time: Python's others decompress (zlib), take quadratic time
    (punycode) or make lone surrogates (utf-7).
    """
    label = (charset or "utf-8").strip().lower()
    return _text_codec(label) if len(label) <= MAX_LABEL and label.isascii() and label.isprintable() else None


@lru_cache(maxsize=256)
def _text_codec(label: str) -> str | None:
    name = normalize_encoding(_NAMES.get(label, label))
    if name not in _PYTHON_S:
        return None
    try:
        codec = codecs.lookup(name).name
    except LookupError:  # of another system
        return None
    return codec if _TEXT_CODEC.fullmatch(codec) else None
