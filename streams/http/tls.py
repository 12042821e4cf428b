"""How connections to a source are secured."""

from __future__ import annotations

from models.source import Tls
from streams.config.secrets import read_secret
from streams.tls import Context

PROTOCOLS = ("http/1.1",)
"""What is spoken within, as a server is told."""


def tls_context(tls: Tls) -> Context:
    """Return how connections of a source are secured. Raises ValueError naming the file that is of no use."""
    password = tls.key_password
    return Context(tls.ca, tls.cert, tls.key, (lambda: read_secret(password)) if password else str, protocols=PROTOCOLS)
