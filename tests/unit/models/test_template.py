from __future__ import annotations

from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models import strictjson
from models.errors import InvalidRequest
from models.strictjson import Raw
from models.template import MAX_LIST, HeaderTemplate, JsonTemplate, Template, UrlTemplate, as_text, encode_form
from streams.http.url import parse

URL = "https://api.example:8443/v1/{a}/x/{a}.json?q={a}&last=1"

CHARACTERS = "./\\?#&=+ ;:@[%{}\0\t\r\n\x7f\x85\u2028\ud800\u202e\uff11\uff0f\u00e4\U0001f600a"
PIECES = ["..", "%2", "%2e", "%2F", "%252e", "%25", "2f", "%5c", "%00", "{a}", "x" * 50, *CHARACTERS]
"""What values are made of that try to be more than a value."""
HOSTILE = st.text(st.characters()) | st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


def is_text(value):
    """Whether a string is Unicode text: one with lone surrogates is none."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def refusal(template, **params):
    with pytest.raises(InvalidRequest) as caught:
        template.expand(params)
    return str(caught.value)


def urls_refusal(text):
    with pytest.raises(ValueError) as caught:
        UrlTemplate(text)
    return str(caught.value)


@settings(deadline=None, max_examples=1000)
@given(HOSTILE)
@example("..")
@example("%2e%2e")
@example("%252e%252e")
@example("a/b")
@example("a\r\nHost: evil")
@example("a?b#c")
@example("@evil.example")
def test_no_value_leaves_its_place(value):
    """Any string is refused, or makes a URL of the same scheme, host, port and segments that says just this value."""
    template = UrlTemplate(URL)
    try:
        url = template.expand({"a": value})
    except InvalidRequest:
        return
    parts = urlsplit(url)
    assert (parts.scheme, parts.hostname, parts.port, parts.fragment) == ("https", "api.example", 8443, "")
    segments = parts.path.split("/")
    assert [segments[0], segments[1], segments[3], len(segments)] == ["", "v1", "x", 5]
    assert unquote(segments[2]) == value
    assert unquote(segments[4]) == f"{value}.json"
    assert parse_qsl(parts.query, keep_blank_values=True) == [("q", value), ("last", "1")]
    assert url.isascii() and url.isprintable()  # noqa: PT018  one thing: nothing but visible ASCII


@settings(deadline=None, max_examples=300)
@given(HOSTILE, st.sampled_from([URL, URL.replace("v1", "v\u00e4"), URL.replace("api", "\u00e4pi")]))
def test_what_is_sent_is_what_was_written(value, text):
    """The client asks for the same path segments and query values, also where the template has other than ASCII."""
    try:
        url = parse(UrlTemplate(text).expand({"a": value}))
    except InvalidRequest:
        return
    assert url.raw_path.count("/") == url.path.count("/") == 4
    assert url.parts[2] == value
    assert list(url.query.items()) == [("q", value), ("last", "1")]


@settings(deadline=None)
@given(HOSTILE)
def test_a_query_takes_any_text(value):
    """In a query nothing but lone surrogates is refused, and the value comes out as it went in."""
    template = UrlTemplate("http://h/?q={a}")
    if not is_text(value):
        assert refusal(template, a=value) == "params.a: is not valid Unicode"
    else:
        assert template.expand({"a": value}) == f"http://h/?q={quote(value, safe='')}"


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "a b",
        "...",
        ".a",
        "a.",
        "a..b",
        "%",
        "100%",
        "%41",
        "a;b",
        "a:b",
        "\u00e4",
        "\uff11\uff0e",
        "\u202e",
        "\u2028",
        "~",
    ],
)
def test_a_path_takes_plain_values(value):
    """Spaces, signs, wide digits, bidi marks and dots among other text are values like any other."""
    url = UrlTemplate("http://h/{a}/z").expand({"a": value})
    assert unquote(url.removeprefix("http://h/").removesuffix("/z")) == value


@pytest.mark.parametrize(
    "value",
    [
        "a/b",
        "/",
        "\\",
        "a\\b",
        "%2f",
        "%2F",
        "%5c",
        "%252f",
        "%25252F",
        "a\0",
        "\r",
        "\n",
        "\t",
        "\x1f",
        "\x7f",
        "%00",
        "%0d%0A",
    ],
)
def test_a_value_that_leaves_its_segment_is_refused(value):
    """Slashes, backslashes and control characters, percent-encoded or twice so, are invalid in a path."""
    told = refusal(UrlTemplate("http://h/{a}?q={q}"), a=value, q="1")
    assert told == "params.a: has a slash, backslash or control character, which would leave its path segment"


@pytest.mark.parametrize("value", [".", "..", "%2e", "%2E%2e", ".%2e", "%252e%252E", "%25252e%25252e"])
def test_a_segment_of_dots_is_refused(value):
    """A value that is a step up, percent-encoded or not, is invalid."""
    assert refusal(UrlTemplate("http://h/{a}"), a=value) == "params: a would make a path segment of dots"


@pytest.mark.parametrize(("text", "params"), [
    ("http://h/{a}{b}", {"a": ".", "b": "."}),
    ("http://h/.{a}/x", {"a": "."}),
    ("http://h/%2e{a}/x", {"a": "."}),
    ("http://h/{a}{b}", {"a": "%2", "b": "e."}),
])  # fmt: skip
def test_a_segment_of_dots_is_refused_however_it_is_made_up(text, params):
    """Values that are harmless alone, and text beside them, cannot add up to a step up either."""
    assert "would make a path segment of dots" in refusal(UrlTemplate(text), **params)


@pytest.mark.parametrize(
    ("text", "a"), [("http://h/{a}{b}/x", "..%2"), ("http://h/%{a}", "2f"), ("http://h/%2{a}", "f")]
)
def test_a_slash_is_refused_however_it_is_made_up(text, a):
    """Values that are harmless alone, and text beside them, cannot add up to an encoded slash."""
    refusal(UrlTemplate(text), a=a, b="f..")


def test_dots_are_no_steps_in_a_query():
    """Where they cannot lead anywhere, dots and slashes are text."""
    assert UrlTemplate("http://h/x?p={a}/..").expand({"a": "../.."}) == "http://h/x?p=..%2F../.."


def test_an_empty_value_is_refused_in_a_path_only():
    """An empty segment is another path; an empty query value is none."""
    assert refusal(UrlTemplate("http://h/{a}"), a="") == "params.a: is empty, which would make another path"
    assert UrlTemplate("http://h/?q={a}").expand({"a": ""}) == "http://h/?q="


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (False, "false"), (0, "0"), (-7, "-7"), (1.5, "1.5"),
                                             (10**20, "1" + "0" * 20), ("a", "a"), ("", "")])  # fmt: skip
def test_simple_values_have_a_text(value, text):
    """Numbers and booleans are written as in JSON."""
    assert as_text("a", value) == text


@pytest.mark.parametrize(("value", "name"), [(None, "null"), ([], "an array"), (["a"], "an array"), ({}, "an object")])
@pytest.mark.parametrize("template", [UrlTemplate("http://h/{a}"), UrlTemplate("http://h/?{a}"), HeaderTemplate("{a}"),
                                      JsonTemplate({"k": "x{a}"})])  # fmt: skip
def test_other_values_have_none(template, value, name):
    """Null, arrays and objects go into no URL, no header and no text."""
    assert refusal(template, a=value) == f"params.a: must be a string, number or boolean, not {name}"


def test_an_endless_number_is_refused():
    """A number that Python does not write is an invalid request, like any value that does not fit."""
    refusal(UrlTemplate("http://h/{a}"), a=10**5000)


@pytest.mark.parametrize(
    "text", ["http://h", "http://h/", "HTTPS://h?{a}", "http://[::1]:80/{a}", "http://h/{{{a}}}", "http://h//{a}"]
)
def test_a_template_of_a_url_is_taken(text):
    """Hosts of any kind, a query without a path, and doubled braces are fine."""
    UrlTemplate(text).expand({"a": "x"})


def test_doubled_braces_are_braces():
    """Braces that are doubled stand for themselves, beside places and around them."""
    assert Template("{{{a}}} {{a}} }}{{").expand({"a": "x"}) == "{x} {a} }{"
    assert UrlTemplate("http://h/{{{a}}}").expand({"a": "x"}) == "http://h/{x}"


ORIGINS = (
    "h /x ftp://h/ http:// http:///x http://{a}/ http://h{a} http://{a}.h/ http://h:{a}/ {a}://h/ {a} http://h\\@evil/"
)


@pytest.mark.parametrize(
    "text", ["", "http://h h/", " http://h/", "http://u:hunter2@h/", "http://@h/", "http://h{{/", *ORIGINS.split()]
)
def test_scheme_and_host_are_the_operator_s(text):
    """A template without a fixed scheme and host, or with credentials, is none; credentials are not quoted."""
    assert (
        urls_refusal(text)
        == "must begin with http:// or https:// and a host, without parameters or credentials in them"
    )


@pytest.mark.parametrize("text", ["http://h/#a", "http://h/{a}#{a}", "http://h?q=1#x"])
def test_a_template_has_no_fragment(text):
    """What is never sent does not belong into a template."""
    assert urls_refusal(text) == "a fragment is not sent: leave it out"


@pytest.mark.parametrize(
    ("text", "at"),
    [("a}b", 2), ("{a}}", 4), *((f"{{{name}", 1) for name in ("", "}", "a b}", "1}", "a", "a.b}", "a!r}"))],
)
def test_a_lone_brace_is_refused_with_its_place(text, at):
    """What is neither a name in braces nor a doubled brace is told by its character."""
    with pytest.raises(ValueError) as caught:
        Template(text)
    brace = text[at - 1]
    assert str(caught.value) == f"{brace!r} at character {at} is not a parameter: write {{name}}, or {brace * 2}"


def test_a_template_knows_its_names():
    """The names are those of the places, each once."""
    assert Template("{a}{_b2}x{a}{{c}}").names == {"a", "_b2"}
    assert UrlTemplate("http://h/{p}?{q}").names == {"p", "q"}
    assert JsonTemplate({"k": ["{a}", {"{no}": "x{b}"}], "n": 1}).names == {"a", "b"}


@settings(deadline=None)
@given(
    st.text(st.characters())
    | st.sampled_from(["a\r\nHost: evil", "a\n", "a\0", "\u00e4", "\u202e", "\ud800", "\x7f", "\t"])
)
def test_a_header_takes_visible_ascii_and_nothing_else(value):
    """A value goes into a header as it is, or is refused: none adds a line."""
    template = HeaderTemplate("v={a};")
    if all(" " <= character <= "~" for character in value):
        assert template.expand({"a": value}) == f"v={value};"
    else:
        assert refusal(template, a=value) == "params.a: goes into a header: visible ASCII only"


@pytest.mark.parametrize("value", ["x", 1, 1.5, True, None, [], {"a": [1]}, '"}', "{b}", ""])
def test_a_body_s_lone_place_takes_the_value_with_its_type(value):
    """A string that is one place becomes the JSON value itself, whatever it holds."""
    body = JsonTemplate({"k": "{a}", "l": ["{a}"], "n": None}).expand({"a": value, "b": "no"})
    assert body == {"k": value, "l": [value], "n": None}
    assert type(body["k"]) is type(value)


def test_a_body_s_text_takes_the_value_as_text():
    """A place among other text is text, and what the value holds stays inside of it."""
    body = JsonTemplate({"k": 'a "{a}" b', "{a}": "{{a}}", "e": ""}).expand({"a": '", "x": 1, "{a}'})
    assert body == {"k": 'a "", "x": 1, "{a}" b', "{a}": "{a}", "e": ""}
    assert JsonTemplate(["n={a}"]).expand({"a": True}) == ["n=true"]


@settings(deadline=None)
@given(HOSTILE.filter(is_text), HOSTILE.filter(is_text))
def test_no_value_leaves_its_field_of_a_form(one, other):
    """A form reads back as the same fields with the same values."""
    text = encode_form({"a": Template("{x}"), "b&c=": Template("-{y}")}, {"x": one, "y": other})
    assert parse_qsl(text, keep_blank_values=True, strict_parsing=True) == [("a", one), ("b&c=", f"-{other}")]
    assert text.isascii()


def test_a_form_takes_no_lone_surrogate():
    """What is no Unicode text is an invalid request in a form too."""
    with pytest.raises(InvalidRequest):
        encode_form({"a": Template("{x}")}, {"x": "\ud800"})


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("0.00001", "0.00001"), ("1e16", "10000000000000000"), ("1E-7", "0.0000001"), ("1.10", "1.10"),
        ("-0.0", "-0.0"), ("-0", "-0"), ("9007199254740993", "9007199254740993"),
        ("0.29999999999999998", "0.29999999999999998"),
        ("1.5e3", "1500"), ("true", "true"), ("12e-1", "1.2"), ("1" + "0" * 30, "1" + "0" * 30),
    ],
)  # fmt: skip
def test_numbers_stand_in_a_url_as_plain_decimals(written, sent):
    """As they were written, and without an exponent, which many servers do not read."""
    value = strictjson.loads(written.encode(), exact=True)
    assert UrlTemplate("http://h/{n}?n={n}").expand({"n": value}) == f"http://h/{sent}?n={sent}"


@pytest.mark.parametrize(("value", "sent"), [(1e-05, "0.00001"), (1e16, "10000000000000000"), (1e22, "1" + "0" * 22)])
def test_numbers_of_python_stand_in_a_url_as_plain_decimals(value, sent):
    """The same for a number that never was JSON: a default of sources.toml."""
    assert UrlTemplate("http://h/{n}").expand({"n": value}) == f"http://h/{sent}"


@pytest.mark.parametrize(
    ("text", "value", "url"),
    [
        ("http://h/?sku={sku*}", ["a", 1, True, "b&c=d"], "http://h/?sku=a&sku=1&sku=true&sku=b%26c%3Dd"),
        ("http://h/p?x=1&a[]={sku*}&y={n}", ["", "ä"], "http://h/p?x=1&a[]=&a[]=%C3%A4&y=7"),
        ("http://h/{n}?sku={sku*}", "one", "http://h/7?sku=one"),
        ("http://h/items/{sku*}/x", ["a", "b,c", 1.5], "http://h/items/a,b%2Cc,1.5/x"),
        ("http://h/v-{sku*}.json?q={n}", ["a"], "http://h/v-a.json?q=7"),
        ("http://h/{sku*}?sku={sku*}", ["a", "b"], "http://h/a,b?sku=a&sku=b"),
    ],
)
def test_a_list_repeats_its_field_of_a_query_and_has_commas_in_a_path(text, value, url):
    """RFC 6570's explode: each value is escaped by itself."""
    assert UrlTemplate(text).expand({"sku": value, "n": 7}) == url
    assert UrlTemplate(text).lists == {"sku"}


