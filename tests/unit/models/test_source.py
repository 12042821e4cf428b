from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checks import Call
from models.errors import InvalidRequest
from models.request import SOURCE_SCHEMA, Request
from models.source import Limits, Param, Source, Sources
from models.strictjson import Raw
from models.template import HeaderTemplate, JsonTemplate, Template, UrlTemplate
from models.url import MAX_URL

QUOTES = Source("quotes", UrlTemplate("http://h:81/{symbol}?page={page}"), params={"page": Param(default=1)})
"""A source with one parameter that must be given and one with a default."""


def ask(**members):
    """Return a request for a source, as one that was read."""
    return Request(source="quotes", schema=members.pop("schema", SOURCE_SCHEMA), **members)


def expand(source, /, **params):
    return source.expand(ask(params=params))


def refusal(source, request):
    with pytest.raises(InvalidRequest) as caught:
        source.expand(request)
    return str(caught.value)


def test_a_request_becomes_what_its_source_says():
    """URL, method, headers, body, schema, checks and deadline are the source's, with the parameters in their places."""
    source = Source(
        "quotes",
        UrlTemplate("http://h/{a}?b={b}"),
        method="PUT",
        headers={"X-A": HeaderTemplate("<{a}>"), "Accept": HeaderTemplate("text/plain")},
        body=JsonTemplate({"n": "{n}", "all": "{a} {b} {n}"}),
        schema="text",
        checks=(Call("one"),),
        timeout=7.0,
    )
    asked = source.expand(ask(params={"a": "x", "b": "&", "n": 5}, max_age=3.0))
    assert asked == Request(
        url="http://h/x?b=%26",
        source="quotes",
        params={},
        method="PUT",
        headers={"X-A": "<x>", "Accept": "text/plain"},
        body={"n": 5, "all": "x & 5"},
        schema="text",
        checks=(Call("one"),),
        timeout=7.0,
        max_age=3.0,
    )


def test_a_source_of_little_asks_for_little():
    """A URL alone is a GET without headers and body, loaded as JSON."""
    asked = Source("quotes", UrlTemplate("http://h/")).expand(ask())
    assert asked == Request(url="http://h/", source="quotes")


def test_what_the_request_wishes_comes_first():
    """Schema and deadline of the request hold before the source's."""
    asked = dataclasses.replace(QUOTES, schema="text", timeout=7.0).expand(
        ask(params={"symbol": "A"}, schema="page", timeout=0.5)
    )
    assert (asked.schema, asked.timeout) == ("page", 0.5)


def test_a_function_gets_the_parameters():
    """A source that calls has no URL; its parameters stay, with defaults filled in and with their types."""
    source = Source("quotes", call="m:f", params={"a": Param(), "b": Param(default=2)})
    asked = expand(source, a=[None, {"x": 1}])
    assert (asked.url, asked.params) == (None, {"a": [None, {"x": 1}], "b": 2})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "POST"),
        ("method", "HEAD"),
        ("headers", {"A": "b"}),
        ("body", {}),
        ("body", ""),
        ("body", 0),
        ("body", False),
    ],
)
def test_a_request_for_a_source_has_no_say_in_how_it_is_sent(name, value):
    """Method, headers and body of a request for a source are refused, also empty ones, not ignored."""
    told = refusal(QUOTES, ask(params={"symbol": "A"}, **{name: value}))
    assert told == f"{name}: only the source 'quotes' sets it"


def test_a_request_that_says_what_holds_anyway_is_taken():
    """GET, no headers and no body are what a request says that says nothing."""
    assert QUOTES.expand(ask(params={"symbol": "A"}, method="GET", headers={}, body=None)).url == "http://h:81/A?page=1"


def test_a_missing_parameter_is_told():
    """A parameter without a default must be given; with one it need not be."""
    assert refusal(QUOTES, ask()) == "params.symbol: missing: the source 'quotes' needs it"
    assert expand(QUOTES, symbol="A").url == "http://h:81/A?page=1"
    assert expand(QUOTES, symbol="A", page=2).url == "http://h:81/A?page=2"


def test_a_false_default_is_a_default():
    """Zero, false and the empty text stand for what is not given."""
    source = Source("quotes", UrlTemplate("http://h/?{a}&{b}&{c}"),
                    params={"a": Param(default=0), "b": Param(default=False), "c": Param(default="")})  # fmt: skip
    assert expand(source).url == "http://h/?0&false&"


