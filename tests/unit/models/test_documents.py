from __future__ import annotations

import codecs
import encodings
import json
import pkgutil
import time
from dataclasses import dataclass
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError, fields, post_load

from models import documents, strictjson
from models.documents import Body
from models.errors import InvalidDocument
from models.schema import StrictSchema
from models.text import MAX_TITLE, TITLE_SEARCH_BYTES, text_codec


@pytest.fixture
def _own_registry(monkeypatch):
    """Give a test its own registered schemas."""
    monkeypatch.setattr(documents, "_REGISTRY", {})
    monkeypatch.setattr(documents, "_INSTANCES", {})


def page(content, media_type="text/html", charset=None):
    return documents.load("page", Body(content, media_type, charset)).value


@pytest.mark.parametrize("value", [None, True, 0, "a", [1], {"a": {"b": 2.5}}])
def test_json_is_any_json_value(value):
    """The default schema loads whatever JSON value came."""
    assert documents.load("json", Body(strictjson.dumps(value))).value == value


@pytest.mark.parametrize("charset", [None, "utf-8", "UTF-8", "utf8", "us-ascii", "ascii"])
def test_json_is_read_as_utf8_whatever_name_that_has(charset):
    """JSON is UTF-8, also where an upstream calls it ASCII."""
    assert documents.load("json", Body('"ä"'.encode(), "application/json", charset)).value == "ä"


@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1252", "utf-16"])
def test_json_in_another_charset_is_decoded_first(charset):
    """A charset that the upstream names is believed."""
    assert documents.load("json", Body('{"ä":1}'.encode(charset), "application/json", charset)).value == {"ä": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"[" * 100_000, "nested deeper than 64 levels"),
        (b"1" * 10_000, "a number of more than 4300 digits"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[1e999]", "number out of range"),
        (b'{"a":1,"a":2}', "duplicate key 'a'"),
        (b'"\\udead"', "lone surrogate"),
    ],
)
def test_a_hostile_json_answer_is_an_invalid_document(content, reason):
    """Depth, huge integers, NaN, out-of-range numbers and duplicate keys are told, not crashed on."""
    with pytest.raises(InvalidDocument, match=reason):
        documents.load("json", Body(content))


@settings(deadline=None)
@given(st.text())
def test_text_is_decoded_utf8(text):
    """Without a charset, text is UTF-8."""
    assert documents.load("text", Body(text.encode())).value == text


@pytest.mark.parametrize(("charset", "text"), [("iso-8859-1", "ä"), ("koi8-r", "Привет"), ("shift_jis", "日本")])
def test_text_is_decoded_by_its_charset(charset, text):
    """With a charset, text is in that."""
    assert documents.load("text", Body(text.encode(charset), "text/plain", charset)).value == text


@pytest.mark.parametrize(
    ("content", "charset", "reason"),
    [
        (b"a", "no-such-charset", "the body's charset 'no-such-charset' is not supported"),
        (b"a", "x" * 100, "the body's charset '" + "x" * 40 + "' is not supported"),
        (b"\x81", "shift_jis", "the body is not shift_jis at byte 0"),
        (b"a", "utf-16", "the body is not utf-16 at byte 0"),
    ],
)
def test_a_wrong_charset_is_an_invalid_document(content, charset, reason):
    """An unknown charset, or one that the bytes are not in, is told by name and cut short."""
    with pytest.raises(InvalidDocument) as caught:
        documents.load("text", Body(content, "text/plain", charset))
    assert reason in str(caught.value)


def test_text_that_is_not_its_utf8_is_an_invalid_document():
    """Bytes that are no UTF-8 are no text."""
    with pytest.raises(InvalidDocument, match=r"^the body is not utf-8 at byte 0$"):
        documents.load("text", Body(b"\xff"))


def test_a_charset_with_a_nul_is_an_invalid_document():
    """A charset that no codec registry takes is told as one that the body is not in."""
    with pytest.raises(InvalidDocument, match="the body"):
        documents.load("text", Body(b"a", "text/plain", "utf\0-8"))