@settings(deadline=None)
@given(st.lists(HOSTILE.filter(is_text), min_size=1, max_size=4))
def test_no_value_of_a_list_leaves_its_field(values):
    """Queries and forms read back as the same values."""
    query = urlsplit(UrlTemplate("http://h/?a={x*}&last=1").expand({"x": values})).query
    form = encode_form({"a": Template("{x*}"), "last": Template("1")}, {"x": values})
    for text in (query, form):
        fields = parse_qsl(text, keep_blank_values=True, strict_parsing=True)
        assert fields == [*(("a", value) for value in values), ("last", "1")]


@pytest.mark.parametrize("value", [["a/b"], ["a", ""], ["%2e%2e/"], ["ok", "a\nb"]])
def test_a_list_s_value_stays_in_its_path_segment(value):
    """What one value may not do, none of a list may."""
    assert refusal(UrlTemplate("http://h/{sku*}"), sku=value).startswith("params.sku: ")
    assert (
        refusal(
            UrlTemplate("http://h/{sku*}"),
            sku=[
                "..",
            ],
        )
        == "params: sku would make a path segment of dots"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "params.sku: is an empty list: give one value at least"),
        (["a", None], "params.sku[1]: must be a string, number or boolean, not null"),
        ([["a"]], "params.sku[0]: must be a string, number or boolean, not an array"),
        ([{}], "params.sku[0]: must be a string, number or boolean, not an object"),
        (["\ud800"], "params.sku[0]: is not valid Unicode"),
        (None, "params.sku[0]: must be a string, number or boolean, not null"),
        (Raw(["a" * MAX_LIST], "an array"), "params.sku: is a list of 65540 bytes; at most 65536 are allowed here"),
    ],
)  # fmt: skip
def test_a_list_of_what_is_no_text_is_refused(value, reason):
    """The reason names the parameter and the place in the list."""
    for template in (UrlTemplate("http://h/{sku*}"), UrlTemplate("http://h/?sku={sku*}")):
        assert refusal(template, sku=value) == reason
    with pytest.raises(InvalidRequest) as caught:
        encode_form({"sku": Template("{sku*}")}, {"sku": value})
    assert str(caught.value) == reason


