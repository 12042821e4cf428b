"""Workers, partitions, sources, caches and hosts from the records of all workers. What no record has is null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.cluster.registry import SILENT_AFTER, WorkerRegistry
from agents.tables.rows import Row
from streams.web.problems import not_ready

PARTITION = ("committed", "end", "lag", "in_flight", "unfinished", "waiting_for_key", "oldest_unfinished_s")
"""Fields of a partition beside its topic, number and owner."""

MOST = 1 << 63
"""Nothing that is counted comes so far."""

_WORST = ("open", "half-open", "closed")
_LISTS = ("partitions", "route_partitions", "hosts", "sources", "routes")
_OBJECTS = ("tables", "answers", "cache", "pool", "retry_later")


class ClusterStatus:
    """Answers from the records of all workers. `registry` is None until it is there, and in a role that has none."""

    def __init__(self) -> None:
        self.registry: WorkerRegistry | None = None

    def records(self) -> list[Row]:
        """Return every worker's latest record, `answering` or not. Raises Problem."""
        if self.registry is None:
            raise not_ready("the workers' records are not there yet, or this worker has the role `answer`")
        return [{**_plain(record), "answering": _answers(record)} for record in self.registry.all()]

    def workers(self) -> dict[str, Any]:
        """Return the workers."""
        return {"workers": self.records()}

    def partitions(self) -> dict[str, Any]:
        """Return each partition with its owner; of two that claim one, the one that answers and reported last. Those of
        routes come last, and name the route: two may read the same topic.
        """
        owned: dict[tuple[str, str, int], tuple[tuple[bool, float], Row]] = {}
        for record in self.records():
            rank = (record["answering"], -record["silent_s"])
            for each in (*(record.get("partitions") or ()), *(record.get("route_partitions") or ())):
                route = str(each.get("route") or "")
                number = route, each["topic"], each["partition"]
                partition = {"topic": number[1], "partition": number[2], "owner": record["id"],
                             "owner_answers": record["answering"], **({"route": route} if route else {})}  # fmt: skip
                partition |= {name: each.get(name) for name in PARTITION}
                if number not in owned or owned[number][0] < rank:
                    owned[number] = rank, partition
        return {"partitions": [owned[number][1] for number in sorted(owned)]}

    def sources(self) -> dict[str, Any]:
        """Return the named sources, each with the workers that have it."""
        found: dict[str, Row] = {}
        for record in self.records():
            for source in record.get("sources") or ():
                entry = found.setdefault(str(source.get("name")), {**source, "workers": []})
                entry["workers"].append(record["id"])
        return {"sources": [found[name] for name in sorted(found)]}

    def caches(self) -> list[Row]:
        """Return each worker's cache."""
        caches = ((record["id"], record.get("cache")) for record in self.records())
        return [{"worker": name, **cache} for name, cache in caches if cache is not None]

    def hosts(self) -> dict[str, list[Row]]:
        """Return by host what each worker reports about its breaker and limits."""
        found: dict[str, list[Row]] = {}
        for record in self.records():
            if record["answering"]:
                for host in record.get("hosts") or ():
                    status = {name: value for name, value in host.items() if name != "host"}
                    found.setdefault(str(host.get("host")), []).append({"worker": record["id"], **status})
        return found


def _plain(record: Row) -> Row:
    """Return a record with the types that are expected: anyone who may write to the topic may write anything."""
    lists: Row = {}
    for name in record.keys() & _LISTS:
        given = record[name]
        lists[name] = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    for name in ("partitions", "route_partitions"):
        if name in lists:
            lists[name] = [each | {figure: _figure(each.get(figure)) for figure in PARTITION} for each in lists[name]
                           if isinstance(each.get("topic"), str) and type(each.get("partition")) is int]  # fmt: skip
    if isinstance(tables := record.get("tables"), dict) and not isinstance(tables.get("partitions", []), list):
        lists["tables"] = {**tables, "partitions": []}
    odd = {name for name in _OBJECTS if not isinstance(record.get(name), dict)}
    return {name: value for name, value in (record | lists).items() if name not in odd}


def _figure(value: Any) -> Any:
    """Return a number, None for whatever else somebody wrote in its place."""
    return value if type(value) in (int, float) and abs(value) < MOST else None


def _answers(record: Mapping[str, Any]) -> bool:
    return bool(record["silent_s"] <= SILENT_AFTER)


@dataclass(frozen=True, slots=True)
class HostStatus:
    """`breaker` is the worst state that a worker reports, None without reports; `with_it` of `workers` report it;
    `limit` is how many requests may be in flight together, `rate` how many a second, None for any.
    """

    breaker: str | None
    with_it: int
    workers: int
    in_flight: int | None
    waiting: int | None
    limit: int | None
    rate: float | None
    held_seconds: float


def host_status(row: Mapping[str, Any]) -> HostStatus:
    """Add up what the workers report about a host."""
    reports = [each for each in row.get("workers", ()) if each.get("breaker")]
    states = [str(each["breaker"]).replace("_", "-") for each in reports]
    worst = min(states, key=lambda state: _WORST.index(state) if state in _WORST else 0, default=None)
    in_flight, users = _sum(reports, "in_flight"), _sum(reports, "users")
    return HostStatus(
        breaker=worst,
        with_it=states.count(worst) if worst is not None else 0,
        workers=len(reports),
        in_flight=in_flight,
        waiting=None if in_flight is None or users is None else max(0, users - in_flight),
        limit=_sum(reports, "limit"),
        rate=_rate(reports),
        held_seconds=max((_figure(each.get("held_seconds")) or 0.0 for each in reports), default=0.0),
    )


def _rate(reports: list[Mapping[str, Any]]) -> Any:
    """Return the requests a second of all workers: of a rate that is shared, the rate."""
    shared = [_figure(each.get("rate")) for each in reports if each.get("share") is not None]
    return shared[0] if shared else _sum(reports, "rate")


def _sum(reports: list[Mapping[str, Any]], name: str) -> Any:
    values = [_figure(each.get(name)) for each in reports]
    return sum(values) if values and None not in values else None
