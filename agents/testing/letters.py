"""Dead letters as they are recorded, to be answered again in a test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.dead_letter import DeadLetter, Headers, read_dead_letter

Letter = Mapping[str, Any] | Path | str | bytes | Any
"""A dead letter: a record as a Kafka client returns it (`key`, `value`, `headers`), JSON with these members, or the
path of such a file. In JSON, headers are an object, a list of pairs, or the flat list of `kcat -J`, which calls the
value `payload`.
"""


def letter_of(given: Letter) -> DeadLetter:
    """Read a dead letter. Raises ValueError for what is none that can be answered again, with the reason."""
    if isinstance(given, Path):
        given = given.read_bytes()
    if isinstance(given, str | bytes):
        given = json.loads(given)
    if isinstance(given, Mapping):
        value, key, headers = given.get("value", given.get("payload")), given.get("key"), given.get("headers") or ()
    else:
        try:
            key, value, headers = given.key, given.value, given.headers
        except AttributeError:
            msg = f"a {type(given).__name__} is not a dead letter: it needs key, value and headers"
            raise ValueError(msg) from None
    letter = read_dead_letter((0, 0), 0, _bytes(key), _bytes(value), _headers(headers))
    if (reason := letter.not_redrivable_reason(letter.topic or "")) is not None:
        msg = f"this cannot be answered again: {reason}"
        raise ValueError(msg)
    return letter


def _headers(given: Mapping[str, Any] | Sequence[Any]) -> Headers:
    pairs: Iterable[Any]
    if isinstance(given, Mapping):
        pairs = given.items()
    elif given and isinstance(given[0], str):
        pairs = zip(given[::2], given[1::2], strict=True)
    else:
        pairs = given
    return [(str(name), _bytes(content)) for name, content in pairs]


def _bytes(given: Any) -> bytes | None:
    if given is None or isinstance(given, bytes):
        return given
    return given.encode() if isinstance(given, str) else json.dumps(given, separators=(",", ":")).encode()
