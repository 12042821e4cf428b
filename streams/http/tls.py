"""How connections to a source are secured."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

from models.source import Tls
from streams.secrets import read_secret


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return how connections of a source are secured. Raises ValueError naming the file that is of no use."""
    context = ssl.create_default_context()
    if tls.ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with _of_use(tls.ca):
            context.load_verify_locations(tls.ca)
    if tls.cert is not None:
        password = read_secret(tls.key_password) if tls.key_password else ""  # "": never ask the terminal for one
        with _of_use(tls.cert if tls.key is None else f"{tls.cert}, {tls.key}"):
            context.load_cert_chain(tls.cert, tls.key, password=lambda: password)
    return context


@contextlib.contextmanager
def _of_use(files: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        msg = f"{files}: {getattr(exc, 'reason', None) or getattr(exc, 'strerror', None) or exc}"
        raise ValueError(msg) from None
