"""The filters of the page Errors and of `/api/errors`, as they stand in the query of a URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from agents.web.api.selection import invalid_parameter
from models.dead_letter import STATUS, DeadLetterFilter
from models.errors import OUTCOMES
from models.moment import parse_moment

NAMES = ("outcome", "host", "source", "status", "since", "until", "retryable")
"""Parameters of a filter."""
MAX_TEXT = 255
"""Characters of one."""


def letter_filter(query: Mapping[str, str]) -> DeadLetterFilter | None:
    """Return the filter in the query of a URL, None if it has none; empty parameters are none. Raises Problem."""
    given = {name: query[name] for name in NAMES if query.get(name)}
    for name, text in given.items():
        if len(text) > MAX_TEXT:
            raise invalid_parameter(name, f"at most {MAX_TEXT} characters are allowed")
    if not given:
        return None
    if given.get("outcome", OUTCOMES[-1]) not in OUTCOMES:
        _refuse("outcome", f"must be one of {', '.join(OUTCOMES)}")
    if not STATUS.fullmatch(given.get("status", "200")):
        _refuse("status", "must be a status, 100 to 599")
    if given.get("retryable", "true") != "true":
        _refuse("retryable", "must be true, or absent")
    return DeadLetterFilter(
        _some(given, "outcome"), _some(given, "host"), since=_moment(given, "since"), until=_moment(given, "until"),
        sources=_some(given, "source"), statuses=frozenset(map(int, _some(given, "status"))),
        retryable="retryable" in given,
    )  # fmt: skip


def _some(given: Mapping[str, str], name: str) -> frozenset[str]:
    return frozenset({given[name]}) if name in given else frozenset()


def _moment(given: Mapping[str, str], name: str) -> float | None:
    try:
        return parse_moment(given[name]) if name in given else None
    except ValueError as exc:
        _refuse(name, str(exc))


def _refuse(name: str, reason: str) -> NoReturn:
    raise invalid_parameter(name, reason)