def test_a_list_parsed_elsewhere_is_a_list():
    """A request of thousands of values leaves them as text."""
    value = Raw(["a", 1.5], "an array")
    assert UrlTemplate("http://h/?sku={sku*}").expand({"sku": value}) == "http://h/?sku=a&sku=1.5"
    assert JsonTemplate({"k": "{sku*}"}).expand({"sku": value}) == {"k": value}


@pytest.mark.parametrize(
    ("value", "sent"), [(["a", {"n": 1}], ["a", {"n": 1}]), ("a", ["a"]), (1, [1]), (None, [None]), ([[]], [[]])]
)
def test_a_body_has_the_list_itself(value, sent):
    """An array of any values; one value is a list of one."""
    template = JsonTemplate({"k": ["{sku*}", "{n}"]})
    assert template.expand({"sku": value, "n": 1}) == {"k": [sent, 1]}
    assert (template.names, template.lists) == ({"sku", "n"}, {"sku"})
    assert refusal(template, sku=[]) == "params.sku: is an empty list: give one value at least"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (UrlTemplate, "http://h/?{sku*}"),
        (UrlTemplate, "http://h/?a=x{sku*}"),
        (UrlTemplate, "http://h/?a={sku*}x"),
        (UrlTemplate, "http://h/?a={sku*}{b}"),
        (UrlTemplate, "http://h/?{n}={sku*}"),
        (Template, "x{sku*}"),
        (HeaderTemplate, "{sku*}"),
        (lambda text: JsonTemplate({"k": text}), "{sku*},"),
    ],
)
def test_a_list_where_none_can_be_is_refused(template, text):
    """The configuration is at fault, and names the place."""
    with pytest.raises(ValueError, match=r"^\{sku\*\} is a list: "):
        template(text)


def test_a_list_beside_a_plain_place_of_its_name_is_refused_there():
    """A place without the asterisk takes one value, as ever."""
    reason = refusal(UrlTemplate("http://h/{sku}?sku={sku*}"), sku=["a"])
    assert reason == "params.sku: must be a string, number or boolean, not an array"


@pytest.mark.parametrize("number", ["1e-999999999", "0e-999999999", "1e-99999999999999999999999", "1.0E-4001",
                                    "1e-" + "9" * 5_000])  # fmt: skip
def test_a_number_of_a_billion_digits_is_refused(number):
    """Twelve bytes of a request would become a gigabyte of zeros."""
    with pytest.raises(InvalidRequest, match="has too many digits"):
        as_text("n", strictjson.loads(number.encode(), exact=True))
