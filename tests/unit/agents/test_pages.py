"""Answers in pages: one document of all items, whose pages are each fetched as carefully as a redirect's target."""

from __future__ import annotations

import json

import pytest

from agents.answer.pages import _Reading
from agents.testing import AsyncHarness, Reply
from models.errors import Unreachable
from models.expression import Expression
from models.pages import Pages
from models.request import Request
from streams.config.settings import Settings
from streams.http.policy import UpstreamPolicy

BASE = "https://api.example.com/items"
LINKED = 'next = "links.next", items = "data", limit = 3'
AUTH = 'auth = { type = "header", header = "X-Api-Key", key = { env = "PAGES_KEY" } }\nheaders.X-Tenant = "t7"'


def source(pages, more=""):
    return f'[sources.items]\nurl = "{BASE}"\npages = {{ {pages} }}\n{more}\n'


def page(items, following=None, **headers):
    return Reply({"data": items, "links": {"next": following}}, headers=headers)


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("PAGES_KEY", "key-of-pages")


async def ask(replies, pages=LINKED, more="", settings=None, times=1):
    """Return the results of a request that is sent so often, and the URLs that the upstream got."""
    async with AsyncHarness(replies, sources=source(pages, more), settings=settings) as service:
        results = [await service.answer({"source": "items"}) for _ in range(times)]
        return results, service.requests


async def outcome(*arguments, **options):
    [result], asked = await ask(*arguments, **options)
    return result["outcome"], result["document"] if "document" in result else result["error"]["message"], len(asked)


async def test_links_in_the_body_lead_to_one_document():
    """Relative and absolute ones; the result shows the first URL and counts all requests; the document is cached."""
    replies = {
        BASE: page([1, 2], "?p=2"),
        f"{BASE}?p=2": page([3], "https://api.example.com/more"),
        "https://api.example.com/more": page([]),
    }
    [first, again], asked = await ask(replies, times=2)
    assert (first["outcome"], first["document"], first["attempts"]) == ("ok", [1, 2, 3], 3)
    assert first["request"]["url"] == BASE
    assert (again["cache"], len(asked)) == ("hit", 3)


async def test_a_link_header_leads_on():
    """As RFC 8288 has it."""
    link = {"Link": f'<{BASE}?p=2>; rel="next", <{BASE}?p=9>; rel="last"'}
    replies = {BASE: Reply([1], headers=link), f"{BASE}?p=2": Reply([2])}
    assert await outcome(replies, "link = true") == ("ok", [1, 2], 2)


async def test_a_cursor_goes_into_the_query():
    """It is escaped, replaced from page to page, and ends where there is none."""
    replies = {
        BASE: Reply({"rows": [1], "cursor": "a&b"}),
        f"{BASE}?after=a%26b": Reply({"rows": [2], "cursor": 7}),
        f"{BASE}?after=7": Reply({"rows": [3], "cursor": None}),
    }
    assert await outcome(replies, 'next = "cursor", param = "after", items = "rows"') == ("ok", [1, 2, 3], 3)


@pytest.mark.parametrize(
    ("pages", "urls"),
    [
        ('param = "page"', ["?page=1", "?page=2", "?page=3"]),
        ('param = "page", first = 0', ["?page=0", "?page=1", "?page=2"]),
        ('param = "offset", first = 0, step = 2', ["?offset=0", "?offset=2", "?offset=4"]),
    ],
)
async def test_numbered_pages_end_with_an_empty_one(pages, urls):
    """By number or offset, from the first one on."""
    replies = dict(zip((BASE + each for each in urls), (Reply([1, 2]), Reply([3]), Reply([])), strict=True))
    assert await outcome(replies, pages) == ("ok", [1, 2, 3], 3)


