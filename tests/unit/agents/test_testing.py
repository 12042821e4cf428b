"""The harness: what its upstream says, what it leaves out, and that what it runs is a worker's own."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from types import SimpleNamespace

import aiohttp
import pytest

from agents.testing import AsyncHarness, Harness, Reply, answer, answer_async, replay
from agents.testing.wire import Loop
from models import checks
from models.errors import SettingsError
from streams.config.settings import Settings

URL = "https://example.com/"
REQUEST = {"url": URL}


def outcome(reply, **members):
    """Answer one request to an upstream that says this; returns outcome and document or message."""
    result = answer(REQUEST | members, {URL: reply})
    return result["outcome"], result["document"] if "document" in result else result["error"]["message"]


@pytest.fixture
def check():
    """Register checks for one test."""
    before = set(checks.names())
    yield checks.check
    for name in set(checks.names()) - before:
        del checks.registry._REGISTRY[name]


def test_a_request_is_answered_without_sockets(socket_disabled):
    """With every socket forbidden, those of event loops included, a result comes, checks and all."""
    request = {"id": "a", "url": URL, "checks": [{"name": "is_prime", "field": "n"}]}
    result = answer(request, {URL: {"n": 7}})
    assert (result["id"], result["outcome"], result["cache"]) == ("a", "ok", "miss")
    assert (result["document"], result["checks"][0]["value"]) == ({"n": 7}, True)


@pytest.mark.parametrize(
    ("reply", "schema", "said"),
    [
        ({"a": [1, None]}, "json", {"a": [1, None]}),
        (None, "json", None),
        (12.5, "json", 12.5),
        (Reply([1]), "json", [1]),
        ("grüß", "text", "grüß"),
        (b'{"b": 2}', "json", {"b": 2}),
        (lambda asked: {"was": asked.method}, "json", {"was": "GET"}),
        (lambda _: [1, 2], "json", [1, 2]),
        (Reply(gzip.compress(b"[3]"), headers={"Content-Encoding": "gzip"}), "json", [3]),
        (Reply('4\r\n["a"\r\n1\r\n]\r\n0\r\n\r\n', headers={"Transfer-Encoding": "chunked"}), "json", ["a"]),
        (Reply("<title>T</title>", headers={"Content-Type": "text/html"}), "page",
         {"size": 16, "media_type": "text/html", "title": "T"}),
        (b"x" * 3_000_000, "page", {"size": 3_000_000, "media_type": "application/octet-stream"}),
        (gzip.compress(b"x", mtime=0), "page", {"size": 21, "media_type": "application/octet-stream"}),
        (Reply(gzip.compress(b"x" * 6_000_000), headers={"Content-Encoding": "gzip"}), "page",
         {"size": 6_000_000, "media_type": "application/octet-stream"}),
        ("plain", "page", {"size": 5, "media_type": "text/plain"}),
        ({}, "page", {"size": 2, "media_type": "application/json"}),
        (Reply(status=204), "page", {"size": 0, "media_type": "application/octet-stream"}),
        ([{"only": 1}], "json", {"only": 1}),
    ],
)  # fmt: skip
def test_what_the_upstream_says_is_what_is_loaded(reply, schema, said):
    """Each way to say something arrives as HTTP would bring it."""
    assert outcome(reply, schema=schema) == ("ok", said)


@pytest.mark.parametrize(
    ("reply", "ended"),
    [
        (ConnectionRefusedError, ("unreachable", "example.com cannot be connected to: Connection refused")),
        (ConnectionResetError(), ("unreachable", "the connection to example.com broke: ClientOSError")),
        (socket.gaierror(-4, "unknown"), ("unreachable", "example.com cannot be resolved: unknown")),
        (OSError(113, "No route to host"), ("unreachable", "example.com cannot be connected to: No route to host")),
        (TimeoutError, ("timeout", "example.com did not answer in time")),
        (aiohttp.ServerDisconnectedError(),
         ("unreachable", "the connection to example.com broke: ServerDisconnectedError")),
        (Reply(b"ab", headers={"Content-Length": "9"}),
         ("unreachable", "example.com broke off in the middle of the body")),
        (Reply(status=404), ("upstream_error", "example.com answered 404 Not Found")),
        (Reply(status=799), ("upstream_error", "example.com answered 799")),
        (Reply(status=302, headers={"Location": "http://127.0.0.1/"}), ("denied", None)),
        (Reply(b"x", headers={"Content-Length": "99999999"}), ("too_large", None)),
        ("no json", ("invalid_document", None)),
    ],
)  # fmt: skip
def test_what_goes_wrong_ends_as_it_does_in_a_worker(reply, ended):
    """Connections that fail, statuses and bodies become the outcomes and messages that a network would make of them."""
    expected, message = ended
    found, told = outcome(reply)
    assert found == expected
    assert message in (None, told)


def test_retries_do_not_wait():
    """Four tries, with a Retry-After among them, take no time; the answer counts them."""
    began = time.monotonic()
    replies = [Reply(status=503, headers={"Retry-After": "5"}), Reply(status=502), ConnectionRefusedError, {"n": 1}]
    result = answer(REQUEST, {URL: replies})
    assert (result["outcome"], result["attempts"]) == ("ok", 4)
    assert time.monotonic() - began < 1


def test_a_pause_past_the_deadline_is_refused_as_ever():
    """An upstream that wants a longer rest than the request has is not asked again."""
    replies = [Reply(status=503, headers={"Retry-After": "60"}), {"n": 1}]
    with Harness({URL: replies}) as service:
        assert service.answer(REQUEST)["outcome"] != "ok"
        assert len(service.requests) == 1


def test_sources_retries_do_not_wait_either():
    """A source's own pauses are left out like the worker's."""
    sources = (
        '[sources.s]\nurl = "https://example.com/{a}"\nretry = { attempts = 2, first_pause = 60, longest_pause = 60 }'
    )
    began = time.monotonic()
    result = answer({"source": "s", "params": {"a": "x"}}, {URL + "x": [Reply(status=500), 1]}, sources=sources)
    assert (result["document"], result["attempts"]) == (1, 2)
    assert time.monotonic() - began < 1


def test_what_the_test_says_nothing_of_fails_the_test():
    """Asking for an unknown URL is an AssertionError that tells what was asked and what is known, not a result."""
    with pytest.raises(AssertionError) as caught:
        answer({"url": "https://example.com/b?c=1"}, {URL: 1, "POST https://example.com/b?c=1": 2})
    assert "GET https://example.com/b?c=1" in str(caught.value)
    assert "any method https://example.com/" in str(caught.value)
    assert "POST https://example.com/b?c=1" in str(caught.value)


@pytest.mark.parametrize("reply", [lambda _: 1 / 0, ZeroDivisionError(), [ZeroDivisionError]])
def test_a_mistake_of_the_test_is_raised_in_the_test(reply):
    """What is no failure of a network is raised where it can be seen, whatever became of the request."""
    with pytest.raises(ZeroDivisionError):
        answer(REQUEST, {URL: reply})


def test_a_mistake_behind_the_back_of_an_answer_is_raised_at_the_end():
    """Also what nobody waited for, such as a refresh, does not get lost."""
    harness = Harness({URL: 1})
    with pytest.raises(ZeroDivisionError), harness:
        harness._harness._upstream.faults.append(ZeroDivisionError())


def test_a_mistake_is_raised_by_the_very_request():
    """Each request that goes wrong fails where it is made, and the next one is none the worse."""
    with Harness({URL: 1}) as service:
        with pytest.raises(AssertionError, match=r"GET https://elsewhere\.example/"):
            service.answer({"url": "https://elsewhere.example/"})
        assert service.answer(REQUEST)["document"] == 1


def test_a_loop_that_was_woken_waits_again():
    """One wake-up is one: the loop does not spin ever after."""
    loop = Loop()
    try:
        loop._write_to_self()
        loop._idle.select(None)
        assert not loop._idle.woken.is_set()
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ("https://example.com", "https://example.com/"),
        ("https://example.com/", "https://example.com"),
        ("https://EXAMPLE.com:443/a%7eb?q=%20#f", "https://example.com/a~b?q=%20"),
        ("https://example.com?x=1", "https://example.com/?x=1"),
        ("http://example.com:80/ü", "http://example.com/%C3%BC"),
    ],
)
def test_urls_are_compared_by_what_they_mean(asked, known):
    """However a URL is written, in a request or in a test, it is found."""
    assert answer({"url": asked}, {known: 1})["document"] == 1


@pytest.mark.parametrize("key", ["example.com", "ftp://example.com/", "GET", "/path", "GET /path"])
def test_a_key_that_is_no_url_is_a_mistake(key):
    """A key that nothing could ever ask for is told when it is given."""
    with pytest.raises(ValueError, match="invalid upstream"):
        answer(REQUEST, {key: 1})


def test_an_empty_list_is_a_mistake():
    """A list without replies is told when it is given, with what a JSON array would be."""
    with pytest.raises(ValueError, match=r"Reply\(\[\]\)"):
        answer(REQUEST, {URL: []})


def test_what_was_asked_is_told():
    """Method, URL, headers and body are there as they went out, and which reply was for which method."""
    upstream = {URL: 1, f"POST {URL}": lambda asked: asked.json()}
    with Harness(upstream) as service:
        result = service.answer(REQUEST | {"method": "POST", "body": {"q": "ü"}, "headers": {"X-A": "b"}})
        assert result["document"] == {"q": "ü"}
        assert service.answer(REQUEST)["document"] == 1
        first, second = service.requests
    assert (first.method, first.url, first.headers["x-a"], first.json()) == ("POST", URL, "b", {"q": "ü"})
    assert first.headers["idempotency-key"] == "requests-0-0"
    assert (second.method, second.body) == ("GET", b"")


def test_several_requests_share_one_cache():
    """The second one is a hit, as in a worker, and the upstream is asked once."""
    with Harness({URL: {"n": 1}}) as service:
        assert [service.answer(REQUEST)["cache"] for _ in range(3)] == ["miss", "hit", "hit"]
        assert len(service.requests) == 1


async def test_requests_at_the_same_time_are_coalesced():
    """In a coroutine several can be asked at once; who comes second waits for the first."""
    async with AsyncHarness({URL: {"n": 1}}) as service:
        results = await asyncio.gather(*(service.answer(REQUEST) for _ in range(3)))
    assert sorted(result["cache"] for result in results) == ["coalesced", "coalesced", "miss"]


async def test_one_request_is_answered_in_a_coroutine():
    """The asynchronous form answers on the loop that runs."""
    assert (await answer_async(REQUEST, {URL: 1}))["document"] == 1


async def test_the_plain_form_in_a_coroutine_says_what_to_use():
    """It cannot block the loop that runs; which names can be awaited is told."""
    with pytest.raises(RuntimeError, match="use AsyncHarness or answer_async"):
        answer(REQUEST, {URL: 1})


@pytest.mark.parametrize("request_", [b"\xff", "{}", None, b'{"id":"x"}', {"url": URL, "schema": "nope"}])
def test_what_is_no_request_gets_its_result(request_):
    """Bytes, text, objects and tombstones all go the way of a record from Kafka."""
    assert answer(request_)["outcome"] == "invalid_request"


def test_key_and_headers_are_the_record_s():
    """A CloudEvents id in the headers is the result's."""
    assert answer(REQUEST, {URL: 1}, key=b"k", headers={"ce_id": "event-1"})["id"] == "event-1"


