"""Server-sent events as bytes (HTML Living Standard, section 9.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models import strictjson


def encode(name: str, value: Mapping[str, Any]) -> bytes:
    """Return an event of a name; its data is JSON, which has no line breaks of its own."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), strictjson.dumps(value))
