"""What is tried again later, added up from the records of all workers: a topic of each delay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agents.tables.rows import Row
from models.dead_letter import MAX_AT
from models.moment import iso

LATEST = MAX_AT // 1000
"""Seconds since the epoch: the latest time that is read."""
_COUNTS = ("waiting", "deferred", "taken_up", "partitions")


def later_status(records: Iterable[Row]) -> dict[str, Any]:
    """Return each delay topic, shortest delay first, and how many records failed at their last try.

    Counts are since the start of each worker that answers; `waiting` is null as long as no worker holds a partition.
    """
    topics: dict[str, dict[str, Any]] = {}
    exhausted = 0
    for record in records:
        reported = record.get("retry_later")
        if not record["answering"] or not isinstance(reported, dict):
            continue
        exhausted += _whole(reported.get("exhausted"))
        for each in _topics(reported):
            found = topics.setdefault(each["topic"], _none_yet(each))
            for name in _COUNTS:
                found[name] += _whole(each.get(name))
            due = each.get("next_due")
            if (at := _seconds(due)) > 0:
                text = iso(int(at * 1000))
                found["next_due"] = text if found["next_due"] is None else min(text, found["next_due"])
            found["overdue_s"] = max(found["overdue_s"], _seconds(each.get("overdue_s")))
    return {"topics": sorted(map(_known, topics.values()), key=lambda each: each["delay_s"]), "exhausted": exhausted}


def _none_yet(each: Row) -> dict[str, Any]:
    counts = dict.fromkeys(_COUNTS, 0)
    return {
        "topic": each["topic"],
        "delay_s": _whole(each.get("delay_s")),
        **counts,
        "next_due": None,
        "overdue_s": 0.0,
    }


def _known(topic: dict[str, Any]) -> dict[str, Any]:
    return topic if topic["partitions"] else {**topic, "waiting": None}


def _topics(reported: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what has the expected form: anyone who may write to the topic of the workers may write anything."""
    found = reported.get("topics")
    for each in found if isinstance(found, list) else ():
        if isinstance(each, dict) and isinstance(each.get("topic"), str):
            yield each


def _whole(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _seconds(value: Any) -> float:
    return float(value) if type(value) in (int, float) and 0 <= value < LATEST else 0.0