async def test_more_pages_than_allowed_are_too_large():
    """Nothing is cut off silently, unless the source says so."""
    replies = {BASE: page([1], "?p=2"), f"{BASE}?p=2": page([2], "?p=3"), f"{BASE}?p=3": page([3], "?p=4")}
    assert await outcome(replies) == ("too_large", "page 3: the answer has more than 3 pages (pages.limit)", 3)
    assert await outcome(replies, LINKED + ", truncate = true") == ("ok", [1, 2, 3], 3)


async def test_bytes_are_counted_over_all_pages():
    """`max_bytes` is that of the answer, whichever page exceeds it."""
    replies = {BASE: page(["x" * 600], "?p=2"), f"{BASE}?p=2": page(["x" * 600])}
    assert await outcome(replies, more="max_bytes = 1000") == (
        "too_large", "page 2: the pages have more than 1000 bytes in all", 2
    )  # fmt: skip


@pytest.mark.parametrize("pages", [("?p=2", "?p=2"), ("?p=2", "/items"), ("/items", None)])
async def test_pages_that_lead_back_are_noticed(pages):
    """A loop is an error of the upstream, not an endless answer."""
    first, second = pages
    replies = {BASE: page([1], first), f"{BASE}?p=2": page([2], second)}
    found, message, asked = await outcome(replies)
    assert (found, "one that was read already" in message, asked) == (
        "upstream_error",
        True,
        1 if second is None else 2,
    )


async def test_an_upstream_that_ignores_the_number_is_noticed():
    """It would give the first page again and again."""
    found = await outcome({f"{BASE}?page=1": Reply([1]), f"{BASE}?page=2": Reply([1])}, 'param = "page"')
    assert found == ("upstream_error", "page 2: the page repeats the one before", 2)


async def test_a_page_that_fails_fails_the_whole():
    """After retries as usual; the error says which page, and attempts count all of them."""
    replies = {BASE: page([1], "?p=2"), f"{BASE}?p=2": [Reply(status=503), Reply(status=404)]}
    [result], asked = await ask(replies)
    assert (result["outcome"], result["status"], result["attempts"]) == ("upstream_error", 404, 3)
    assert result["error"]["message"] == "page 2: api.example.com answered 404 Not Found"
    assert len(asked) == 3


async def test_a_page_that_is_partial_fails_the_whole():
    """A 206 to a GET without Range is an error on whichever page it is: items are missing."""
    for statuses in ((206, 200), (200, 206)):
        first, last = (Reply([number], status=status) for number, status in enumerate(statuses))
        found = await outcome(
            {f"{BASE}?page=1": first, f"{BASE}?page=2": last, f"{BASE}?page=3": Reply([])}, 'param = "page"'
        )
        number = "page 2: " if statuses[1] == 206 else ""
        assert found[:2] == (
            "upstream_error", f"{number}api.example.com answered 206 Partial Content to a request without Range"
        )  # fmt: skip


def test_after_a_page_something_was_sent():
    """A POST whose second page could not be had is not repeated as one of which nothing was sent."""
    reading = _Reading(
        Request(url=BASE, method="POST"), Pages(Expression("items", document=True), param="page"), UpstreamPolicy(1), {}
    )
    error = Unreachable("refused")
    error.unsent, error.attempts = True, 1
    assert reading.failed(error.copied()).unsent
    reading._attempts = 1
    failed = reading.failed(error)
    assert (failed.attempts, failed.unsent) == (2, False)


async def test_a_page_is_retried_by_itself():
    """What was read already is not read again."""
    replies = {BASE: page([1], "?p=2"), f"{BASE}?p=2": [Reply(status=503), page([2])]}
    assert await outcome(replies) == ("ok", [1, 2], 3)


async def test_a_page_that_is_none_is_invalid_with_its_beginning():
    """The error shows what came instead."""
    [result], _ = await ask({BASE: page([1], "?p=2"), f"{BASE}?p=2": Reply({"oops": 1})})
    assert (result["outcome"], result["error"]["body"]) == ("invalid_document", '{"oops":1}')
    assert result["error"]["message"] == "page 2: pages.items (data): finds null, not an array"


