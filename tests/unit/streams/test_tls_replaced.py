"""TLS files replaced while we run: real handshakes, on asyncio's loop and on uvloop, by the names that files have."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import ssl
import time
from pathlib import Path

import pytest
import trustme
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from models.errors import SettingsError
from streams.config.settings import Kafka
from streams.kafka.client import connection, ssl_context
from streams.tls import Context, client_context, expiries, in_use

loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
OLD = {"not_after": dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)}
NEW = {"not_after": dt.datetime(2061, 1, 2, 3, 4, 5, tzinfo=dt.UTC)}


class Mounted:
    """Files as a Secret is mounted: names that point into a folder by way of a link, which is swapped."""

    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def put(self, **files):
        """Put these in place, all at once, under the names that they have had."""
        self.count += 1
        version = self.folder / f"..{self.count}"
        version.mkdir()
        for name, content in files.items():
            (version / f"{name}.pem").write_bytes(content)
            if not (self.folder / f"{name}.pem").is_symlink():
                (self.folder / f"{name}.pem").symlink_to(f"..data/{name}.pem")
        (self.folder / "..new").symlink_to(version.name)
        (self.folder / "..new").replace(self.folder / "..data")

    def write(self, name, content):
        """Write over a file as it is."""
        Path(self(name)).resolve().write_bytes(content)

    def __call__(self, name):
        return str(self.folder / f"{name}.pem")


@pytest.fixture
def mounted(tmp_path):
    return Mounted(tmp_path)


def mine(authority, **how):
    """Return files of an authority, and of a certificate that it has issued for us."""
    issued = authority.issue_cert("worker.example", **how)
    return {"ca": authority.cert_pem.bytes(), "cert": issued.cert_chain_pems[0].bytes(),
            "key": issued.private_key_pem.bytes()}  # fmt: skip


@contextlib.asynccontextmanager
async def server(authority):
    """Listen with a certificate of an authority, and want one of it; yields the port and what was shown."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    shown = []

    async def talk(reader, writer):
        with contextlib.suppress(OSError):
            shown.append(writer.get_extra_info("peercert")["notAfter"])
            writer.write(b"in\n")
            await reader.read()
        writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    yield listening.sockets[0].getsockname()[1], shown
    listening.close()


