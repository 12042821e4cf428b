"""What an HTML page says of itself: its charset as the HTML standard sniffs it, its title and no other."""

from __future__ import annotations

import codecs

import pytest

from models import documents, labels
from models.documents import Body
from models.errors import InvalidDocument
from models.text import SNIFFED_BYTES, TITLE_SEARCH_BYTES, charset_of, title_of
from tests.turns import FOLLOWED, allowed, least

pytestmark = pytest.mark.slow

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
        (b" " * SNIFFED_BYTES + b"<meta charset=koi8-r>", "koi8-r"),
        (b"<html><!--" + b"x" * 2_000 + b"--><meta charset=iso-8859-1>", "cp1252"),
        (b" " * SNIFFED_BYTES + b"<META content='a; charset=koi8-r' http-equiv=content-type>", "koi8-r"),
        (b" " * SNIFFED_BYTES + b"<script>'<meta charset=koi8-r>'</script><meta charset=windows-1251>", "cp1251"),
        (
            b" " * SNIFFED_BYTES + b"<a title='<meta charset=koi8-r>'><meta charset=no-such><meta charset=utf-16>",
            "utf-8",
        ),
        (b"<?xml version='1.0' encoding='koi8-r'?>" + b" " * SNIFFED_BYTES + b"<meta charset=windows-1251>", "cp1251"),
        (b" " * TITLE_SEARCH_BYTES + b"<meta charset=koi8-r>", None),
        (b"<meta charset=x-user-defined>", "cp1252"),
        (b"<" * 3_000, None),
        (b"", None),
    ],
)
def test_a_page_names_its_own_charset(start, codec):
    """The first bytes are read as the standard's prescan reads them."""
    assert charset_of(start, None) == codec


def test_a_byte_order_mark_counts_most_and_the_header_before_the_page():
    """BOM, then Content-Type, then meta; a header that names nothing that is read counts as none (HTML, section
    13.2.3.2), unless it is a charset of which the web reads nothing.
    """
    assert charset_of(b"\xff\xfe<\0", "utf-8") == "utf-16"
    assert charset_of(b"<meta charset=koi8-r>", "windows-1251") == "cp1251"
    assert charset_of(b"<meta charset=koi8-r>", "no-such") == "koi8-r"
    assert charset_of(b"<p>", "no-such") is None
    assert charset_of(b"<meta charset=koi8-r>", "ISO-2022-KR") is None
    with pytest.raises(InvalidDocument, match="'ISO-2022-KR' is not supported"):
        documents.load("text", Body(b"<meta charset=koi8-r>", "text/html", "ISO-2022-KR"))


@pytest.mark.parametrize("charset", ["foo", "none", "binary", "utf8_general_ci", "iso-8859-1, text/html", "x" * 100])
@pytest.mark.parametrize("schema", ["page", "text"])
def test_a_header_that_names_no_charset_leaves_it_to_the_page(charset, schema):
    """It is as if it had named none: also without a meta, when a page is UTF-8."""
    page = "<meta charset=iso-8859-1><title>Zo\u00eb</title>"
    for text, codec in ((page, "latin-1"), (page.partition(">")[2], "utf-8")):
        value = documents.load(schema, Body(text.encode(codec), "text/html", charset)).value
        assert value == text if schema == "text" else value["title"] == "Zo\u00eb"


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
        "</>",
        "1 < 2 <3",
        "<script><!--<script></script><title>no</title>--></script>",
        "<script><!-- <SCRIPT src=x></script ><title>no</title></script/>",
        "<script><!--<script>--></script>",
        "<script><!--><script></script>",
        "<script><script></script>",
        "<svg><script/></svg>",
        "<svg><style/></svg>",
        "<svg><style><title>no</title></style></svg>",
        "<svg><textarea/><xmp/><iframe/></svg>",
        "<svg><p>",
        "<svg><g></p>",
        "<math><mi/></br>",
        "<svg><g><font color=red>",
        "<svg><font><title>no</title></font></svg>",
        "<svg><title>no <svg><title>no</title></svg></title></svg>",
        "<svg><foreignObject><svg><title>no</title></svg></foreignObject><title>no</title></svg>",
        "<svg a=b/><title>no</title></svg>",
        "<svg><path><path></svg>",
        "<svg><![CDATA[</svg>]]><title>no</title></svg>",
        "<math><annotation-xml><title>no</title></annotation-xml></math>",
        "<template><svg></template>",
        "<template><svg></svg></svg></g><title>no</title></template>",
        "<svg><template></template><title>no</title></svg>",
        "<\u017fcript>",
    ],
)
def test_the_title_is_the_page_s_own(before):
    """A title in a comment, a script or a picture is not the page's."""
    assert title_of(f"<html>{before}<title lang='a>b'>yes</title>".encode(), None) == "yes"