@pytest.mark.parametrize(
    ("link", "ended"),
    [
        ("http://api.example.com/2", "denied"),
        ("file:///etc/passwd", "denied"),
        ("https://127.0.0.1/2", "denied"),
        ("https://api.example.com:8443/2", "denied"),
        ("https://a:b@api.example.com/2", "denied"),
        ("https://", "upstream_error"),
        ("https://other.example.com/?k=key-of-pages", "invalid_document"),  # as is any answer that repeats them
    ],
)
async def test_the_next_page_is_judged_like_a_redirect(link, ended):
    """Private addresses, other ports and schemes, and credentials that would leave are refused."""
    found, message, asked = await outcome({BASE: page([1], link)}, more=AUTH)
    assert (found, asked) == (ended, 1), message


async def test_credentials_stay_with_the_source():
    """Another origin gets neither them nor the source's headers; nor does the source's, once a link led elsewhere."""
    replies = {
        BASE: page([1], "/2"),
        "https://api.example.com/2": page([2], "https://other.example.com/3"),
        "https://other.example.com/3": page([3], f"{BASE}?p=4"),
        f"{BASE}?p=4": page([4], "?p=5"),
        f"{BASE}?p=5": page([5]),
    }
    [result], asked = await ask(replies, LINKED.replace("3", "9"), AUTH)
    assert result["document"] == [1, 2, 3, 4, 5]
    assert [each.headers.get("x-api-key") for each in asked] == ["key-of-pages", "key-of-pages", None, None, None]
    assert [each.headers.get("x-tenant") for each in asked] == ["t7", "t7", None, None, None]


async def test_a_link_is_relative_to_where_its_page_came_from():
    """After a redirect to another origin that is the base, and the source's credentials are not for it."""
    replies = {
        BASE: Reply(status=302, headers={"Location": "https://cdn.example.com/a/1"}),
        "https://cdn.example.com/a/1": page([1], "2"),
        "https://cdn.example.com/a/2": page([2]),
    }
    [result], asked = await ask(replies, more=AUTH)
    assert result["document"] == [1, 2]
    assert [each.headers.get("x-api-key") for each in asked] == ["key-of-pages", None, None]


@pytest.mark.parametrize("place", [1, 2])
async def test_the_shortest_life_of_the_pages_is_that_of_the_document(place):
    """One page that may not be stored keeps the whole from being cached."""
    control = [{"Cache-Control": "max-age=60"}, {"Cache-Control": "max-age=60"}]
    control[place - 1] = {"Cache-Control": "no-store"}
    replies = {BASE: page([1], "?p=2", **control[0]), f"{BASE}?p=2": page([2], **control[1])}
    results, asked = await ask(replies, times=2)
    assert ([each["cache"] for each in results], len(asked)) == (["miss", "miss"], 4)


async def test_large_pages_share_one_reservation_of_memory():
    """With one each, an answer of many pages would wait for itself."""
    replies = {BASE: page(["x" * 90_000], "?p=1")}
    for number in range(1, 9):
        following = f"?p={number + 1}" if number < 8 else None
        chunk = json.dumps({"data": [f"{number}{'x' * 90_000}"], "links": {"next": following}}).encode()
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk)
        replies[f"{BASE}?p={number}"] = Reply(body, headers={"Transfer-Encoding": "chunked"})
    [result], _ = await ask(replies, LINKED.replace("3", "20"), settings=Settings(timeout=5))
    assert (result["outcome"], len(result["document"])) == ("ok", 9)


async def test_a_post_repeats_its_body():
    """A search whose pages are numbered."""
    text = 'method = "POST"\nbody = { q = 1 }\ncache.ttl = 60'
    replies = {f"{BASE}?page=1": Reply([1]), f"{BASE}?page=2": Reply([])}
    _, asked = await ask(replies, 'param = "page"', text)
    assert [(each.method, each.body) for each in asked] == [("POST", b'{"q":1}')] * 2
    assert [each.headers.get("idempotency-key") for each in asked] == [None] * 2  # they are two questions