def test_a_result_that_kafka_would_not_take_is_too_large():
    """What passes a topic's usual limit becomes what a worker makes of it."""
    result = answer(REQUEST | {"schema": "text"}, {URL: "x" * 1_200_000})
    assert result["outcome"] == "too_large"


def test_a_check_works_on_values_of_its_own(check):
    """What a check does to its value is not seen in the document, as if it ran in another process."""

    @check
    def spoil(value):
        value["n"] = "spoilt"
        return True

    assert outcome({"n": 1}, checks=["spoil"]) == ("ok", {"n": 1})


def test_a_check_that_prints_fails_and_one_that_exits_too(check, capsys):
    """What would fail in a process of the pool fails here, and nothing reaches stdout."""

    @check
    def talk(value):
        print("hello")

    @check
    def leave(value):
        raise SystemExit(3)

    for name in ("talk", "leave"):
        result = answer(REQUEST | {"checks": [name]}, {URL: 1})
        assert result["outcome"] == "check_error", name
    assert capsys.readouterr().out == ""


def test_a_check_that_is_too_slow_fails(check, monkeypatch):
    """A check that takes longer than a worker lets it is told so."""
    monkeypatch.setattr("agents.testing.doubles.CHECK_TIMEOUT", 0.0)
    result = answer(REQUEST | {"checks": ["sha256"]}, {URL: 1})
    assert (result["outcome"], result["checks"][0]["error"]) == ("check_error", "ran longer than 0 s")