@pytest.mark.parametrize(
    ("content", "title"),
    [
        (b"<html><title>Hello</title>", "Hello"),
        (b"<TITLE>Hello</TITLE>", "Hello"),
        (b'<title lang="en">Hello</title>', "Hello"),
        (b"<title>\n  Hello \t there\n</title >", "Hello there"),
        (b"<title>a &amp; &lt;b&gt; &#228;</title>", "a & <b> ä"),
        (b"<title>one</title><title>two</title>", "one"),
        (b"<titles>no</titles><title>yes</title>", "yes"),
        ("<title>日本</title>".encode(), "日本"),
        (b"<title>\xff</title>", "�"),
        (b"<title>" + b"x" * 1000 + b"</title>", "x" * MAX_TITLE),
    ],
)
def test_a_page_s_title_is_its_plain_text(content, title):
    """The first title is found in any case, unescaped, its spaces collapsed and its length bounded."""
    assert page(content) == {"size": len(content), "media_type": "text/html", "title": title}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no markup",
        b"<title>never closed",
        b"<title>" + b"x" * 5000 + b"</title>",
        b"x" * TITLE_SEARCH_BYTES + b"<title>late</title>",
        b"<title " * 20_000,
    ],
)
def test_a_page_without_a_title_has_no_such_key(content):
    """Where there is no title within reach, the key is left out and the size is still told."""
    assert page(content) == {"size": len(content), "media_type": "text/html"}


def test_only_html_has_a_title():
    """Other media types are not searched."""
    assert page(b"<title>a</title>", "text/plain") == {"size": 16, "media_type": "text/plain"}


@pytest.mark.parametrize(("charset", "title"), [("iso-8859-1", "ä"), ("no-such-charset", "�"), (None, "�")])
def test_a_title_is_decoded_by_the_charset_or_else_as_utf8(charset, title):
    """The charset counts if it is known; a wrong one garbles the title and fails nothing."""
    assert page(b"<title>\xe4</title>", "text/html", charset)["title"] == title


def test_a_page_in_utf16_has_its_title():
    """XHTML in UTF-16 is searched after decoding."""
    content = "<title>Hello</title>".encode("utf-16")
    assert page(content, "application/xhtml+xml", "utf-16")["title"] == "Hello"


@dataclass
class Quote:
    symbol: str
    price: object


class QuoteSchema(StrictSchema):
    symbol = fields.String(required=True)
    price = fields.Decimal(required=True, as_string=True)
    note = fields.String(dump_default=None)

    @post_load
    def _quote(self, data, **_):
        return Quote(**data)


@pytest.mark.usefixtures("_own_registry")
def test_a_plugin_s_schema_loads_a_document_through_its_class():
    """A registered schema is known by name, makes its class, and its dump is the document without empty keys."""
    assert documents.schema("quote")(QuoteSchema) is QuoteSchema
    assert documents.names() == ["json", "page", "quote", "text"]
    documents.check_known("quote")
    assert documents.load("quote", Body(b'{"symbol":"A","price":"1.50"}')).value == {"symbol": "A", "price": "1.50"}


@pytest.mark.usefixtures("_own_registry")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "symbol: Missing data for required field; price: Missing data for required field"),
        (b'{"symbol":1,"price":"x"}', "symbol: Not a valid string; price: Not a valid number"),
        (b'{"symbol":"A","price":1,"more":1}', "more: unknown field"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{", "not JSON"),
    ],
)
def test_a_document_that_does_not_fit_names_every_field(content, reason):
    """What does not load by a plugin's schema is an invalid document with all its faults."""
    documents.schema("quote")(QuoteSchema)
    with pytest.raises(InvalidDocument) as caught:
        documents.load("quote", Body(content))
    assert str(caught.value).startswith(reason)


@pytest.mark.usefixtures("_own_registry")
def test_a_plugin_that_crashes_is_an_invalid_document():
    """Whatever a plugin's own code raises becomes an error that names its schema, with the cause kept."""

    @documents.schema("broken")
    class Broken(Schema):
        @post_load
        def _crash(self, *_, **__):
            raise KeyError("gone")

    with pytest.raises(InvalidDocument, match=r"^schema broken: KeyError: 'gone'$") as caught:
        documents.load("broken", Body(b"{}"))
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.usefixtures("_own_registry")
@pytest.mark.parametrize("name", ["json", "text", "page", "quote"])
def test_a_taken_schema_name_is_refused(name):
    """Neither a built-in name nor another class's can be registered again."""
    documents.schema("quote")(QuoteSchema)
    with pytest.raises(ValueError, match=f"^the schema name '{name}' is taken$"):
        documents.schema(name)(StrictSchema)


