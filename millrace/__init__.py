"""The API for plugins, sources and their tests; everything else is internal and may change.

    from millrace import StrictSchema, check, schema

    @check
    def is_even(value: int) -> bool:
        return value % 2 == 0

`millrace.testing` has helpers for tests. A function of a source says what happened by what it raises:
`UpstreamStatus(404)`, `RetryLater(seconds)`, `Invalid("why")`, or one of the errors, each of which ends the request
with the outcome of its name and knows whether a retry can help.

installation  whether the packages that Python finds are Millrace's own
testing       helpers for tests of plugins and sources
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.checks import check
    from models.documents import schema
    from models.errors import (
        AnswerError,
        Denied,
        InvalidDocument,
        Overloaded,
        TimedOut,
        TooLarge,
        Unreachable,
        UpstreamError,
    )
    from models.raised import Invalid, RetryLater, UpstreamStatus
    from models.schema import StrictSchema

__all__ = [
    "AnswerError",
    "Denied",
    "Invalid",
    "InvalidDocument",
    "Overloaded",
    "RetryLater",
    "StrictSchema",
    "TimedOut",
    "TooLarge",
    "Unreachable",
    "UpstreamError",
    "UpstreamStatus",
    "check",
    "schema",
]

_HOMES = {"check": "models.checks", "schema": "models.documents", "StrictSchema": "models.schema",
          **dict.fromkeys(("Invalid", "RetryLater", "UpstreamStatus"), "models.raised")}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: the command line must check first whose packages these are.

    Raises ImportError with advice if `models` belongs to another distribution.
    """
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        value = getattr(import_module(_HOMES.get(name, "models.errors")), name)
    except (ImportError, AttributeError) as exc:
        from millrace.installation import foreign_packages  # noqa: PLC0415  only for the message

        raise ImportError("; ".join(foreign_packages()) or str(exc)) from exc
    globals()[name] = value
    return value