def test_sources_are_a_file_or_a_text(tmp_path):
    """A path is read; what is wrong with it is told as by a worker."""
    (tmp_path / "sources.toml").write_text('[sources.s]\nurl = "https://example.com/"')
    assert answer({"source": "s"}, {URL: 1}, sources=tmp_path / "sources.toml")["document"] == 1
    with pytest.raises(SettingsError, match=r"sources: line 2: sources\.s\.url"):
        answer({"source": "s"}, sources='[sources.s]\nurl = "nowhere"')


def test_a_source_that_is_a_function_is_called_in_its_thread():
    """Threads wake the loop that has no socket to be woken by."""
    result = answer(
        {"source": "f", "params": {"month": 2, "year": 2024}}, sources='[sources.f]\ncall = "calendar:monthrange"'
    )
    assert (result["outcome"], result["document"]) == ("ok", [3, 29])


def test_tokens_are_fetched_from_the_upstream_too(monkeypatch):
    """Credentials are the client's own work: the token endpoint is one more URL."""
    monkeypatch.setenv("QUOTES_SECRET", "secret-1")
    sources = """
    [sources.s]
    url = "https://example.com/"
    [sources.s.auth]
    type = "client_credentials"
    token_url = "https://login.example.com/token"
    client_id = "me"
    client_secret = { env = "QUOTES_SECRET" }
    """
    upstream = {URL: lambda asked: asked.headers["authorization"],
                "POST https://login.example.com/token": {"access_token": "t-123456", "expires_in": 60}}  # fmt: skip
    result = answer({"source": "s", "schema": "text"}, upstream, sources=sources)
    assert result["outcome"] == "invalid_document", "an upstream that repeats the token is refused"