@pytest.mark.usefixtures("_own_registry")
def test_what_is_no_schema_is_refused_where_it_is_written():
    """Without its name the class would be gone, and as no marshmallow class every answer would be a dead letter."""
    with pytest.raises(ValueError, match=r'write @schema\("name"\)'):
        documents.schema(QuoteSchema)
    for thing in (int, QuoteSchema(), lambda: None):
        with pytest.raises(ValueError, match=r"'thing' is no subclass of marshmallow\.Schema"):
            documents.schema("thing")(thing)


@pytest.mark.usefixtures("_own_registry")
def test_the_same_class_may_be_registered_again():
    """A plugin that is imported twice does no harm."""
    documents.schema("quote")(QuoteSchema)
    assert documents.schema("quote")(QuoteSchema) is QuoteSchema


@pytest.mark.parametrize("name", ["json", "text", "page"])
def test_the_built_in_schemas_are_known(name):
    """The three schemas of the contract can be asked for."""
    documents.check_known(name)
    assert name in documents.names()


def test_an_unknown_schema_is_refused_with_the_known_ones():
    """The message for a schema that is not there lists those that are, and cuts a long name short."""
    with pytest.raises(ValidationError) as caught:
        documents.check_known("x" * 1000)
    assert caught.value.messages[0].startswith(f"unknown schema '{'x' * 60}'; known: json, page")


NO_TEXT = [
    "zlib",
    "bz2",
    "base64",
    "hex",
    "uu",
    "quopri",
    "rot13",
    "punycode",
    "idna",
    "utf-7",
    "unicode_escape",
    "raw_unicode_escape",
    "undefined",
    "palmos\0",
    "a\0b",
    "\ud800",
    "\u00e4",
    "x" * 100_000,
]


@pytest.mark.parametrize("charset", NO_TEXT)
def test_only_codecs_that_turn_bytes_into_text_are_used(charset):
    """A charset that names a compressor, an escape or nothing at all is refused before a byte is decoded; JSON is
    read all the same, as the UTF-8 that it is.
    """
    assert documents.load("json", Body(b'"a"', "application/json", charset)).value == "a"
    with pytest.raises(InvalidDocument, match="not UTF-8"):
        documents.load("json", Body(b'"\xff"', "application/json", charset))
    with pytest.raises(InvalidDocument) as caught:
        documents.load("text", Body(b'"a"', "text/plain", charset))
    assert str(caught.value).startswith("the body's charset ")
    assert str(caught.value).endswith(" is not supported")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("charset", NO_TEXT)
def test_a_title_under_a_charset_that_is_not_read_is_decoded_as_utf8(charset):
    """A page whose charset is no text codec has its title in UTF-8 and fails nothing."""
    assert page("<title>\u00e4-</title>".encode(), "text/html", charset)["title"] == "\u00e4-"


@pytest.mark.parametrize("charset", ["zlib", "bz2"])
def test_a_compressor_as_a_charset_inflates_nothing(charset):
    """A bomb that only its charset would inflate stays packed: the size told is that of the bytes."""
    bomb = codecs.encode(b"<title>boom</title>" * 1000, charset)
    assert page(bomb, "text/html", charset) == {"size": len(bomb), "media_type": "text/html"}
    with pytest.raises(InvalidDocument, match="is not supported"):
        documents.load("text", Body(bomb, "text/plain", charset))


def test_a_codec_of_quadratic_time_is_not_run():
    """A body that keeps Python's punycode busy for seconds is refused at once."""
    started = time.process_time()
    with pytest.raises(InvalidDocument, match="is not supported"):
        documents.load("text", Body(b"-" + b"9999" * 50_000, "text/plain", "punycode"))
    assert time.process_time() - started < 1


READ = sorted({text_codec(module.name) or "utf-8" for module in pkgutil.iter_modules(encodings.__path__)})


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(READ), st.binary(max_size=40))
def test_every_charset_that_is_read_gives_unicode_text(charset, content):
    """Any bytes under any charset that is read are text that can be written as UTF-8, or an invalid document."""
    try:
        text = Body(content, "text/plain", charset).text()
    except InvalidDocument as exc:
        text = str(exc)
    assert text.encode().decode() == text


