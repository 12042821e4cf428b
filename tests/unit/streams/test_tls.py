"""How connections to a source are secured: real handshakes with certificates of the test's own authorities."""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl

import pytest
import trustme
from aiohttp import web
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from models.errors import AnswerError, Unreachable
from models.source import Secret, Source, Tls
from streams.http.client import Client
from streams.http.policy import policy_of, tls_context
from tests.unit.streams.test_client import LIMIT, LOOPBACK, ONCE, at, served

PASSWORD = "s3cret of the key"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def other():
    """Return an authority that nobody here trusts."""
    return trustme.CA()


@pytest.fixture
def files(authority, other, tmp_path, monkeypatch):
    """Write authorities, and a client's certificate with its key: plain, together, encrypted, and of another."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    mine = authority.issue_cert("client.example")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    key = load_pem_private_key(mine.private_key_pem.bytes(), None)
    encryption = BestAvailableEncryption(PASSWORD.encode())
    (tmp_path / "locked.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    other.issue_cert("client.example").private_key_pem.write_to_path(tmp_path / "foreign.pem")
    (tmp_path / "empty.pem").touch()
    (tmp_path / "garbage.pem").write_bytes(b"\x00garbage")
    monkeypatch.setenv("TEST_PASSWORD", PASSWORD)
    monkeypatch.setenv("TEST_WRONG", "n0t-it")
    return lambda name: str(tmp_path / f"{name}.pem")


@pytest.fixture
async def serve(opened, authority):
    """Start servers with a certificate; `asks` for the client's: not at all, optionally, or as a condition."""

    async def start(names=("127.0.0.1",), asks=ssl.CERT_NONE, issuer=authority, **certificate):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issuer.issue_cert(*names, **certificate).configure_cert(context)
        context.verify_mode = asks
        authority.configure_trust(context)
        upstream = await served(opened, context)
        upstream.shown = []

        async def look(request):
            upstream.shown.append(request.transport.get_extra_info("peercert") or None)
            return web.Response(body=b"in")

        upstream.answers["/"] = look
        return upstream

    return start


@pytest.fixture
async def client(way):
    async with Client(LIMIT, LOOPBACK, retry=ONCE) as client:
        yield client


def policy(client, **tls):
    return policy_of(Source("s", tls=Tls(**tls), retry=ONCE), client.policy, client.post)


async def unreachable(client, upstream, policy=None):
    """Return what is said of an upstream that the client will not speak to; nothing reached it."""
    with pytest.raises(Unreachable) as caught:
        await client.fetch("GET", at(upstream), {}, policy=policy)
    assert upstream.seen == []
    return str(caught.value)


async def test_an_authority_of_one_s_own_is_trusted(client, serve, files):
    """A certificate of the authority that the source names is as good as any."""
    upstream = await serve()
    response = await client.fetch("GET", at(upstream), {}, policy=policy(client, ca=files("ca")))
    assert (response.body.content, upstream.shown) == (b"in", [None])


async def test_an_unknown_authority_is_not_trusted(client, serve, files):
    """Without the source's authority, or with another one, nothing is sent, and the message says why."""
    upstream = await serve()
    for each in (None, policy(client, ca=files("other")), policy(client, cert=files("both"))):
        message = await unreachable(client, upstream, each)
        assert message.startswith("127.0.0.1: TLS failed: ")
        assert "CERTIFICATE_VERIFY_FAILED" in message


async def test_trust_is_the_source_s_alone(client, serve, files):
    """A connection that one source has made is not used by who does not trust that authority."""
    upstream = await serve()
    await client.fetch("GET", at(upstream), {}, policy=policy(client, ca=files("ca")))
    upstream.seen.clear()
    await unreachable(client, upstream)


async def test_an_authority_of_one_s_own_stands_instead_of_the_usual_ones(files):
    """Nobody else's certificates are good then: the context knows this one authority."""
    assert len(tls_context(Tls(ca=files("ca"))).current().get_ca_certs()) == 1
    context = tls_context(Tls(ca=files("ca")))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("wrong", ["name", "time"])
async def test_a_trusted_certificate_must_fit(client, serve, files, wrong):
    """For another host, or past its end, it is refused whoever issued it."""
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    upstream = await serve(("example.org",)) if wrong == "name" else await serve(not_after=past)
    message = await unreachable(client, upstream, policy(client, ca=files("ca")))
    assert message.startswith("127.0.0.1: TLS failed: ")
    assert ("expired" in message) is (wrong == "time")
    assert ("IP address mismatch" in message) is (wrong == "name")