def test_settings_are_those_given(monkeypatch):
    """The environment says nothing to a test; what is given holds."""
    monkeypatch.setenv("MILLRACE_ALLOW_NETWORKS", "127.0.0.0/8")
    local = {"url": "http://127.0.0.1/"}
    assert answer(local)["outcome"] == "denied"
    assert answer(local, {local["url"]: 1}, settings=Settings(allow_networks="127.0.0.0/8"))["outcome"] == "ok"
    assert answer(REQUEST, {URL: "abc"}, settings=Settings(max_bytes=2))["outcome"] == "too_large"


def test_through_a_proxy_the_upstream_is_asked_all_the_same():
    """A proxy in the settings is not there: what goes through it comes to the upstream as it is meant."""
    settings = Settings(proxy="http://proxy.example:3128")
    for url in (URL, "http://example.com/a?b"):
        assert answer({"url": url}, {url: 1}, settings=settings)["document"] == 1


LETTER = {
    "key": "k",
    "value": '{"url":"https://example.com/acme"}',
    "headers": {"tenant": "t1", "__dlq.errors.topic": "requests", "__dlq.errors.partition": "3",
                "__dlq.errors.offset": "17", "__dlq.errors.id": "r7", "__dlq.errors.outcome": "timeout"},
}  # fmt: skip
FLAT = [text for pair in LETTER["headers"].items() for text in pair]
RECORDED = {
    "a mapping": LETTER,
    "pairs": {**LETTER, "headers": list(LETTER["headers"].items())},
    "JSON": json.dumps(LETTER),
    "kcat -J": json.dumps({"topic": "dead-letters", "key": "k", "payload": LETTER["value"], "headers": FLAT}),
    "a record": SimpleNamespace(key=b"k", value=LETTER["value"].encode(),
                                headers=[(name, text.encode()) for name, text in LETTER["headers"].items()]),
}  # fmt: skip