async def lets_in(port, context):
    """Connect; returns whether we were let in, and let the other be who it is."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        said = await reader.readline()
        writer.close()
    except OSError:
        return False
    return said == b"in\n"


@loops
def test_new_connections_use_what_was_put_in_place(run, mounted):
    """Authority, certificate and key are swapped at once, as Kubernetes does it; one that is gone is not trusted."""
    old, new = trustme.CA(), trustme.CA()

    async def main():
        async with server(old) as (before, seen), server(new) as (after, seen_then):
            mounted.put(**mine(old, **OLD))
            context = Context(*map(mounted, ("ca", "cert", "key")))
            assert [await lets_in(port, context) for port in (before, after)] == [True, False]
            mounted.put(**mine(new, **NEW))
            assert [await lets_in(port, context) for port in (before, after)] == [False, True]
            assert [each[-8:-4] for each in seen + seen_then] == ["2030", "2061"]

    run(main())


@pytest.mark.slow
@loops
def test_a_certificate_written_over_in_place_is_used(run, mounted):
    """Certificate and key in one file, or written one after the other; the authority stays as it is."""
    authority = trustme.CA()

    async def main():
        async with server(authority) as (port, seen):
            mounted.put(**mine(authority, **OLD))
            context = Context(*map(mounted, ("ca", "cert", "key")))
            assert await lets_in(port, context)
            for name, content in mine(authority, **NEW).items():
                mounted.write(name, content)
                assert await lets_in(port, context)  # also while the key does not fit
            assert [each[-8:-4] for each in seen] == ["2030", "2030", "2030", "2061"]

    run(main())


@pytest.mark.parametrize("bad", ["half", "empty", "garbage", "gone", "key of another"])
def test_what_is_of_no_use_leaves_what_was_there(mounted, caplog, bad):
    """A bad file is told once, naming it; the one before stays until there is a good one, which is told too."""
    caplog.set_level(logging.INFO, "streams.tls")
    authority = trustme.CA()
    old, new = mine(authority, **OLD), mine(authority, **NEW)
    mounted.put(**old)
    context = Context(*map(mounted, ("ca", "cert", "key")))
    before = context.current()
    wrong = {"half": {"cert": new["cert"][:200]}, "empty": {"ca": b""}, "garbage": {"key": b"\0garbage"}, "gone": {},
             "key of another": {"key": mine(authority)["key"]}}[bad]  # fmt: skip
    mounted.put(**new | wrong)
    if bad == "gone":
        (mounted.folder / "..data" / "cert.pem").unlink()
    assert [context.current() for _ in range(5)] == [before] * 5
    assert context.expires()[mounted("cert")] == OLD["not_after"].timestamp()
    [line] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert mounted("ca" if bad == "empty" else "cert") in line.getMessage()
    mounted.put(**new)
    assert context.current() is not before
    assert context.expires()[mounted("cert")] == NEW["not_after"].timestamp()
    assert "new connections use the replaced" in caplog.records[-1].getMessage()
    assert context.current() is context.current()


def test_all_of_kafkas_clients_share_what_is_looked_at(mounted):
    """One context for all connections to the brokers, whoever opens them; files that are bad at the start are told."""
    authority = trustme.CA()
    mounted.put(**mine(authority))
    kafka = Kafka(security_protocol="SSL", ssl_cafile=mounted("ca"), ssl_certfile=mounted("cert"),
                  ssl_keyfile=mounted("key"))  # fmt: skip
    context = connection(kafka)["ssl_context"]
    assert context is connection(kafka)["ssl_context"] is ssl_context(kafka)
    before = context.current()
    mounted.put(**mine(authority))
    assert context.current() is not before
    with pytest.raises(SettingsError, match=r"KAFKA_SSL_\*: the certificates cannot be loaded: .*gone\.pem"):
        ssl_context(Kafka(security_protocol="SSL", ssl_cafile=mounted("gone")))


def test_when_files_end_is_known(mounted):
    """Of own certificates the first to end counts, of authorities the last; what was put in place counts at once."""
    authority = trustme.CA()
    spare, first, last = authority.cert_pem.bytes(), mine(authority, **OLD), mine(authority, **NEW)
    mounted.put(ca=spare + made(year(2070)), both=last["key"] + last["cert"])
    context = Context(mounted("ca"), mounted("both"))
    assert context.expires() == {mounted("ca"): max(year(2070).timestamp(), *expiries(mounted("ca"))),
                                 mounted("both"): NEW["not_after"].timestamp()}  # fmt: skip
    assert len(expiries(mounted("ca"))) == 2
    mounted.put(ca=made(year(2031)), both=last["key"] + last["cert"] + first["cert"])
    found = in_use()
    assert (found[mounted("ca")], found[mounted("both")]) == (year(2031).timestamp(), OLD["not_after"].timestamp())


def year(number):
    """Return the beginning of a year."""
    return dt.datetime(number, 1, 1, tzinfo=dt.UTC)


KEY = ec.generate_private_key(ec.SECP256R1())
NOBODY = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody " * 8)])


def made(not_after, serial=1, *, key_ids=True, ca=True):
    """Return a certificate (PEM) signed by itself, as a home-made authority is."""
    builder = (
        x509.CertificateBuilder().subject_name(NOBODY).issuer_name(NOBODY).public_key(KEY.public_key())
        .serial_number(serial).not_valid_before(year(1950)).not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=False)
    )  # fmt: skip
    if key_ids:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.slow
@given(
    st.integers(int(year(1951).timestamp()), int(year(9999).timestamp())).map(
        lambda at: dt.datetime.fromtimestamp(at, dt.UTC)
    ),
    st.integers(1, 1 << 158),
)
def test_the_end_of_any_certificate_is_read(tmp_path_factory, not_after, serial):
    """Years in two digits and in four, serial numbers and names of any length."""
    path = tmp_path_factory.mktemp("made") / "made.pem"
    path.write_bytes(b"# a comment\n" + made(not_after, serial))
    assert expiries(str(path)) == [not_after.timestamp()]


@loops
def test_an_authority_without_key_identifiers_is_trusted_on_every_python(run, tmp_path):
    """Python 3.13 refuses what 3.11 takes, unless told not to be strict."""
    (tmp_path / "ca.pem").write_bytes(made(year(2060), key_ids=False))
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(NOBODY).public_key(leaf_key.public_key())
        .serial_number(5).not_valid_before(year(2020)).not_valid_after(year(2060))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .sign(KEY, hashes.SHA256())
    )  # fmt: skip
    private = leaf_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                     serialization.NoEncryption())  # fmt: skip
    (tmp_path / "server.pem").write_bytes(private + leaf.public_bytes(serialization.Encoding.PEM))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "server.pem")

    async def main():
        listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=serving)
        port = listening.sockets[0].getsockname()[1]
        context = Context(str(tmp_path / "ca.pem"))
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        writer.close()
        listening.close()

    run(main())


def test_no_connection_is_less_than_tls_1_2():
    """Whatever the system's own least version is; and nobody is trusted, nor any name taken, unchecked."""
    for context in (client_context(), Context(), Context().current(), ssl_context(Kafka(security_protocol="SSL"))):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT


def test_a_look_costs_little(mounted):
    """A connection is dearer by a few microseconds: files are read when they have changed, not each time."""
    mounted.put(**mine(trustme.CA()))
    context = Context(*map(mounted, ("ca", "cert", "key")))
    read = context._read
    context._read = lambda: pytest.fail("read again")
    started = time.perf_counter()
    for _ in range(1_000):
        context.current()
    assert time.perf_counter() - started < 1
    context._read = read
