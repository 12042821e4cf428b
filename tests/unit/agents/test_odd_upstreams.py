"""What upstreams of the field do that a request meets through all layers, with a worker's own code."""

from __future__ import annotations

import gzip

import pytest

from agents.testing import Harness, Reply

URL = "https://u.example/x"


def test_a_cached_post_is_asked_again_without_conditions():
    """A server must answer 412 to a POST whose If-None-Match fits (RFC 9110, section 13.1.2): the document that was
    fresh a moment ago would become an error.
    """
    conditions = []

    def search(request):
        conditions.append([name for name in request.headers if name.lower().startswith("if-")])
        return Reply({"n": len(conditions)}, headers={"ETag": '"v1"', "Cache-Control": "max-age=0"})

    sources = f'[sources.s]\nurl = "{URL}"\nmethod = "POST"\ncache.ttl = 60\n'
    with Harness({URL: search}, sources=sources) as service:
        for number in (1, 2):
            result = service.answer({"source": "s"})
            assert (result["outcome"], result["document"]) == ("ok", {"n": number})
    assert conditions == [[], []]


@pytest.mark.parametrize("charset", ["ISO-8859-1", "binary", "utf8mb4"])
def test_json_read_as_text_is_utf_8(charset):
    """Whatever its charset parameter says (RFC 8259, section 11), as with `json`; true Latin-1 bytes may fall back."""
    kind = {"Content-Type": f"application/json; charset={charset}"}
    with Harness({URL: Reply('{"n":"Zoë"}', headers=kind)}) as service:
        assert service.answer({"url": URL, "schema": "text"})["document"] == '{"n":"Zoë"}'
    with Harness({URL: Reply('{"n":"Zoë"}'.encode("latin-1"), headers=kind)}) as service:
        result = service.answer({"url": URL, "schema": "text"})
        assert result.get("document") == ('{"n":"Zoë"}' if charset == "ISO-8859-1" else None)


def test_a_piece_is_asked_for_uncompressed():
    """Ranges are of what is sent (RFC 9110, section 14.2): a piece of compressed bytes cannot be read."""
    whole = b"0123456789" * 10

    def ranged(request):
        named = {name.lower(): value for name, value in request.headers.items()}
        packed = "gzip" in named["accept-encoding"]
        body = gzip.compress(whole) if packed else whole
        return Reply(body[:20], 206, {"Content-Type": "text/plain", **({"Content-Encoding": "gzip"} if packed else {})})

    with Harness({URL: ranged}) as service:
        result = service.answer({"url": URL, "headers": {"Range": "bytes=0-19"}, "schema": "text"})
        assert (result["status"], result["document"]) == (206, whole[:20].decode())


def test_a_header_that_a_source_names_is_told_after_a_redirect_too():
    """Its tag is not that of the URL which was asked, so it revalidates nothing; it is told all the same."""
    conditions = []

    def there(request):
        conditions.append([name for name in request.headers if name.lower().startswith("if-")])
        return Reply({}, headers={"ETag": '"b"', "Cache-Control": "max-age=0"})

    replies = {URL: Reply(b"", 302, {"Location": "/there"}), "https://u.example/there": there}
    sources = f'[sources.s]\nurl = "{URL}"\nresponse_headers = ["ETag"]\n'
    with Harness(replies, sources=sources) as service:
        for _ in range(2):
            assert service.answer({"source": "s"})["headers"] == {"etag": '"b"'}
    assert conditions == [[], []]


@pytest.mark.parametrize(
    ("method", "status", "body"), [("POST", 201, b" "), ("DELETE", 200, b"\r\n"), ("PUT", 200, b"\t")]
)
def test_a_body_of_blanks_is_none(method, status, body):
    """Some frameworks render nothing so: a dead letter would invite to make the change again."""
    with Harness({URL: Reply(body, status)}) as service:
        result = service.answer({"url": URL, "method": method})
        assert (result["outcome"], "document" in result) == ("ok", False)
    with Harness({URL: Reply(body)}) as service:
        assert service.answer({"url": URL})["outcome"] == "invalid_document"


def test_a_page_without_content_is_the_last():
    """Where pages are numbered, whoever has no more may say 204."""
    replies = {f"{URL}?page=1": {"items": [1, 2]}, f"{URL}?page=2": Reply(b"", 204)}
    sources = f'[sources.s]\nurl = "{URL}"\npages = {{ items = "items", param = "page", first = 1 }}\n'
    with Harness(replies, sources=sources) as service:
        assert service.answer({"source": "s"})["document"] == [1, 2]
