"""The checks of `millrace doctor`: each yields findings, one per line of output.

kafka     brokers, topics, ACLs, clock
routes    routes
here      settings, plugins, sources, cache tiers, schema registry, pool, web port, limits
"""

from __future__ import annotations

from typing import NamedTuple

OK, WARNING, PROBLEM = "ok", "warning", "problem"


class Finding(NamedTuple):
    """What was checked, its state, what was seen, and what to do about it."""

    subject: str
    state: str
    seen: str
    advice: str = ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `2 problems`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ok(subject: str, seen: str) -> Finding:
    """Report that a subject is as it must be."""
    return Finding(subject, OK, seen)


def warning(subject: str, seen: str, advice: str = "") -> Finding:
    """Report that a subject works, but may not work well."""
    return Finding(subject, WARNING, seen, advice)


def problem(subject: str, seen: str, advice: str = "") -> Finding:
    """Report that a subject keeps a worker from running."""
    return Finding(subject, PROBLEM, seen, advice)