@pytest.mark.parametrize(
    "charset",
    ["UTF8", "latin-1", "ISO-8859-15", "windows-1251", "euc-kr", "Shift_JIS", "GB18030", "Big5", "macintosh", "koi8-u"],
)
def test_the_charsets_of_the_web_are_read(charset):
    """The names that servers give are known in any spelling."""
    assert text_codec(charset) in READ
    assert Body(b"abc", "text/plain", charset).text() == "abc"


@pytest.mark.parametrize("charset", ["ISO-8859-1", "windows-1251", "utf8mb4", "no-such-charset", "utf-16", None])
def test_json_is_utf8_whatever_its_charset_says(charset):
    """RFC 8259, section 8.1: the parameter means nothing, whether it names another charset or none that there is."""
    document = documents.load("json", Body('{"name":"Zo\u00eb"}'.encode(), "application/json", charset))
    assert document.value == {"name": "Zo\u00eb"}
    assert document.encoded == '{"name":"Zo\u00eb"}'.encode()


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "utf-8-sig"])
def test_json_in_another_utf_is_known_by_its_first_bytes(codec):
    """UTF-16 and UTF-32, with and without a byte order mark, are read; the result has UTF-8."""
    document = documents.load("json", Body('["Zo\u00eb"]'.encode(codec), "application/json", None))
    assert document.encoded == '["Zo\u00eb"]'.encode()


def test_text_takes_the_names_of_utf8_that_databases_give():
    """utf8mb4 is UTF-8; a charset that nobody knows is still told by name."""
    assert documents.load("text", Body("Zo\u00eb".encode(), "text/plain", "utf8mb4")).value == "Zo\u00eb"


DIGITS = b'{"a":0.29999999999999998,"b":[1.10,10.10,-0,-0.0,9007199254740993,1E+5,100.0,1e-7],"c":"1.10 \\" x"}'


@pytest.mark.parametrize(
    "layout", [DIGITS, DIGITS.replace(b",", b" ,\r\n\t").replace(b":", b" : "), b"\xef\xbb\xbf" + DIGITS]
)
def test_a_document_is_the_text_that_came(layout):
    """No digit, exponent or escape changes on the way into a result; blanks between the parts go."""
    assert documents.load("json", Body(layout)).encoded == DIGITS


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    ),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_blanks_go_and_nothing_else(value, indent, ascii_only):
    """Whatever its layout and escapes, a document's text without blanks says what it said."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    try:
        document = documents.load("json", Body(text))
    except InvalidDocument:  # a lone surrogate
        return
    assert document.encoded.decode() == json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only)
    assert document.value == json.loads(document.encoded)


@pytest.mark.usefixtures("_own_registry")
def test_a_decimal_field_gets_the_digits_that_came():
    """A plugin's Decimal is what the upstream wrote, and is written so, as a number or as text."""
    seen = []

    class Prices(Schema):
        exact = fields.Decimal()
        text = fields.Decimal(as_string=True)
        many = fields.List(fields.Decimal())
        double = fields.Float()
        whole = fields.Integer(strict=True)
        raw = fields.Raw()

        @post_load
        def _prices(self, data, **_):
            seen.append(data)
            return data

    documents.schema("prices")(Prices)
    body = (b'{"exact":0.29999999999999998,"text":10.10,"many":[1.10,9007199254740993],"double":1.10,"whole":-0,'
            b'"raw":{"n":[1.10]}}')  # fmt: skip
    document = documents.load("prices", Body(body))
    assert seen[0]["exact"] == Decimal("0.29999999999999998")
    assert str(seen[0]["text"]) == "10.10"
    assert type(seen[0]["double"]) is float
    assert json.loads(document.encoded, parse_float=str) == {
        "exact": "0.29999999999999998", "text": "10.10", "many": ["1.10", 9007199254740993], "double": "1.1",
        "whole": 0, "raw": {"n": ["1.10"]},
    }  # fmt: skip
    assert document.value["exact"] == 0.3


@pytest.mark.usefixtures("_own_registry")
def test_a_decimal_that_is_no_number_is_no_document():
    """NaN of a Decimal is refused like that of a float."""

    class Odd(Schema):
        n = fields.Decimal(allow_nan=True)

    documents.schema("odd")(Odd)
    with pytest.raises(InvalidDocument, match="not a JSON number"):
        documents.load("odd", Body(b'{"n":"NaN"}'))