@pytest.mark.parametrize(
    "key", [{"cert": "both"}, {"cert": "cert", "key": "key"}, {"cert": "cert", "key": "locked", "key_password": True}],
    ids=["in one file", "in two", "encrypted"],
)  # fmt: skip
async def test_a_certificate_is_shown_to_who_asks_for_it(client, serve, files, key):
    """Mutual TLS: certificate and key in one file or in two, the key encrypted or not."""
    upstream = await serve(asks=ssl.CERT_REQUIRED)
    given = {name: files(value) for name, value in key.items() if value is not True}
    if "key_password" in key:
        given["key_password"] = Secret("env", "TEST_PASSWORD")
    held = policy(client, ca=files("ca"), **given)
    assert (await client.fetch("GET", at(upstream), {}, policy=held)).body.content == b"in"
    [shown] = upstream.shown
    assert ("DNS", "client.example") in shown["subjectAltName"]


async def test_who_has_no_certificate_is_unreachable_where_one_is_needed(client, serve, files):
    """The upstream ends the connection; the error says that much."""
    upstream = await serve(asks=ssl.CERT_REQUIRED)
    message = await unreachable(client, upstream, policy(client, ca=files("ca")))
    assert message.startswith(("the connection to 127.0.0.1 broke: ", "127.0.0.1 cannot be connected to: "))


async def test_a_connection_with_a_certificate_is_its_source_s_alone(client, serve, files):
    """Another source is not taken for the one whose certificate was shown, nor the other way round."""
    upstream = await serve(asks=ssl.CERT_OPTIONAL)
    mine, plain = policy(client, ca=files("ca"), cert=files("both")), policy(client, ca=files("ca"))
    for each in (mine, plain, mine, plain):
        await client.fetch("GET", at(upstream), {}, policy=each)
    assert [shown is not None for shown in upstream.shown] == [True, False, True, False]


async def test_a_certificate_is_not_shown_where_a_redirect_points(client, serve, files):
    """It is a credential like any other: for the source's own origin."""
    upstream, there = await serve(), await serve(asks=ssl.CERT_OPTIONAL)
    upstream.redirect("/", 302, at(there))
    with contextlib.suppress(AnswerError):  # there may be no trust either without the source's context
        await client.fetch("GET", at(upstream), {}, policy=policy(client, ca=files("ca"), cert=files("both")))
    assert len(upstream.seen) == 1
    assert [shown for shown in there.shown if shown is not None] == []


@pytest.mark.parametrize(
    ("tls", "named", "why"),
    [
        ({"ca": "none"}, "none", "No such file or directory"),
        ({"ca": "empty"}, "empty", ""),
        ({"ca": "garbage"}, "garbage", ""),
        ({"ca": "key"}, "key", ""),
        ({"cert": "none"}, "none", "No such file or directory"),
        ({"cert": "cert"}, "cert", ""),
        ({"cert": "cert", "key": "none"}, "none", "No such file or directory"),
        ({"cert": "cert", "key": "foreign"}, "foreign", "KEY_VALUES_MISMATCH"),
        ({"cert": "cert", "key": "garbage"}, "garbage", ""),
        ({"cert": "cert", "key": "locked"}, "locked", ""),
        ({"cert": "cert", "key": "locked", "key_password": "TEST_WRONG"}, "locked", ""),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_file_that_is_of_no_use_is_named(files, tls, named, why):
    """At the start, with the reason, without the password, and without asking the terminal for one."""
    given = {name: Secret("env", value) if name == "key_password" else files(value) for name, value in tls.items()}
    with pytest.raises(ValueError, match=r".") as caught:
        tls_context(Tls(**given))
    message = str(caught.value)
    path, _, reason = message.rpartition(": ")
    assert files(named) in path
    assert why in reason
    assert reason not in ("", "None")
    assert "n0t-it" not in message


def test_a_password_that_is_not_there_is_told_by_its_name(files, monkeypatch):
    """The variable is named that should hold it."""
    monkeypatch.delenv("TEST_PASSWORD")
    with pytest.raises(ValueError, match=r"^TEST_PASSWORD is not set$"):
        tls_context(Tls(cert=files("cert"), key=files("locked"), key_password=Secret("env", "TEST_PASSWORD")))


def test_old_protocols_are_not_spoken(files):
    """With an authority or a certificate of one's own as without: TLS 1.2 at least."""
    for each in (Tls(), Tls(ca=files("ca")), Tls(cert=files("both"))):
        assert tls_context(each).minimum_version >= ssl.TLSVersion.TLSv1_2
