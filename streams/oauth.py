"""OAuth 2.0, as upstreams and Kafka have it in common: Basic credentials, and a token endpoint's response."""

from __future__ import annotations

import base64

from models import strictjson
from models.errors import UpstreamError

RENEW_BEFORE = 30.0
"""Seconds before its end that a token is renewed; for a short-lived one, a fifth of its life."""
DEFAULT_TOKEN_LIFE = 300.0
"""Seconds that a token is taken to live whose answer does not say."""
FAILED_FOR = 5.0
"""Seconds that the failure to get a token is the answer to all who want one, so that its server has a rest."""


def basic(username: str, password: str) -> str:
    """Return an Authorization header with a login (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def read_token(body: bytes) -> tuple[str, float]:
    """Return token and seconds of life from a token endpoint's answer (RFC 6749, section 5.1); never quote it.

    Raises UpstreamError for what is none.
    """
    try:
        members = strictjson.loads(body)
        token, kind = members["access_token"], members.get("token_type", "bearer")
        given = members.get("expires_in")
        life = DEFAULT_TOKEN_LIFE if given is None else float(given)
        valid = isinstance(token, str) and token.isascii() and token.isprintable() and kind.lower() == "bearer"
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        valid = False
    if not valid or not token or not life > 0:
        msg = "the token endpoint's answer is not a bearer token"
        raise UpstreamError(msg)
    return token, life