@pytest.mark.parametrize(
    "around",
    [
        "<svg><p>{}",
        "<svg><foreignObject>{}</foreignObject></svg>",
        "<svg><desc><script>1</script>{}</desc></svg>",
        "<math><mi>{}</mi></math>",
        "<math><annotation-xml encoding='text/html'>{}</annotation-xml></math>",
        "<math><annotation-xml><svg><desc>{}</desc></svg></annotation-xml></math>",
    ],
)
def test_html_goes_on_within_svg_and_math(around):
    """Where they hold HTML, and from a tag on that they may not hold (HTML, section 13.2.6.5)."""
    assert title_of(around.format("<title>yes</title>").encode(), None) == "yes"


@pytest.mark.parametrize("page", ["<plaintext></plaintext><title>no</title>", "<svg><![CDATA[</svg><title>no</title>"])
def test_what_never_ends_hides_the_rest(page):
    """Plain text to the end, and a section that is not closed."""
    assert title_of(page.encode(), None) is None


def test_markup_in_a_title_is_text():
    """A title holds no elements (HTML, section 4.2.2): what looks like one is part of it."""
    assert title_of(b"<title>a <b>c</b></title>", None) == "a <b>c</b>"


@pytest.mark.parametrize(
    "hostile",
    ["<script>", "<!--", "<title>", "<title ", "<title '", "<svg>", "</svg>", "<style>x</style", "<title a='", "<",
     "</", "<b>", "<a ", "<a =", '<a b="c">', '<a x="', "<a x='\"", "<!", "<?", "<!-- -", "<script></script>",
     "<svg", "<a/", "<svg><x>", "<svg></x>", "<svg><title>", "<svg><foreignObject>", "<svg><p>", "<svg><![CDATA[",
     "<svg><![CDATA[]]>", "<script><!--<script></script>", "<template>", "<template><title></title>", "<meta>",
     "<meta charset=x>", "<math><annotation-xml a>"],
)  # fmt: skip
@pytest.mark.parametrize("first", ["", "<svg>", "<svg>" * 500])
def test_a_hostile_page_takes_no_time(hostile, first):
    """Whatever is repeated, each part is looked at once: some milliseconds for all that is searched."""
    content = (first + hostile * TITLE_SEARCH_BYTES).encode()

    def search():
        assert title_of(content, None) in (None, "")
        charset_of(content, None)

    assert least(search) < FOLLOWED * allowed()


def test_the_charset_of_a_large_page_takes_no_time():
    """8 MiB are looked through for bytes that windows-1252 has not."""
    content = b"a" * (8 << 20)
    assert charset_of(content, "windows-1252") == "cp1252"
    assert least(lambda: charset_of(content, "windows-1252")) < allowed()


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [("Shift_JIS", "cp932", "\u2460"), ("gb2312", "gbk", "\u9555"), ("GBK", "gb18030", "\U0001f600"),
     ("euc-kr", "cp949", "\ub620"), ("EUC_KR", "cp949", "\ub620"), ("iso-8859-1", "cp1252", "\u20ac"),
     ("latin-1", "cp1252", "\u20ac"), ("us-ascii", "cp1252", "\u00e9"), ("iso-8859-9", "cp1254", "\u20ac"),
     ("tis-620", "cp874", "\u20ac"), ("big5", "big5hkscs", "\u55b0"), ("utf-16", "utf-16-le", "\u00e9"),
     ("iso-8859-1", "latin-1", "\x81")],
)  # fmt: skip
@pytest.mark.parametrize("media_type", ["text/plain", "text/csv", "text/html", "text/xml"])
def test_a_label_means_what_it_means_on_the_web(charset, codec, text, media_type):
    """Encoding standard, section 4.2: for every text, not for HTML alone."""
    assert documents.load("text", Body(text.encode(codec), media_type, charset)).value == text


@pytest.mark.parametrize(
    ("label", "codec"),
    [("x-cp1253", "cp1253"), ("x-cp1258", "cp1258"), ("koi8", "koi8-r"), ("iso88591", "cp1252"),
     ("visual", "iso8859-8"), ("logical", "iso8859-8"), ("mac", "mac-roman"), ("csmacintosh", "mac-roman"),
     ("cn-big5", "big5hkscs"), ("cseuckr", "cp949"), ("ks_c_5601-1989", "cp949"), ("gb_2312", "gb18030"),
     ("sun_eu_greek", "iso8859-7"),
     ("unicode11utf8", "utf-8"), ("unicodefffe", "utf-16-be"), (" 866\t", "cp866"),
     ("x-user-defined", "x-user-defined")],
)  # fmt: skip
def test_the_labels_of_the_web_are_known(label, codec):
    """Those that Python has no name for, too."""
    assert charset_of(b"<p>", label) == codec


def test_every_label_of_the_web_has_a_codec():
    """All 228, six of them for what is not read."""
    assert len(labels.CODEC_OF_LABEL) == 222
    assert all(b"a\0".decode(codec)[0] in "a\u6100" for codec in labels.LABELS)
    assert len(labels.UNSAFE) == 6


def test_x_user_defined_keeps_each_byte_apart():
    """Encoding standard, section 14.5: as a whole and in pieces."""
    assert documents.load("text", Body(b"a\x80\xff", "text/plain", "x-user-defined")).value == "a\uf780\uf7ff"
    assert codecs.getincrementaldecoder("x-user-defined")().decode(b"\x80") == "\uf780"


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
