"""Credentials of a source, shown to a real upstream; tokens of a real issuer; and where neither must ever go."""

from __future__ import annotations

import asyncio
import base64
import codecs
import gzip
import html
import json
import socket
import time
import traceback
from dataclasses import replace
from functools import partial
from urllib.parse import parse_qsl, quote, quote_plus

import pytest
from aiohttp import web
from yarl import URL

from models.errors import AnswerError, Denied, InvalidDocument, Unreachable, UpstreamError
from models.source import ApiKey, Basic, Bearer, ClientCredentials, Limits, Retries, Secret, Source
from streams.config.settings import DEFAULT_MAX_REDIRECTS
from streams.config.validators import parse_networks
from streams.http.auth import Fixed, Token
from streams.http.client import Client
from streams.http.guard import Guard
from streams.http.policy import policy_of
from streams.oauth import FAILED_FOR
from streams.sources import parse
from tests.fakes import Clock
from tests.unit.streams.test_client import LIMIT, LOOPBACK, ONCE, at

pytestmark = pytest.mark.slow

KEY = 'k3y/with+odd=chars&"'
"""A secret that reads differently in JSON, in a URL and in a form."""
SECRET = Secret("env", "TEST_SECRET")
LOGIN = base64.b64encode(f"me:{KEY}".encode()).decode()

KINDS = {
    "none": {},
    "basic": {"auth": Basic("me", SECRET)},
    "bearer": {"auth": Bearer(SECRET)},
    "header": {"auth": ApiKey("header", "X-Api-Key", SECRET)},
    "query": {"auth": ApiKey("query", "api_key", SECRET)},
    "own header": {"secret_headers": {"X-Own": SECRET}},
    "both": {"auth": Bearer(SECRET), "secret_headers": {"X-Own": SECRET}},
}
"""What a source says, by the kind of its credentials."""
SHOWN = {
    "none": {},
    "basic": {"Authorization": f"Basic {LOGIN}"},
    "bearer": {"Authorization": f"Bearer {KEY}"},
    "header": {"X-Api-Key": KEY},
    "query": {"api_key": KEY},
    "own header": {"X-Own": KEY},
    "both": {"Authorization": f"Bearer {KEY}", "X-Own": KEY},
}
"""What its upstream is to be shown, whether in a header or in the query."""
SECRETIVE = [name for name in KINDS if name != "none"]


def shown(seen):
    """Return the credentials that a request had, whether in a header or in the query."""
    names = ("Authorization", "X-Api-Key", "X-Own")
    query = URL(seen.path, encoded=True).query
    return {name: seen.headers[name] for name in names if name in seen.headers} | {
        name: query[name] for name in query if name == "api_key"
    }


def told(seen):
    """Say whether a request has the secret anywhere, in any spelling."""
    text = f"{seen.path} {dict(seen.headers)} {seen.body.decode()}"
    return any(spelling in text for spelling in (KEY, quote_plus(KEY), quote(KEY), quote(KEY, safe=""), LOGIN))


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("TEST_SECRET", KEY)


@pytest.fixture
async def client(upstream):
    guard = Guard(parse_networks("127.0.0.0/8,::1/128"), LOOPBACK.ports)  # localhost has both
    async with Client(LIMIT, guard, retry=ONCE) as client:
        yield client


def policy(client, kind="bearer", **source):
    return policy_of(Source("s", **KINDS[kind], **source), client.policy, client.post)


async def failure(client, url, error, kind="bearer"):
    """Return the error that a fetch ends in, which has no spelling of the secret."""
    with pytest.raises(error) as caught:
        await client.fetch("GET", url, {}, policy=policy(client, kind))
    assert type(caught.value) is error
    text = json.dumps(caught.value.describe())
    assert [part for part in ("k3y", "odd", LOGIN) if part in text] == []
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
async def test_the_upstream_is_shown_the_credentials(client, upstream, kind):
    """Each kind puts its secret where it belongs and nowhere else; the rest of the request stays as it is."""
    url = at(upstream, "/a%2Fb?c=%26d")
    response = await client.fetch("POST", url, {"X-Rest": "1"}, "text", policy=policy(client, kind))
    (seen,) = upstream.seen
    assert shown(seen) == SHOWN[kind]
    assert seen.path.startswith("/a%2Fb?c=%26d")
    assert (seen.headers["X-Rest"], seen.body, response.status) == ("1", b"text", 200)
    assert (seen.path == "/a%2Fb?c=%26d") is (kind != "query")


@pytest.mark.parametrize("path", ["/", "/?", "/a?b", "/a?b=&"])
async def test_a_key_goes_behind_whatever_query_there_is(client, upstream, path):
    """A URL with and without a query of its own gets the key as one parameter more."""
    await client.fetch("GET", f"{upstream.url.origin()}{path}", {}, policy=policy(client, "query"))
    assert shown(upstream.seen[0]) == SHOWN["query"]
    assert upstream.seen[0].path.count("?") == 1


