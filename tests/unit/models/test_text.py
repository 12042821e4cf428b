"""What an HTML page says of itself: its charset as the HTML standard sniffs it, its title and no other."""

from __future__ import annotations

import time

import pytest

from models import documents
from models.documents import Body
from models.text import SNIFFED_BYTES, TITLE_SEARCH_BYTES, charset_of, title_of

RUSSIAN = "\u041f\u0440\u0438\u0432\u0435\u0442"


@pytest.mark.parametrize(
    ("start", "codec"),
    [
        (b'<meta charset="windows-1251">', "cp1251"),
        (b"<META CHARSET = koi8-r >", "koi8-r"),
        (b"<meta/charset=utf-8/>", "utf-8"),
        (b'<html lang="a>b"><meta charset=windows-1251>', "cp1251"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">', "cp1251"),
        (b"<meta content='text/html; charset = \"koi8-r\"' http-equiv=content-type>", "koi8-r"),
        (b'<meta content="text/html; charset=windows-1251">', None),
        (b'<meta name=x content="charset=windows-1251"><meta charset=koi8-r>', "koi8-r"),
        (b"<meta charset=no-such><meta charset=koi8-r>", "koi8-r"),
        (b"<!-- <meta charset=koi8-r> --><meta charset=windows-1251>", "cp1251"),
        (b"<!--><meta charset=koi8-r>", "koi8-r"),
        (b"<!-- <meta charset=koi8-r>", None),
        (b'<a title="<meta charset=koi8-r>"><meta charset=windows-1251>', "cp1251"),
        (b"<!doctype html><?x?></x><meta charset=koi8-r>", "koi8-r"),
        (b"<metadata charset=koi8-r>", None),
        (b"<meta charset=utf-16>", "utf-8"),
        (b"<meta charset=latin1>", "cp1252"),
        (b"<meta charset=iso-8859-1>\x81", "iso8859-1"),
        (b"<meta charset=gb2312>", "gb18030"),
        (b"<meta charset=shift_jis>", "cp932"),
        (b'<?xml version="1.0" encoding="windows-1251"?>', "cp1251"),
        (b"\xef\xbb\xbf<meta charset=koi8-r>", "utf-8-sig"),
        (b" " * SNIFFED_BYTES + b"<meta charset=koi8-r>", None),
        (b"<" * 3_000, None),
        (b"", None),
    ],
)
def test_a_page_names_its_own_charset(start, codec):
    """The first bytes are read as the standard's prescan reads them."""
    assert charset_of(start, None) == codec


def test_a_byte_order_mark_counts_most_and_the_header_before_the_page():
    """BOM, then Content-Type, then meta; a header that names nothing that is read leaves it open."""
    assert charset_of(b"\xff\xfe<\0", "utf-8") == "utf-16"
    assert charset_of(b"<meta charset=koi8-r>", "windows-1251") == "cp1251"
    assert charset_of(b"<meta charset=koi8-r>", "no-such") is None


@pytest.mark.parametrize("schema", ["page", "text"])
def test_a_page_whose_charset_only_a_meta_tag_names_is_read(schema):
    """Title and text come out as they were written."""
    text = f"<meta charset=windows-1251><title>{RUSSIAN}</title>"
    value = documents.load(schema, Body(text.encode("cp1251"), "text/html")).value
    assert value == text if schema == "text" else value["title"] == RUSSIAN


def test_latin_1_of_the_web_is_windows_1252():
    """What a page calls ISO-8859-1 may hold the quotes and dashes of Windows, and bytes that are neither."""
    assert documents.load("text", Body(b"\x93a\x94", "text/html", "ISO-8859-1")).value == "\u201ca\u201d"
    assert documents.load("text", Body(b"\x81\xe4", "text/html", "ISO-8859-1")).value == "\x81\u00e4"


@pytest.mark.parametrize(
    "before",
    [
        "<!-- <title>no</title> -->",
        "<!--><!-- <title>no</title> --!>",
        "<script>var x = '<title>no</title>'</script>",
        "<SCRIPT type='a>b'><title>no</title></SCRIPT >",
        "<style><title>no</title></style>",
        "<textarea><title>no</title></textarea>",
        "<svg><title>no</title></svg>",
        "<svg><g><svg><title>no</title></svg><title>no</title></g></svg>",
        "<svg/><svg viewBox='0 0 1 1' />",
        "<template><title>no</title></template>",
        "<math><title>no</title></math>",
        "<noframes><title>no</title></noframes>",
        "<titles>no</titles>",
        "</title></svg>",
        '<meta content="how to use <title> tags">',
        '<a title="<title>no</title>">',
        "<a title = '<title>no</title>' b>",
        "<p don't>",
        '<a href=a"b>',
        '<a =">',
        '<!doctype html PUBLIC "x>',
        "<?php if (a < b) echo 'it is' ?>",
        "<!-- - -- -> <title>no</title> -->",
        "<!--->",
        "</ <title>",
        "1 < 2 <3",
    ],
)
def test_the_title_is_the_page_s_own(before):
    """A title in a comment, a script or a picture is not the page's."""
    assert title_of(f"<html>{before}<title lang='a>b'>yes</title>".encode(), None) == "yes"


def test_markup_in_a_title_is_text():
    """A title holds no elements (HTML, section 4.2.2): what looks like one is part of it."""
    assert title_of(b"<title>a <b>c</b></title>", None) == "a <b>c</b>"


@pytest.mark.parametrize(
    "hostile",
    ["<script>", "<!--", "<title>", "<title ", "<title '", "<svg>", "</svg>", "<style>x</style", "<title a='", "<",
     "</", "<b>", "<a ", "<a =", '<a b="c">', '<a x="', "<a x='\"", "<!", "<?", "<!-- -", "<script></script>",
     "<svg", "<a/"],
)  # fmt: skip
def test_a_hostile_page_takes_no_time(hostile):
    """Whatever is repeated, each part is looked at once: some milliseconds for all that is searched."""
    content = (hostile * TITLE_SEARCH_BYTES).encode()
    began = time.thread_time()
    assert title_of(content, None) in (None, "")
    charset_of(content, None)
    assert time.thread_time() - began < 0.02


def test_the_charset_of_a_large_page_takes_no_time():
    """8 MiB are looked through for bytes that windows-1252 has not."""
    content = b"a" * (8 << 20)
    began = time.thread_time()
    assert charset_of(content, "windows-1252") == "cp1252"
    assert time.thread_time() - began < 0.02


XML = "<?xml version='1.0' encoding='{}'?><a>caf\u00e9</a>"


@pytest.mark.parametrize("media_type", ["application/xml", "text/xml", "image/svg+xml", "application/atom+xml"])
@pytest.mark.parametrize(
    ("named", "charset", "codec"),
    [("ISO-8859-1", None, "latin-1"), ("windows-1251", "iso-8859-1", "latin-1"), ("UTF-8", None, "utf-8"),
     ("UTF-16", None, "utf-16"), ("UTF-16", None, "utf-16-be"), ("ISO-8859-1", None, "utf-8-sig")],
)  # fmt: skip
def test_xml_says_itself_what_it_is_in(media_type, named, charset, codec):
    """RFC 7303, section 3: a byte order mark, then the charset given, then the declaration."""
    text = XML.format(named)
    assert documents.load("text", Body(text.encode(codec), media_type, charset)).value == text


@pytest.mark.parametrize(
    ("codec", "charset"),
    [("utf-8-sig", None), ("utf-8-sig", "utf-8"), ("utf-8-sig", "iso-8859-1"), ("utf-16", None), ("utf-16", "utf-16"),
     ("utf-16", "utf-16le"), ("utf-32", "utf-32"), ("utf-32", "utf-32le"), ("iso-2022-jp", "ISO-2022-JP")],
)  # fmt: skip
def test_a_byte_order_mark_is_no_part_of_the_text(codec, charset):
    """It says what the text is in, whatever else does."""
    assert documents.load("text", Body("\u65e5\u672c".encode(codec), "text/plain", charset)).value == "\u65e5\u672c"
