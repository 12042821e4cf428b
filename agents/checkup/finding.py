"""One line of what the doctor found."""

from __future__ import annotations

from typing import NamedTuple

OK, WARNING, PROBLEM = "ok", "warning", "problem"


class Finding(NamedTuple):
    """What was looked at, how it is, what was seen, and what to do about it."""

    subject: str
    state: str
    seen: str
    advice: str = ""


def counted(number: int, noun: str) -> str:
    """Return how many there are, in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ok(subject: str, seen: str) -> Finding:
    """Return that something is as it must be."""
    return Finding(subject, OK, seen)


def warning(subject: str, seen: str, advice: str = "") -> Finding:
    """Return that something works and may not work well."""
    return Finding(subject, WARNING, seen, advice)


def problem(subject: str, seen: str, advice: str = "") -> Finding:
    """Return that something keeps a worker from its work."""
    return Finding(subject, PROBLEM, seen, advice)