@pytest.mark.parametrize("form", RECORDED)
def test_a_recorded_dead_letter_is_answered_again(form):
    """With its own id, in whichever form it was recorded."""
    result = replay(RECORDED[form], {"https://example.com/acme": {"n": 1}})
    assert (result["id"], result["outcome"], result["document"]) == ("r7", "ok", {"n": 1})


def test_a_dead_letter_is_read_from_a_file_too(tmp_path):
    """As a path, like sources."""
    file = tmp_path / "letter.json"
    file.write_text(json.dumps(LETTER))
    assert replay(file, {"https://example.com/acme": {"n": 1}})["id"] == "r7"


def test_a_dead_letter_of_a_route_goes_through_its_route():
    """The letter names it; what the route publishes comes back."""
    sources = """
        [sources.risk]
        url = "http://10.0.0.7:8080/{id}"
        [routes.orders]
        topics = ["orders"]
        results = "enriched"
        [[routes.orders.lookups]]
        source = "risk"
        params = { id = "value.id" }
        into = "risk"
    """
    headers = LETTER["headers"] | {"__dlq.errors.route": "orders", "__dlq.errors.topic": "orders"}
    letter = {**LETTER, "value": '{"id":"c1"}', "headers": headers}
    [published] = replay(letter, {"http://10.0.0.7:8080/c1": 5}, sources=sources)
    assert (published.topic, published.key, published.value) == ("enriched", b"k", b'{"id":"c1","risk":5}')
    assert published.headers["tenant"] == b"t1"
    with pytest.raises(KeyError, match="no route 'orders' in the sources; there are: none"):
        replay(letter)


@pytest.mark.parametrize(
    ("letter", "reason"),
    [
        ({"key": None, "value": "{}", "headers": {}}, "it lacks the headers of a dead letter"),
        ({**LETTER, "value": None}, "its record had no value"),
        (7, "a int is not a dead letter: it needs key, value and headers"),
    ],
)
def test_what_could_not_be_redriven_is_not_answered_again(letter, reason):
    """The error says why."""
    with pytest.raises(ValueError, match=reason):
        replay(letter)


def test_internal_upstreams_of_the_test_answer_without_settings():
    """Addresses and ports of its replies are allowed, and no others; given settings are taken as they are."""
    internal = {"url": "http://10.0.0.7:8080/x"}
    assert answer(internal, {internal["url"]: 1})["document"] == 1
    assert answer({"url": "http://[::1]:9000/"}, {"http://[::1]:9000/": 1})["outcome"] == "ok"
    assert answer({"url": "http://10.0.0.8:8080/x"}, {internal["url"]: 1})["outcome"] == "denied"
    assert answer({"url": "http://10.0.0.7:8081/x"}, {internal["url"]: 1})["outcome"] == "denied"
    assert answer(internal, {internal["url"]: 1}, settings=Settings())["outcome"] == "denied"


def test_headers_are_found_whatever_the_case_of_their_names():
    """As HTTP has it."""
    with Harness({URL: 1}) as service:
        service.answer({"url": URL, "headers": {"X-Tenant": "t1"}})
        [request] = service.requests
    assert request.headers["X-Tenant"] == request.headers["x-tenant"] == "t1"
    assert "USER-AGENT" in request.headers