async def test_a_plain_request_is_shown_nothing(client, upstream):
    """Credentials are those of their source: who asks the same host without it has none."""
    await client.fetch("GET", at(upstream), {}, policy=policy(client))
    await client.fetch("GET", at(upstream), {})
    assert [shown(seen) for seen in upstream.seen] == [SHOWN["bearer"], {}]


@pytest.mark.parametrize("kind", ["bearer", "header"])
async def test_credentials_stand_in_place_of_a_header_of_their_name(client, upstream, kind):
    """However the request writes it, the upstream gets one header of that name, and that is the source's."""
    [(name, value)] = SHOWN[kind].items()
    await client.fetch("GET", at(upstream), {name.lower(): "own"}, policy=policy(client, kind))
    assert upstream.seen[0].headers.getall(name) == [value]


async def test_a_401_to_what_stays_the_same_is_not_asked_again(client, upstream):
    """Other credentials than these there are none, so once is enough."""
    upstream.answers["/"] = {"status": 401}
    error = await failure(client, at(upstream), UpstreamError)
    assert (error.status, error.attempts, len(upstream.seen)) == (401, 1, 1)


@pytest.mark.parametrize("kind", ["file", "env"])
async def test_a_secret_that_is_not_there_is_told_by_its_place(client, tmp_path, monkeypatch, kind):
    """Without its secret a source has no policy; the message names where it should be."""
    monkeypatch.delenv("TEST_SECRET")
    place = Secret(kind, "TEST_SECRET" if kind == "env" else str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"TEST_SECRET is not set|none' cannot be read: No such file"):
        policy_of(Source("s", auth=Bearer(place)), client.policy, client.post)


async def test_a_secret_from_a_file_is_sent_without_its_line_end(client, upstream, tmp_path):
    """Editors end files with a line break, which is no part of the secret."""
    (tmp_path / "token").write_text(f"{KEY}\r\n")
    source = Source("s", auth=Bearer(Secret("file", str(tmp_path / "token"))))
    await client.fetch("GET", at(upstream), {}, policy=policy_of(source, client.policy, client.post))
    assert shown(upstream.seen[0]) == SHOWN["bearer"]