def test_an_unknown_parameter_is_told_with_the_known_ones():
    """A name that the source does not have is refused, and cut to a length for the message."""
    assert refusal(QUOTES, ask(params={"symbol": "A", "pgae": 1})) == (
        "params.pgae: is not a parameter of the source 'quotes'; known: page, symbol"
    )
    told = refusal(Source("quotes", UrlTemplate("http://h/")), ask(params={"x" * 10_000: 1}))
    assert told == f"params.{'x' * 60}: is not a parameter of the source 'quotes'; known: it takes none"


def test_a_null_is_no_way_to_ask_for_the_default():
    """A parameter that is given as null is not the same as one not given."""
    assert refusal(QUOTES, ask(params={"symbol": "A", "page": None})).startswith("params.page: must be a string")


@pytest.mark.parametrize("place", ["a{p}/b", "?q={p}", "?q=x{p}y"])
def test_a_url_that_gets_too_long_is_refused(place):
    """The length of the URL counts with everything in its place and escaped; its limit is still fine."""
    source = Source("quotes", UrlTemplate(f"http://h/{place}"))
    room = MAX_URL - len(f"http://h/{place}") + len("{p}")
    assert len(expand(source, p="x" * room).url) == MAX_URL
    for value in ("x" * (room + 1), "\u00e4" * (room // 6 + 1), " " * (room // 3 + 1), "x" * 100_000):
        told = refusal(source, ask(params={"p": value}))
        assert re.fullmatch(rf"params: the URL that they make has \d+ characters; at most {MAX_URL} are allowed", told)


@settings(deadline=None)
@given(st.text(max_size=20), st.sampled_from([None, "[a-z]{1,3}"]), st.sampled_from([(), ("a", "bc", 1)]))
def test_a_parameter_is_what_its_source_allows(value, pattern, one_of):
    """A value gets through exactly if the whole of it matches the pattern and it is one of those named."""
    param = Param(pattern=re.compile(pattern) if pattern else None, one_of=one_of)
    allowed = (not pattern or re.fullmatch(pattern, value)) and (not one_of or value in ("a", "bc"))
    try:
        param.check("p", value)
    except InvalidRequest as exc:
        told = str(exc)
    else:
        told = ""
    assert (told == "") is bool(allowed)
    assert told == "" or told in ("params.p: must be one of a, bc, 1", f"params.p: does not match {pattern}")


@pytest.mark.parametrize("value", ["abc\n", "\nabc", "abcd", "ABC", "", "\uff11"])
def test_a_pattern_is_for_the_whole_value(value):
    """Neither a line break at the end nor text around what matches gets through."""
    source = dataclasses.replace(
        QUOTES, params={"symbol": Param(pattern=re.compile("[a-z]{3}$"))}, url=UrlTemplate("http://h/?{symbol}")
    )
    assert refusal(source, ask(params={"symbol": value})) == "params.symbol: does not match [a-z]{3}$"


def test_a_pattern_looks_at_numbers_too():
    """Numbers and booleans are matched as they would be written; null, arrays and objects match nothing."""
    param = Param(pattern=re.compile("[0-9]|true"))
    for value in (7, "7", True, "true"):
        param.check("p", value)
    for value in (77, False, 1.0, None, [7], {}):
        with pytest.raises(InvalidRequest, match=r"^params\.p: "):
            param.check("p", value)


@pytest.mark.parametrize("one_of", [(1,), (True,), ("1",), (1.0,), (1, "a"), ("true", True)])
def test_one_of_goes_by_type_too(one_of):
    """1, 1.0, true and "1" are four values."""
    param = Param(one_of=one_of)
    for value in (1, True, "1", 1.0, "true", None, [1]):
        if any(value is each or (value == each and type(value) is type(each)) for each in one_of):
            param.check("p", value)
        else:
            with pytest.raises(InvalidRequest, match="must be one of"):
                param.check("p", value)


def test_a_default_is_held_to_the_rules():
    """A default that is not allowed is refused as if it were given."""
    source = dataclasses.replace(QUOTES, params={"page": Param(default="z", one_of=("a",))})
    assert refusal(source, ask(params={"symbol": "A"})) == "params.page: must be one of a"


def test_checks_are_merged():
    """The source's checks come first, then the request's own; one that is named twice runs once."""
    one, two, three = Call("a"), Call("a", "f"), Call("b", None, {"x": [1]})
    source = dataclasses.replace(QUOTES, checks=(one, three))
    asked = source.expand(ask(params={"symbol": "A"}, checks=(two, three, Call("b", None, {"x": [2]}))))
    assert asked.checks == (one, three, two, Call("b", None, {"x": [2]}))


def test_checks_with_arguments_of_other_types_are_others():
    """A check with true is not the source's check with 1: its sender waits for a verdict."""
    source = dataclasses.replace(QUOTES, checks=(Call("a", None, {"x": 1}),))
    asked = source.expand(ask(params={"symbol": "A"}, checks=(Call("a", None, {"x": True}),)))
    assert len(asked.checks) == 2


def test_a_form_is_written_and_named():
    """A form's fields are escaped, and its type is told to the upstream."""
    form = {"q": Template("{p}"), "x y": Template("&")}
    asked = expand(Source("quotes", UrlTemplate("http://h/"), method="POST", form=form), p="a=b&c \u00e4\r\n")
    assert asked.body == "q=a%3Db%26c+%C3%A4%0D%0A&x+y=%26"
    assert asked.headers == {"Content-Type": "application/x-www-form-urlencoded"}


def test_a_form_has_one_content_type():
    """Header names have no case: two types of one body are one too many."""
    headers = {"content-type": HeaderTemplate("application/x-www-form-urlencoded; charset=utf-8")}
    asked = expand(dataclasses.replace(QUOTES, method="POST", form={"q": Template("x")}, headers=headers), symbol="A")
    assert len({name.lower() for name in asked.headers}) == len(asked.headers)


@pytest.mark.parametrize("value", ["a\r\nHost: evil", "a\n", "\u00e4", "\0", "\ud800"])
def test_no_parameter_breaks_out_of_a_header(value):
    """What a header cannot hold is an invalid request."""
    source = Source("quotes", UrlTemplate("http://h/"), headers={"X": HeaderTemplate("{p}")})
    assert refusal(source, ask(params={"p": value})) == "params.p: goes into a header: visible ASCII only"


def test_a_header_that_gets_too_long_is_refused():
    """A header of a source has the bound that one of a request has."""
    source = Source("quotes", UrlTemplate("http://h/"), headers={"X": HeaderTemplate("{p}")})
    refusal(source, ask(params={"p": "x" * 500_000}))


def test_parameters_are_those_of_all_places():
    """URL, body, headers, form and the table of parameters all name parameters."""
    source = Source("s", UrlTemplate("http://h/{a}"), headers={"X": HeaderTemplate("{b}")}, body=JsonTemplate(["{c}"]),
                    form={"f": Template("{d}")}, params={"e": Param()})  # fmt: skip
    assert source.names == {"a", "b", "c", "d", "e"}


def test_sources_are_found_by_name():
    """A request gets its source and what it becomes; another name is refused with the known ones."""
    sources = Sources({"quotes": QUOTES, "b": QUOTES}, {"h": Limits(1)})
    asked, source = sources.expand(ask(params={"symbol": "A"}))
    assert (asked.url, source) == ("http://h:81/A?page=1", QUOTES)
    with pytest.raises(InvalidRequest, match=r"^source: no source 'nope'; known: b, quotes$"):
        sources.expand(Request(source="nope"))
    with pytest.raises(InvalidRequest, match=r"known: none; MILLRACE_SOURCES names the file that declares them$"):
        Sources().expand(Request(source="nope"))


@pytest.mark.parametrize("limit", [{"one_of": ("a", "b")}, {"pattern": re.compile("[ab]")}])
def test_each_value_of_a_list_is_what_its_source_allows(limit):
    """A limit is for the values, wherever the list goes; a parameter that takes no list is checked as a whole."""
    body = JsonTemplate({"k": "{sku*}"})
    for source in (Source("quotes", UrlTemplate("http://h/?sku={sku*}")), Source("quotes", body=body, method="POST")):
        limited = dataclasses.replace(source, params={"sku": Param(**limit)})
        assert (limited.names, limited.lists) == ({"sku"}, {"sku"})
        for value in (["a", "b"], "a", Raw(["b"], "an array")):
            expand(limited, sku=value)
        assert refusal(limited, ask(params={"sku": ["a", "c"]})).startswith("params.sku[1]: ")
        assert refusal(limited, ask(params={"sku": "c"})).startswith("params.sku: ")
        assert refusal(limited, ask(params={"sku": []})).startswith("params.sku: is an empty list")
    plain = Source("quotes", UrlTemplate("http://h/{sku}"), params={"sku": Param(**limit)})
    assert refusal(plain, ask(params={"sku": ["a"]})).startswith("params.sku: ")
