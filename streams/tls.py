"""TLS by files that may be replaced while we run: each new connection goes by what is on disk.

Certificates are renewed every few weeks or hours, as a rule by swapping a symbolic link. What is there is compared
with what was read by `stat`, a few microseconds a connection. Files that are of no use (half written, or a key that
does not fit yet) leave those of before in force.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

logger = logging.getLogger(__name__)

_PEM = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.+?)-----END", re.DOTALL)
_UTC_TIME = 0x17
_VERSION = 0xA0

_live: WeakSet[Context] = WeakSet()


def client_context() -> ssl.SSLContext:
    """Return a context that trusts nobody yet, checks certificate and name, and is the same on every Python.

    3.13 verifies strictly by default, and refuses authorities without key identifiers, which home-made ones often are;
    and takes an intermediate authority that a file names for what it is. Debian's Python sets no least version.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN


class Context(ssl.SSLContext):
    """Secures each new connection by the files of now; `ssl`, asyncio and uvloop make connections by `wrap_…`.

    `ca`: authorities (PEM); those of the system if there are none, and besides with `system`. `cert`, `key`: what is
    shown to a server. `password` is called at each reading. Raises ValueError naming the file that is of no use.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:  # noqa: D102  no more than ssl's own
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        password: Callable[[], str] = str,  # "": never prompt for one
        *,
        system: bool = False,
        protocols: tuple[str, ...] = (),
    ) -> None:
        _harden(self)
        self._ca, self._cert, self._key, self._password = ca, cert, key, password
        self._system = system or ca is None
        self._protocols = protocols
        named = (ca, cert, key, ssl.get_default_verify_paths().cafile if self._system else None)
        self._files = tuple(dict.fromkeys(path for path in named if path is not None))
        self._lock = threading.Lock()
        self._seen = self._refused = self._look()
        self._inner, self._expires = self._read()
        _live.add(self)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Secure a connection of asyncio's or uvloop's."""
        return self.current().wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Secure a socket."""
        return self.current().wrap_socket(*arguments, **options)

    def current(self) -> ssl.SSLContext:
        """Return a context made of the files of now, or of those of before if these are of no use."""
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                try:
                    self._inner, self._expires = self._read()
                except ValueError as exc:
                    if seen != self._refused:
                        logger.warning(
                            "TLS: a file was replaced by one that cannot be used; the previous one stays in use: %s",
                            exc,
                        )
                    self._refused = seen
                else:
                    self._seen = self._refused = seen
                    logger.info("TLS: new connections use the replaced %s", ", ".join(self._files))
            return self._inner

    def expires(self) -> Mapping[str, float]:
        """Return when (epoch seconds) each file is of no use any more: of own certificates the first to end, of
        authorities the last.
        """
        self.current()
        return self._expires

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        """Return what changes when a file is replaced or written to; through symbolic links."""
        return tuple(_identity(path) for path in self._files)

    def _read(self) -> tuple[ssl.SSLContext, dict[str, float]]:
        """Read the files. Raises ValueError naming the one that is of no use."""
        context = client_context()
        expires: dict[str, float] = {}
        if self._system:
            context.load_default_certs()
        if self._ca is not None:
            with _of_use(self._ca):
                context.load_verify_locations(self._ca)
                expires[self._ca] = max(expiries(self._ca))
        if self._cert is not None:
            password = self._password()
            with _of_use(self._cert if self._key is None else f"{self._cert}, {self._key}"):
                context.load_cert_chain(self._cert, self._key, password=lambda: password)
                expires[self._cert] = min(expiries(self._cert))
        if self._protocols:
            context.set_alpn_protocols(self._protocols)
        return context, expires


def in_use() -> dict[str, float]:
    """Return when (epoch seconds) each file of certificates in use is of no use any more."""
    return {path: at for context in list(_live) for path, at in context.expires().items()}


def expiries(path: str) -> list[float]:
    """Return when (epoch seconds) each certificate of a file ends. Raises OSError, and ValueError if there is none."""
    found = [_not_after(base64.b64decode(body)) for body in _PEM.findall(Path(path).read_bytes())]
    if not found:
        msg = "no certificate in it"
        raise ValueError(msg)
    return found


def _not_after(certificate: bytes) -> float:
    """Return when a certificate (DER) ends: RFC 5280, section 4.1. OpenSSL has read it already."""
    fields = _parts(next(_parts(next(_parts(certificate))[1]))[1])
    tag, _ = next(fields)
    for _ in range(3 if tag == _VERSION else 2):  # the serial number, the signature's algorithm, the issuer
        next(fields)
    _, validity = next(fields)
    _, (tag, text) = _parts(validity)
    digits = text.decode("ascii")
    if tag == _UTC_TIME:  # years from 1950 on, in two digits
        digits = ("20" if digits < "50" else "19") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _parts(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element (DER)."""
    while encoded:
        tag, length, begin = encoded[0], encoded[1], 2
        if length & 0x80:
            begin += length & 0x7F
            length = int.from_bytes(encoded[2:begin])
        yield tag, encoded[begin : begin + length]
        encoded = encoded[begin + length :]


def _identity(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  a Path a connection would cost more than this
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@contextlib.contextmanager
def _of_use(files: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, StopIteration) as exc:  # ssl.SSLError is an OSError
        msg = f"{files}: {getattr(exc, 'reason', None) or getattr(exc, 'strerror', None) or exc}"
        raise ValueError(msg) from None