@pytest.mark.parametrize("text", ["two\r\nX-Injected: 1", "nul\0", "täxt", "tab\t"])
async def test_a_secret_that_cannot_be_sent_is_refused_at_the_start(client, tmp_path, text):
    """What would break out of its header is never sent, and not quoted."""
    (tmp_path / "token").write_text(f"x{text}x", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds characters that cannot be sent") as caught:
        policy_of(Source("s", auth=Bearer(Secret("file", str(tmp_path / "token")))), client.policy, client.post)
    assert text not in str(caught.value)


@pytest.mark.parametrize("name", ["env", "file"])
def test_a_header_may_be_called_env_or_file(name):
    """The table of headers is one of headers, whatever the only one in it is called."""
    _, wrong = parse(f'[sources.s]\nurl = "https://example.org/"\nheaders = {{{name} = "production"}}\n'.encode())
    assert wrong == []


# -- redirects


async def test_a_cookie_that_is_a_secret_goes_with_those_that_a_redirect_sets(client, upstream):
    """A load balancer redirects until its own cookie comes back: one header has both (RFC 6265, section 5.4)."""
    seen = []

    async def balanced(request):
        seen.append(request.headers["Cookie"])
        if "lb=1" in seen[-1]:
            return web.Response(text="in")
        return web.Response(status=302, headers={"Location": "/lb", "Set-Cookie": "lb=1"})

    upstream.answers["/lb"] = balanced
    source = Source("s", None, secret_headers={"Cookie": SECRET})
    held = policy_of(source, client.policy, client.post)
    assert (await client.fetch("GET", at(upstream, "/lb"), {}, policy=held)).body.content == b"in"
    assert seen == [KEY, f"{KEY}; lb=1"]


@pytest.mark.parametrize("kind", SECRETIVE)
async def test_a_redirect_within_the_origin_keeps_the_credentials(client, upstream, kind):
    """Another path of the same scheme, host and port is still the source's upstream."""
    upstream.redirect("/old", 302, "/new?x=y")
    await client.fetch("GET", at(upstream, "/old"), {}, policy=policy(client, kind))
    assert [shown(seen) for seen in upstream.seen] == [SHOWN[kind]] * 2


@pytest.mark.parametrize("kind", SECRETIVE)
@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("elsewhere", ["another port", "another host"])
async def test_a_redirect_elsewhere_loses_them_for_good(client, serve, kind, status, elsewhere):
    """Another port or host is shown nothing, in no header (Referer) and no URL; nor is one's own when it sends back."""
    upstream = await serve()
    there = await serve() if elsewhere == "another port" else upstream
    away = at(there, "/away").replace("127.0.0.1", "localhost" if there is upstream else "127.0.0.1")
    upstream.redirect("/old", status, away)
    there.redirect("/away", status, "/further")
    there.redirect("/further", status, at(upstream, "/back"))
    await client.fetch("POST", at(upstream, "/old"), {}, "text", policy=policy(client, kind))
    seen = {each.path.partition("?")[0]: each for each in (*upstream.seen, *there.seen)}
    assert shown(seen["/old"]) == SHOWN[kind]
    assert [path for path in ("/away", "/further", "/back") if told(seen[path])] == []
    assert "Referer" not in seen["/away"].headers


@pytest.mark.parametrize("spelled", ["as it was sent", "in other words"])
async def test_a_location_that_repeats_the_key_is_not_followed_elsewhere(client, serve, upstream, spelled):
    """Many an upstream redirects with the query that it was sent: the key must not go along to another origin."""
    there = await serve()

    async def moved(request):
        query = request.query_string if spelled == "as it was sent" else f"from={quote(KEY, safe='')}"
        return web.Response(status=302, headers={"Location": f"{at(there)}?{query}"})

    upstream.answers["/"] = moved
    with pytest.raises(AnswerError):
        await client.fetch("GET", at(upstream), {}, policy=policy(client, "query"))
    assert [told(seen) for seen in there.seen] == []


async def test_a_location_whose_scheme_is_the_secret_is_not_quoted(client, upstream, monkeypatch):
    """What an upstream makes of a secret, the error does not tell."""
    monkeypatch.setenv("TEST_SECRET", "odd-secret")
    upstream.redirect("/", 302, "odd-secret:x")
    await failure(client, at(upstream), Denied)


async def test_a_key_is_sent_where_the_location_has_a_fragment(client, upstream):
    """A fragment is for whoever reads the document; the key belongs to the query before it."""
    upstream.redirect("/old", 302, "/new#part")
    await client.fetch("GET", at(upstream, "/old"), {}, policy=policy(client, "query"))
    assert [shown(seen) for seen in upstream.seen] == [SHOWN["query"]] * 2


async def test_a_key_is_sent_once_where_the_location_repeats_it(client, upstream):
    """A redirect to the same place with a slash more, query and all, is asked with one key."""

    async def with_slash(request):
        return web.Response(status=301, headers={"Location": f"/new/?{request.query_string}"})

    upstream.answers["/new"] = with_slash
    await client.fetch("GET", at(upstream, "/new"), {}, policy=policy(client, "query"))
    assert upstream.seen[1].path.count("api_key=") == 1


# -- an upstream that tells


SPELLINGS = [
    pytest.param("bearer", KEY, id="as it is"),
    pytest.param("bearer", json.dumps({"headers": {"Authorization": f"Bearer {KEY}"}}), id="JSON"),
    pytest.param("query", f"/?api_key={quote_plus(KEY)}", id="URL"),
    pytest.param("header", KEY, id="header as it is"),
    pytest.param("own header", KEY, id="own header as it is"),
    pytest.param("basic", LOGIN, id="login as it is"),
    pytest.param("basic", quote_plus(LOGIN), id="login in a URL"),
    pytest.param("basic", KEY, id="password alone"),
    pytest.param("bearer", json.dumps(KEY).replace("/", "\\/"), id="PHP's JSON"),
    pytest.param("bearer", json.dumps(KEY).replace("=", "\\u003d"), id="Gson's JSON"),
    pytest.param("bearer", json.dumps(KEY).replace("&", "\\u0026"), id="Go's JSON"),
    pytest.param("query", quote_plus(KEY).lower(), id="URL, small hexadecimals"),  # RFC 3986, section 2.1
    pytest.param("query", quote(KEY, safe="/+=&"), id="URL, as little escaped as can be"),
    pytest.param("query", "".join(f"%{byte:02x}" for byte in KEY.encode()), id="URL, as much escaped as can be"),
    pytest.param("bearer", "".join(f"\\u{byte:04x}" for byte in KEY.encode()), id="JSON, all escaped"),
    pytest.param("bearer", html.escape(KEY), id="HTML"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spelled"), SPELLINGS)
@pytest.mark.parametrize("way", ["plain", "gzip", "chunks"])
async def test_a_document_that_repeats_the_secret_is_refused(client, upstream, kind, spelled, way):
    """However it is spelled, compressed or cut into pieces, what tells the secret is no answer."""
    text = f"<pre>{spelled}</pre>".encode()

    async def echo(request):
        if way != "chunks":
            packed, coding = (gzip.compress(text), {"Content-Encoding": "gzip"}) if way == "gzip" else (text, {})
            return web.Response(body=packed, headers=coding)
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(text), 3):
            await response.write(text[start : start + 3])
        await response.write_eof()
        return response

    upstream.answers["/"] = echo
    error = await failure(client, at(upstream), InvalidDocument, kind)
    assert str(error) == "127.0.0.1 repeats the source's credentials in its answer, which is not passed on"
    assert not error.retryable


async def test_a_document_in_another_charset_is_looked_through_as_well(client, upstream):
    """UTF-16 is read as text like any other, so it is looked through like any other."""
    content = codecs.BOM_UTF16_LE + KEY.encode("utf-16-le")
    upstream.answers["/"] = {"body": content, "headers": {"Content-Type": "text/plain; charset=utf-16"}}
    await failure(client, at(upstream), InvalidDocument)


@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
async def test_a_validator_that_repeats_the_secret_is_refused(client, upstream, name):
    """It would be kept with the answer, also where others read."""
    upstream.answers["/"] = {"body": b"x", "headers": {name: f'"{KEY}"'}}
    await failure(client, at(upstream), InvalidDocument)


async def test_a_content_type_that_repeats_the_secret_is_refused(client, upstream, monkeypatch):
    """A page's document has its media type in it, and an unknown charset is named in the error."""
    monkeypatch.setenv("TEST_SECRET", "odd-secret")
    upstream.answers["/"] = {"body": b"x", "headers": {"Content-Type": "text/plain; charset=odd-secret"}}
    await failure(client, at(upstream), InvalidDocument)


@pytest.mark.parametrize("spelled", ["two+words%2B", "two%20words+", "two words+"])
async def test_a_space_may_be_written_as_a_plus(client, upstream, monkeypatch, spelled):
    """As forms write it, or as URLs do, with the plus signs that are none."""
    monkeypatch.setenv("TEST_SECRET", "two words+")
    upstream.answers["/"] = {"body": spelled.encode()}
    await failure(client, at(upstream), InvalidDocument)


async def test_who_has_no_such_secret_may_be_told_it(client, upstream):
    """The text that is refused to one source is any other text to who has not its credentials."""
    upstream.answers["/"] = {"body": KEY.encode()}
    assert (await client.fetch("GET", at(upstream), {})).body.content == KEY.encode()


async def test_a_short_secret_is_not_looked_for(client, upstream, monkeypatch):
    """Five characters stand in many a document by chance; six are looked for."""
    upstream.answers["/"] = {"body": b"123456"}
    monkeypatch.setenv("TEST_SECRET", "12345")
    assert (await client.fetch("GET", at(upstream), {}, policy=policy(client))).body.content == b"123456"
    monkeypatch.setenv("TEST_SECRET", "123456")
    await failure(client, at(upstream), InvalidDocument)


@pytest.mark.parametrize("kind", SECRETIVE)
async def test_an_error_s_reason_that_repeats_the_secret_is_left_out(client, upstream, kind):
    """The status is told, and of the reason nothing; a harmless one is told."""
    upstream.answers["/"] = {"status": 403, "reason": f"No {KEY}"}
    assert str(await failure(client, at(upstream), UpstreamError, kind)) == "127.0.0.1 answered 403"
    upstream.answers["/"] = {"status": 403, "reason": "No"}
    assert str(await failure(client, at(upstream), UpstreamError, kind)) == "127.0.0.1 answered 403 No"


async def test_a_broken_head_that_repeats_the_secret_is_not_quoted(client, speak):
    """What an upstream sent that is no HTTP is not passed on to whoever reads the error."""
    await failure(client, await speak(f"HTTP/1.1 200 OK\r\nX Echo: Bearer {KEY}\r\n\r\n".encode()), UpstreamError)


async def test_a_traceback_of_the_error_has_no_key_in_it(client, speak):
    """Should an error ever be logged with its causes, the key in the URL is not told by them."""
    error = await failure(client, await speak(b"no HTTP\r\n\r\n"), UpstreamError, "query")
    text = "".join(traceback.format_exception(error))
    assert (KEY in text, quote_plus(KEY) in text) == (False, False)


async def test_neither_terms_nor_source_show_the_secret(client):
    """Whoever logs them tells nothing."""
    for kind in SECRETIVE:
        source = Source("s", **KINDS[kind])
        held = policy_of(source, client.policy, client.post)
        assert [each for each in (KEY, LOGIN) if each in f"{source!r} {held!r} {held.credentials!r}"] == []


# -- OAuth 2, client credentials

LIFE = 3600
"""Seconds that the issuer's tokens live."""
PATIENCE = 5.0
"""Seconds after which a test that hangs has failed."""


class Issuer:
    """A token endpoint and an API that takes its tokens; `asked` are headers and form of each call for a token."""

    def __init__(self, server, api):
        self.server, self.upstream = server, api
        self.url, self.api = at(server, "/token"), at(api, "/api")
        self.asked = []
        self.valid = set()
        self.answer = {}
        self.refusals = 0
        server.answers["/token"] = self.issue
        api.answers["/api"] = self.guarded

    async def issue(self, request):
        """Give a new token, or what `answer` says."""
        self.asked.append((request.headers, dict(parse_qsl((await request.read()).decode(), keep_blank_values=True))))
        answer = await self.answer() if callable(self.answer) else self.answer
        if isinstance(answer, web.Response):
            return answer
        token = f"token/{len(self.asked)}"
        self.valid.add(token)
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": LIFE} | answer)

    async def guarded(self, request):
        """Answer who has a token that is valid; count who has not."""
        if request.headers.get("Authorization", "").removeprefix("Bearer ") in self.valid:
            return web.json_response("in")
        self.refusals += 1
        return web.Response(status=401)

    @property
    def source(self):
        return Source("s", auth=ClientCredentials(self.url, "the client", SECRET))


@pytest.fixture
async def issuer(serve, upstream):
    return Issuer(await serve(), upstream)


def clocked(client, source, clock):
    """Return the policy of a source whose token ends by a clock of the test's."""
    held = policy_of(source, client.policy, client.post)
    post = partial(client.post, client.policy)
    return replace(held, credentials=Token(source.auth, post, Fixed({}, {}, ()), clock))


async def ask(client, issuer, policy, **options):
    async with asyncio.timeout(PATIENCE):
        return await client.fetch("GET", issuer.api, {}, policy=policy, **options)


async def refused(client, issuer, policy, error, **options):
    """Return the error that a request for the API ends in, which has neither secret nor token."""
    with pytest.raises(error) as caught:
        await ask(client, issuer, policy, **options)
    assert type(caught.value) is error
    assert [part for part in ("k3y", "odd", "token/") if part in json.dumps(caught.value.describe())] == []
    return caught.value


async def test_fifty_at_once_share_one_token(client, issuer):
    """One call for a token serves all who come while it is fetched, and all who come later."""
    held = policy_of(issuer.source, client.policy, client.post)
    responses = await asyncio.gather(*(ask(client, issuer, held) for _ in range(50)))
    await ask(client, issuer, held)
    assert {response.body.content for response in responses} == {b'"in"'}
    assert (len(issuer.asked), issuer.refusals) == (1, 0)


@pytest.mark.parametrize("place", ["header", "body"])
async def test_the_client_shows_itself_as_the_issuer_wants_it(client, issuer, place):
    """RFC 6749, section 2.3.1: id and secret go form-encoded into a Basic login, or into the form; and once only."""
    auth = ClientCredentials(issuer.url, "the client", SECRET, "read write", "https://api", place)
    source = Source("s", auth=auth, secret_headers={"X-Own": SECRET})
    await ask(client, issuer, policy_of(source, client.policy, client.post))
    [(headers, form)] = issuer.asked
    form_only = {"grant_type": "client_credentials", "scope": "read write", "audience": "https://api"}
    login = base64.b64encode(f"the+client:{quote_plus(KEY)}".encode()).decode()
    if place == "header":
        assert (headers["Authorization"], form) == (f"Basic {login}", form_only)
    else:
        assert "Authorization" not in headers
        assert form == form_only | {"client_id": "the client", "client_secret": KEY}
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert "X-Own" not in headers, "a header for the API is none for the issuer"
    [seen] = [each for each in issuer.upstream.seen if each.path == "/api"]
    assert shown(seen) == {"Authorization": "Bearer token/1", "X-Own": KEY}


@pytest.mark.parametrize(("life", "lasts"), [(3600, 3570), ("3600", 3570), (60, 48), (10, 8), (None, 270)])
async def test_a_token_is_renewed_before_its_end(client, issuer, life, lasts):
    """30 s before it, of a short life at four fifths; one that says nothing is taken to live 300 s."""
    clock = Clock()

    async def answer():
        if life is not None:
            return {"expires_in": life}
        token = f"token/{len(issuer.asked)}"
        issuer.valid.add(token)
        return web.json_response({"access_token": token})

    issuer.answer = answer
    held = clocked(client, issuer.source, clock)
    await ask(client, issuer, held)
    clock.now += lasts - 0.001
    await ask(client, issuer, held)
    assert len(issuer.asked) == 1
    clock.now += 0.001
    await asyncio.gather(*(ask(client, issuer, held) for _ in range(10)))
    assert (len(issuer.asked), issuer.refusals) == (2, 0)


async def test_a_token_that_is_refused_is_renewed_and_the_request_succeeds(client, issuer):
    """After a 401 the request is sent once more with a new token, which counts as another attempt."""
    held = policy_of(issuer.source, client.policy, client.post)
    await ask(client, issuer, held)
    issuer.valid.clear()
    response = await ask(client, issuer, held)
    assert (response.body.content, response.attempts) == (b'"in"', 2)
    assert (len(issuer.asked), issuer.refusals) == (2, 1)


async def test_a_request_is_sent_again_once_for_a_401(client, issuer):
    """An API that refuses any token is not asked for ever."""
    held = policy_of(issuer.source, client.policy, client.post)
    issuer.api = issuer.api.replace("/api", "/closed")
    issuer.upstream.answers["/closed"] = {"status": 401}
    error = await refused(client, issuer, held, UpstreamError)
    assert (error.status, error.attempts, len(issuer.asked)) == (401, 2, 2)
    assert [shown(seen) for seen in issuer.upstream.seen] == [{"Authorization": f"Bearer token/{n}"} for n in (1, 2)]


async def test_an_api_that_answers_401_for_what_is_forbidden_costs_no_token_each_time(client, issuer):
    """Each would take the good token from all others, and flood the issuer: within a minute one 401 has it renewed."""
    clock = Clock()
    held = clocked(client, issuer.source, clock)
    closed = issuer.api.replace("/api", "/closed")
    issuer.upstream.answers["/closed"] = {"status": 401}
    for _ in range(9):
        with pytest.raises(UpstreamError):
            await client.fetch("GET", closed, {}, policy=held)
        clock.now += 5
    assert (await ask(client, issuer, held)).body.content == b'"in"'
    assert len(issuer.asked) == 2
    clock.now += 20
    with pytest.raises(UpstreamError):
        await client.fetch("GET", closed, {}, policy=held)
    assert len(issuer.asked) == 3


async def test_two_that_are_refused_at_once_fetch_one_token(client, issuer):
    """Of many that meet a 401 with the same token the first gives it up, and all go on with the next."""
    held = policy_of(issuer.source, client.policy, client.post)
    await ask(client, issuer, held)
    issuer.valid.clear()
    together = asyncio.Barrier(5)
    guarded = issuer.guarded

    async def meet(request):
        if request.headers["Authorization"] == "Bearer token/1":
            await together.wait()
        return await guarded(request)

    issuer.upstream.answers["/api"] = meet
    await asyncio.gather(*(ask(client, issuer, held) for _ in range(5)))
    assert (len(issuer.asked), issuer.refusals) == (2, 5)


async def test_a_late_401_does_not_give_up_the_token_that_came_meanwhile(client, issuer):
    """Who was sent with the old token and hears of it late, takes the new one as it is."""
    held = policy_of(issuer.source, client.policy, client.post)
    await ask(client, issuer, held)
    issuer.valid.clear()
    go_on, arrived = asyncio.Event(), asyncio.Event()
    guarded = issuer.guarded

    async def late(request):
        if request.headers["Authorization"] == "Bearer token/1" and not arrived.is_set():
            arrived.set()
            await go_on.wait()
        return await guarded(request)

    issuer.upstream.answers["/api"] = late
    waiting = asyncio.ensure_future(ask(client, issuer, held))
    await asyncio.wait_for(arrived.wait(), PATIENCE)
    await ask(client, issuer, held)
    go_on.set()
    assert (await waiting).body.content == b'"in"'
    assert len(issuer.asked) == 2


@pytest.mark.parametrize(("status", "asked"), [(400, 1), (401, 1), (403, 1), (404, 1), (500, 2)])
async def test_an_issuer_that_refuses_is_the_upstream_s_error(client, issuer, status, asked):
    """What the issuer says is told as its own, is not taken for a 401 of the API, and the API is not asked."""
    client.policy = replace(client.policy, retry=Retries(attempts=2, first_pause=0.001))
    issuer.answer = answering(status=status, reason="No")
    source = replace(issuer.source, retry=Retries(attempts=3, first_pause=0.001))
    error = await refused(client, issuer, policy_of(source, client.policy, client.post), UpstreamError)
    assert (str(error), error.status) == (f"no token: 127.0.0.1 answered {status} No", None)
    assert (len(issuer.asked), issuer.upstream.seen) == (asked, [])
    assert error.attempts == asked, "what is remembered is not tried again"


def answering(**answer):
    """Return what makes an answer anew each time: one cannot be sent twice."""

    async def answered():
        return web.Response(**answer)

    return answered


GARBAGE = [
    b"", b"null", b"[]", b'"token"', b"7", b"{}", b"<html>", b"\xff", b'{"access_token":', b'{"access_token":null}',
    b'{"access_token":7}', b'{"access_token":""}', b'{"access_token":"x","token_type":"mac"}',
    b'{"access_token":"x","token_type":7}', b'{"access_token":"x","token_type":null}',
    b'{"access_token":"x","expires_in":"soon"}', b'{"access_token":"x","expires_in":0}',
    b'{"access_token":"x","expires_in":-1}', b'{"access_token":"x","expires_in":NaN}',
    b'{"access_token":"x","expires_in":"nan"}', b'{"access_token":"x","expires_in":[]}',
    b'{"access_token":"x\\r\\nX-Injected: 1"}', b'{"access_token":"x\\ny"}', b'{"access_token":"x\\u0000"}',
    '{"access_token":"täken"}'.encode(), b'{"access_token":"a","access_token":"b"}',
    pytest.param(b'{"access_token":"x","expires_in":1' + b"0" * 400 + b"}", id="expires_in of 401 digits"),
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_what_is_no_token_is_never_sent(client, issuer, garbage):
    """Whatever else the issuer answers, line breaks in the token included, ends in one error that does not quote it."""
    issuer.answer = answering(body=garbage, content_type="application/json")
    held = policy_of(issuer.source, client.policy, client.post)
    error = await refused(client, issuer, held, UpstreamError)
    assert (str(error), error.retryable) == ("no token: the token endpoint's answer is not a bearer token", False)
    assert (len(issuer.asked), issuer.upstream.seen) == (1, [])


async def test_no_token_from_nobody(client, issuer):
    """An issuer that is not there makes its sources unreachable, by its own name."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        auth = ClientCredentials(f"http://127.0.0.1:{bound.getsockname()[1]}/token", "the client", SECRET)
        held = policy_of(Source("s", auth=auth, retry=ONCE), client.policy, client.post)
        error = await refused(client, issuer, held, Unreachable)
    assert str(error).startswith("no token: 127.0.0.1 cannot be connected to: ")
    assert issuer.upstream.seen == []


async def test_an_issuer_is_judged_like_any_upstream(client, issuer):
    """A token endpoint in a network that is not allowed is not asked."""
    auth = ClientCredentials("http://10.0.0.1/token", "the client", SECRET)
    await refused(client, issuer, policy_of(Source("s", auth=auth), client.policy, client.post), Denied)


async def test_a_failure_is_remembered_for_five_seconds(client, issuer):
    """So long all who want a token get the failure, each an error of its own, and the issuer has a rest."""
    clock = Clock()
    held = clocked(client, issuer.source, clock)
    issuer.answer = answering(status=503)
    first = await refused(client, issuer, held, UpstreamError)
    issuer.answer = {}
    clock.now += FAILED_FOR - 0.001
    later = [await refused(client, issuer, held, UpstreamError) for _ in range(3)]
    assert len({id(error) for error in (first, *later)}) == 4
    assert {(str(error), error.status) for error in later} == {(str(first), None)}
    assert len(issuer.asked) == 1
    clock.now += 0.001
    assert (await ask(client, issuer, held)).status == 200
    assert len(issuer.asked) == 2


async def test_fifty_at_once_meet_one_failure(client, issuer):
    """Who waited for the fetch that failed does not try its own."""
    issuer.answer = answering(status=500)
    held = policy_of(issuer.source, client.policy, client.post)
    ends = await asyncio.gather(*(ask(client, issuer, held) for _ in range(50)), return_exceptions=True)
    assert {type(end) for end in ends} == {UpstreamError}
    assert (len(issuer.asked), len({id(end) for end in ends})) == (1, 50)


async def test_who_gives_up_on_an_issuer_that_hangs_leaves_it_to_the_next(client, issuer):
    """The first one's deadline ends its own wait only; who waited behind it asks for itself, and nothing is stuck."""
    hangs = asyncio.Event()

    async def hang():
        if len(issuer.asked) == 1:
            hangs.set()
            await asyncio.Event().wait()
        return {}

    issuer.answer = hang
    held = policy_of(issuer.source, client.policy, client.post)
    first, second = (asyncio.ensure_future(ask(client, issuer, held)) for _ in range(2))
    await asyncio.wait_for(hangs.wait(), PATIENCE)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).status == 200
    assert len(issuer.asked) == 2


async def test_who_had_no_time_leaves_no_failure_behind(client, issuer):
    """A token that could not be had before one request's deadline may be had before another's."""
    client.policy = replace(client.policy, retry=Retries(attempts=4, first_pause=60.0, longest_pause=60.0))
    issuer.answer = answering(status=503)
    held = policy_of(replace(issuer.source, retry=ONCE), client.policy, client.post)
    assert (await refused(client, issuer, held, UpstreamError, deadline=time.monotonic())).deadline_bound
    issuer.answer = {}
    assert (await ask(client, issuer, held)).status == 200


@pytest.mark.parametrize("gate", ["the host's", "the source's", "the worker's"])
async def test_a_token_of_the_very_same_host_with_one_place_is_no_deadlock(upstream, gate):
    """The token is had before a place is taken, so one place is enough for both, also when it is renewed."""
    issuer = Issuer(upstream, upstream)
    one = Limits(concurrency=1)
    limits = {upstream.url.host_port_subcomponent: one} if gate == "the host's" else None
    source = replace(issuer.source, limits=one if gate == "the source's" else None)
    in_flight = 1 if gate == "the worker's" else 10
    async with Client(LIMIT, LOOPBACK, retry=ONCE, limits=limits, max_in_flight=in_flight) as client:
        held = policy_of(source, client.policy, client.post)
        await asyncio.gather(*(ask(client, issuer, held) for _ in range(10)))
        issuer.valid.clear()
        await asyncio.gather(*(ask(client, issuer, held) for _ in range(10)))
    assert len(issuer.asked) == 2


@pytest.mark.parametrize("repeated", ["token/1", KEY])
async def test_a_document_that_repeats_token_or_secret_is_refused(client, issuer, repeated):
    """Both are looked for, from the very answer that the first token was fetched for."""
    issuer.api = issuer.api.replace("/api", "/echo")
    issuer.upstream.answers["/echo"] = {"body": f"x{repeated}x".encode()}
    await refused(client, issuer, policy_of(issuer.source, client.policy, client.post), InvalidDocument)


@pytest.mark.parametrize("ended", ["by its time", "many times", "by a 401"])
async def test_a_document_that_repeats_the_token_before_is_refused(client, issuer, ended):
    """A token that was renewed while the request was under way is still one that others must not see."""
    clock, go_on, arrived = Clock(), asyncio.Event(), asyncio.Event()

    async def slow(request):
        arrived.set()
        await go_on.wait()
        return web.Response(text=request.headers["Authorization"])

    issuer.upstream.answers["/slow"] = slow
    issuer.answer = {"expires_in": 10} if ended == "many times" else {}
    held = clocked(client, issuer.source, clock)
    asking = asyncio.ensure_future(client.fetch("GET", issuer.api.replace("/api", "/slow"), {}, policy=held))
    await asyncio.wait_for(arrived.wait(), PATIENCE)
    if ended == "by its time":
        clock.now += LIFE
        await ask(client, issuer, held)
    elif ended == "many times":
        for _ in range(9):
            clock.now += 10
            await ask(client, issuer, held)
    else:
        issuer.valid.clear()
        await ask(client, issuer, held)
    go_on.set()
    with pytest.raises(InvalidDocument):
        await asking


async def test_an_issuer_s_reason_that_repeats_the_secret_is_left_out(client, issuer):
    """The client's secret is told by no error, whoever repeats it."""
    issuer.answer = answering(status=401, reason=f"No client has {KEY}")
    await refused(client, issuer, policy_of(issuer.source, client.policy, client.post), UpstreamError)


@pytest.mark.parametrize("status", [307, 308])
async def test_the_client_s_secret_does_not_follow_a_redirect_elsewhere(client, serve, issuer, status):
    """An issuer that moved to another origin gets the secret when the operator says so, not when it says so."""
    there = await serve()
    issuer.server.redirect("/token", status, at(there, "/token"))
    auth = ClientCredentials(issuer.url, "the client", SECRET, place="body")
    with pytest.raises(AnswerError):
        await ask(client, issuer, policy_of(Source("s", auth=auth), client.policy, client.post))
    assert [seen for seen in there.seen if told(seen)] == []


async def test_the_client_s_login_does_not_follow_a_redirect_elsewhere(client, serve, issuer):
    """The same for a secret in the header; the error tells the redirect's status."""
    there = await serve()
    issuer.server.redirect("/token", 307, at(there, "/token"))
    error = await refused(client, issuer, policy_of(issuer.source, client.policy, client.post), UpstreamError)
    assert ("answered 307" in str(error), [seen for seen in there.seen if shown(seen)]) == (True, [])


async def test_a_token_may_be_more_than_the_source_s_documents(client, issuer):
    """A source that takes documents of 10 bytes has a token all the same."""
    source = replace(issuer.source, max_bytes=10)
    assert (await ask(client, issuer, policy_of(source, client.policy, client.post))).status == 200


async def test_a_renewed_token_takes_no_redirect_away(client, issuer):
    """Five redirects are followed, also when the first answer was a 401."""
    issuer.api = issuer.api.replace("/api", "/1")
    for hop in range(1, 1 + DEFAULT_MAX_REDIRECTS):
        issuer.upstream.redirect(f"/{hop}", 302, f"/{hop + 1}" if hop < DEFAULT_MAX_REDIRECTS else "/api")
    held = policy_of(issuer.source, client.policy, client.post)
    await ask(client, issuer, held)
    issuer.valid.clear()
    assert (await ask(client, issuer, held)).status == 200


# -- a token that was withdrawn


@pytest.mark.parametrize(
    ("status", "challenge", "times"),
    [
        (403, 'Bearer realm="x", error="invalid_token", error_description="The token was revoked"', 2),
        (403, "bearer error=invalid_token", 2),
        (403, 'Basic realm="x", Bearer error = "invalid_token"', 2),
        (403, 'Bearer error="insufficient_scope"', 1),
        (403, 'Bearer realm="x"', 1),
        (403, 'Basic realm="a, b", BEARER scope="x y" , ERROR="invalid_token"', 2),
        (403, 'Negotiate, Bearer error="invalid_token"', 2),
        (403, 'Bearer error="insufficient_scope", error_description="not error=invalid_token"', 1),
        (403, 'Bearer realm="a", DPoP error="invalid_token"', 1),
        (403, 'Basic realm="Bearer error=invalid_token"', 1),
        (403, 'Basic error="invalid_token"', 1),
        (403, None, 1),
        (400, 'Bearer error="invalid_token"', 1),
        (401, None, 2),
    ],
)
async def test_a_withdrawn_token_is_renewed_once(client, issuer, status, challenge, times):
    """A 403 that says that the token is at fault (RFC 6750, section 3.1) is asked again with another, once."""
    held = policy_of(issuer.source, client.policy, client.post)
    issuer.api = issuer.api.replace("/api", "/closed")
    headers = {"WWW-Authenticate": challenge} if challenge else {}
    issuer.upstream.answers["/closed"] = {"status": status, "headers": headers}
    error = await refused(client, issuer, held, UpstreamError)
    assert (error.status, error.attempts, len(issuer.asked), len(issuer.upstream.seen)) == (status, times, times, times)
