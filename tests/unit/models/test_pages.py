"""What a page holds, and where it says that the next one is."""

from __future__ import annotations

import pickle

import pytest

from models.documents import Body
from models.errors import InvalidDocument
from models.expression import Expression
from models.pages import Page, Pages, next_link, read_large_page, read_page, with_field


def pages(items="data", following="next", **members):
    return Pages(Expression(items, document=True), following and Expression(following, document=True), **members)


def read(text, of=None):
    return read_page(Body(text.encode(), "application/json"), of or pages())


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ('{"data": [1.10, {"a": 1}], "next": "/2"}', Page(b'1.10,{"a":1}', "/2")),
        ('{"data": [], "next": null}', Page(b"", None)),
        ('{"data": [0]}', Page(b"0", None)),
        ('{"data": [0], "next": ""}', Page(b"0", None)),
        ('{"data": [0], "next": false}', Page(b"0", None)),
        ('{"data": [0], "next": 12}', Page(b"0", "12")),
        ('{"data": [0], "next": 12345678901234567890}', Page(b"0", "12345678901234567890")),
    ],
)
def test_a_page_has_items_and_perhaps_a_next_one(text, page):
    """Digits stay; what says nothing is the end."""
    assert read(text) == page
    assert pickle.loads(read_large_page(text.encode(), "application/json", None, "data", "next")) == tuple(page)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"data": null}', "pages.items (data): finds null, not an array"),
        ('{"data": {}}', "pages.items (data): finds an object, not an array"),
        ('{"data": [], "next": {}}', "pages.next (next): finds an object, not a link or cursor"),
        ('{"data": [], "next": true}', "pages.next (next): finds a boolean, not a link or cursor"),
        ('{"data": [], "next": 1e-99999}', "pages.next (next): finds a number with too many digits"),
        ("[1", "not JSON: Expecting ',' delimiter at line 1, column 3"),
    ],
)
def test_a_page_without_them_is_invalid(text, reason):
    """The reason names the setting and its expression."""
    with pytest.raises(InvalidDocument) as caught:
        read(text)
    assert str(caught.value) == reason


def test_the_whole_page_may_be_the_items():
    """An array as the answer, with the links in a header."""
    assert read("[1, 2]", pages("@", None, link=True)) == Page(b"1,2")


@pytest.mark.parametrize(
    ("header", "link"),
    [
        ('<https://h/?page=2>; rel="next"', "https://h/?page=2"),
        ('<https://h/?p=1>; rel="prev", <https://h/?p=3>; rel="next"', "https://h/?p=3"),
        ("</2>; rel=next", "/2"),
        ("</2>;rel=NEXT", "/2"),
        ('</2>; REL="last next"', "/2"),
        ('</2?a=1,2>; title="a, <b>; rel=\\"next\\""; rel=next, </3>; rel=next', "/2?a=1,2"),
        ('</1>; title="</x>; rel=next"; rel=first, </2>; rel="next"', "/2"),
        ("< /2 >  ;  rel = next", "/2"),
        (", ,</2>; rel=next", "/2"),
        ('</2>; rel=first; rel="next"', None),
        ('</2>; rel="nextish"', None),
        ('</2>; rel=next; anchor="#a"', None),
        ("</2>", None),
        ("", None),
        ("nonsense", None),
        ('</2>; rel="next', None),
        ("</2; rel=next", None),
        ("</2>; rel=next" + "x" * 20_000, None),
    ],
)
def test_the_next_link_of_a_header(header, link):
    """By RFC 8288: commas and brackets in quotes mean nothing, the first `rel` counts, relations are words."""
    assert next_link(header) == link


@pytest.mark.parametrize(
    "header", ["<" * 16_000, '<a>;"' * 3_200, "<a>;" + 'a="\\' * 4_000, "," * 16_000, "<>;a=" * 3_000]
)
def test_a_hostile_header_takes_little_time(header):
    """It is looked at once, from left to right."""
    assert next_link(header) is None


@pytest.mark.parametrize(
    ("url", "value", "made"),
    [
        ("https://h/x", "2", "https://h/x?page=2"),
        ("https://h/x?a=1", "2", "https://h/x?a=1&page=2"),
        ("https://h/x?page=1&a=%2F&page=9", "2", "https://h/x?a=%2F&page=2"),
        ("https://h/x?%70age=1", "a&b=c d", "https://h/x?page=a%26b%3Dc%20d"),
        ("https://h/x?", "2", "https://h/x?page=2"),
    ],
)
def test_a_field_of_a_query_is_set(url, value, made):
    """Other fields stay byte for byte, and a value cannot break out of its field."""
    assert with_field(url, "page", value) == made
