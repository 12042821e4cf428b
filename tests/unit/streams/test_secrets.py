from __future__ import annotations

import pytest

from models.source import Secret
from streams.config.secrets import hardened, read_secret, secrets_in

VARIABLE = "MILLRACE_TEST_SECRET"
VALUE = "hunter2 ~!\"'\\%"


@pytest.fixture
def env(monkeypatch):
    """Set the secret in the environment, and return where it is."""

    def set_to(value):
        monkeypatch.setenv(VARIABLE, value)
        return Secret("env", VARIABLE)

    return set_to


@pytest.fixture
def file(tmp_path):
    """Write the secret to a file, and return where it is."""

    def write(content):
        path = tmp_path / "secret"
        path.write_bytes(content)
        return Secret("file", str(path))

    return write


def refusal(secret):
    with pytest.raises(ValueError) as caught:
        read_secret(secret)
    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None  # a traceback of what failed may quote the secret
    assert "hunter2" not in str(error)
    return str(error)


def test_a_secret_comes_from_the_environment(env):
    """A variable's value is the secret, as it is."""
    assert read_secret(env(VALUE)) == VALUE


@pytest.mark.parametrize("around", [b"%b", b"%b\n", b"%b\r\n", b"  %b \n\n"])
def test_a_secret_comes_from_a_file(file, around):
    """A file's text is the secret, without the line break that editors put at its end."""
    assert read_secret(file(around % VALUE.encode())) == VALUE


def test_a_variable_that_is_not_there_is_named(monkeypatch, env):
    """Unset and empty are the same: there is no secret."""
    monkeypatch.delenv(VARIABLE, raising=False)
    assert refusal(Secret("env", VARIABLE)) == f"{VARIABLE} is not set"
    assert refusal(env("")) == f"{VARIABLE} is not set"


@pytest.mark.parametrize("content", [b"", b"\n", b" \t\r\n"])
def test_an_empty_file_is_named(file, content):
    """White space alone is no secret."""
    secret = file(content)
    assert refusal(secret) == f"{secret.name!r} is empty"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """A missing file, a folder and a name that no file can have are told with the reason."""
    assert refusal(Secret("file", f"{tmp_path}/no")) == f"'{tmp_path}/no' cannot be read: No such file or directory"
    assert refusal(Secret("file", str(tmp_path))) == f"{str(tmp_path)!r} cannot be read: Is a directory"
    assert "cannot be read" in refusal(Secret("file", "a\0b"))


@pytest.mark.parametrize(
    "content", ["hunter2\u00e4", "hun\nter2", "hunter2\0", "\x1bhunter2", "hunter2\x7f", "hunter2\u2028x"]
)
def test_what_no_header_can_hold_is_refused(file, content):
    """Other than visible ASCII is refused at the start, not when the first request is sent, and is not repeated."""
    secret = file(content.encode())
    assert refusal(secret) == f"{secret.name!r} holds characters that cannot be sent: visible ASCII only"


def test_what_no_header_can_hold_is_refused_from_the_environment(env):
    """A line break within a variable is refused; one at its end, as of a file of settings, is no part of the secret."""
    assert refusal(env("hun\nter2")) == f"{VARIABLE!r} holds characters that cannot be sent: visible ASCII only"
    assert read_secret(env("hunter2\r\n")) == "hunter2"


@pytest.mark.parametrize("content", [b"hunter2\xff", b"hunter2\xff\xfe" * 100, "hunter2".encode("utf-16")])
def test_a_file_of_other_bytes_is_refused(file, content):
    """What is not UTF-8 is told without what it holds."""
    secret = file(content)
    assert refusal(secret) == f"{secret.name!r} cannot be read: not UTF-8"


def test_secrets_are_found_with_their_places():
    """Headers, credentials and the password of a key are where a table may say where a secret is."""
    table = {
        "url": "http://h/",
        "headers": {"X": {"env": "A"}, "Accept": "text/plain"},
        "auth": {"type": "client_credentials", "client_secret": {"file": "/b"}},
        "tls": {"key_password": {"env": "C"}},
    }
    assert dict(secrets_in(table)) == {
        ("headers", "X"): Secret("env", "A"),
        ("auth", "client_secret"): Secret("file", "/b"),
        ("tls", "key_password"): Secret("env", "C"),
    }


@pytest.mark.parametrize(
    "table",
    [
        None, 5, "env", [], {}, {"headers": 5}, {"headers": [{"env": "A"}]}, {"auth": {"token": {"env": 5}}},
        {"auth": {"token": {"env": ""}}}, {"auth": {"token": {"env": "A", "file": "b"}}}, {"env": "A"},
        {"body": {"a": {"env": "A"}}}, {"params": {"p": {"env": "A"}}}, {"form": {"env": "A"}},
    ],
)  # fmt: skip
def test_what_is_no_secret_s_place_is_not_read(table):
    """Wrong tables, and tables that look the same where no secret can be, name no secret."""
    assert list(secrets_in(table)) == []


@pytest.mark.parametrize("name", ["env", "file"])
def test_a_header_may_be_called_like_a_secret_s_place(name):
    """`headers.env = "production"` is a header."""
    assert list(secrets_in({"headers": {name: "production"}})) == []


def test_a_digest_is_of_the_secret_and_the_source():
    """It is the same for the same two, another for another secret or source, and short."""
    digests = {hardened(secret, name) for secret in ("a", "b") for name in ("s", "t")}
    assert len(digests) == 4
    assert hardened("a", "s") in digests
    assert {len(digest) for digest in digests} == {16}
