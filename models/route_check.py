"""What is wrong with the routes of a configuration beside their form: sources, parameters and topics do not fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from models import retry_later
from models.request import MAX_TIMEOUT
from models.route import RESERVED, Lookup, Route, listed, name_problem
from models.source import REQUIRED, Source, Sources

Problem = tuple[tuple[str, ...], str]
"""Where something is wrong, from the route's name on, and what."""
Flow = tuple[Callable[[str], bool], set[str]]
"""Which topics are read, and those that are written for it."""


def route_problems(routes: Mapping[str, Route], sources: Mapping[str, Source], wrong: Collection[str]) -> list[Problem]:
    """Return what is wrong with routes beside their form; the sources in `wrong` could not be read."""
    problems: list[Problem] = []
    for route in routes.values():
        if (reason := name_problem(route.name)) is not None:
            problems.append(((route.name,), reason))
        if route.name == retry_later.RESERVED and Sources(sources, routes=routes).delays:
            problems.append(((route.name,), "is the group of what is tried again later: give the route another name"))
        if route.name == RESERVED:
            problems.append(((route.name,), "is the group of the tables: give the route another name"))
        for at, lookup in enumerate(route.lookups):
            where = (route.name, "lookups", str(at))
            source = sources.get(lookup.source)
            if source is not None:
                problems += [((*where, *steps), reason) for steps, reason in _param_problems(lookup, source)]
            elif lookup.source not in wrong:
                known = listed(sources) or "none"
                problems.append(((*where, "source"), f"no source {lookup.source!r}; known: {known}"))
    return problems + _topic_problems(routes)


def _param_problems(lookup: Lookup, source: Source) -> Iterator[Problem]:
    for name in lookup.params.keys() - source.names:
        yield (
            ("params", name),
            f"is not a parameter of the source {source.name!r}; known: {listed(source.names) or 'none'}",
        )
    for name in source.names - lookup.params.keys():
        if name not in source.params or source.params[name].default is REQUIRED:
            yield ("params",), f"missing: the source {source.name!r} needs {name}"


def _topic_problems(routes: Mapping[str, Route]) -> list[Problem]:
    """Return what goes round between routes, and topics that two routes take for different things."""
    problems: list[Problem] = []
    written = {route.results: route.name for route in routes.values()}
    for route in routes.values():
        for name in filter(None, {route.failures}):
            if name in written:
                problems.append(((route.name, "failures"), f"{name!r} has the results of the route {written[name]}"))
            if readers := [each.name for each in routes.values() if each.name != route.name and each.reads(name)]:
                problems.append(
                    ((route.name, "failures"), f"{name!r} is read by the route {readers[0]}: its records would loop")
                )
        if _comes_back(route, list(_flows(routes.values()))):
            problems.append(
                ((route.name, "results"), f"{route.results!r} leads back to this route: its records would loop")
            )
    return problems


def _flows(routes: Iterable[Route]) -> Iterator[Flow]:
    for route in routes:
        yield route.reads, {route.results}


def _comes_back(route: Route, flows: Sequence[Flow]) -> bool:
    seen: set[str] = set()
    reached = {route.results}
    while reached:
        if any(map(route.reads, reached)):
            return True
        seen |= reached
        reached = set[str]().union(*(written for reads, written in flows if any(map(reads, reached)))) - seen
    return False


def settings_problems(
    routes: Mapping[str, Route],
    sources: Mapping[str, Source],
    *,
    requests: str,
    results: str,
    dead_letters: str,
    workers: str,
    group: str,
    timeout: float,
    registry: bool,
) -> list[str]:
    """Return what is wrong with routes beside the worker's settings: its topics, its `timeout` in seconds, and whether
    it has a `registry`.
    """
    problems: list[str] = []
    for route in routes.values():
        if route.results in (results, dead_letters):
            problems.append(f"results: {route.results!r} has the worker's own results or dead letters")
        if route.failures in (requests, results):
            problems.append(f"failures: {route.failures!r} has the worker's own requests or results")
        if own := next((name for name in route.all_topics if retry_later.is_delay_topic(group, name)), None):
            problems.append(f"topics: {own!r} has what the worker tries again later")
        if workers in route.all_topics:
            problems.append(f"topics: {workers!r} has the reports of workers")
        problems += [
            f"topics: the pattern {pattern!r} matches the worker's own topic {name!r}: leave it out"
            for name in (requests, results, dead_letters)
            if (pattern := route.pattern_of(name)) is not None
        ]
        if route.failures is None and dead_letters in route.topics:
            problems.append(
                f"failures: {dead_letters!r} is read by this route: give its dead letters a topic of their own"
            )
        if _comes_back(route, [*_flows(routes.values()), (requests.__eq__, {results, dead_letters})]):
            problems.append(
                f"results: {route.results!r} leads back to this route through the worker's requests: a loop"
            )
        if route.needs_registry and not registry:
            problems.append("its records need a schema registry: set MILLRACE_REGISTRY_URL")
        longest = sum(max(sources[each.source].timeout or timeout for each in stage) for stage in route.stages)
        if longest > MAX_TIMEOUT:
            problems.append(f"lookups that use one another's answers may take {longest:g} s in all; at most "
                            f"{MAX_TIMEOUT:g}: give their sources a shorter timeout")  # fmt: skip
        problems = [each if each.startswith("route ") else f"route {route.name}: {each}" for each in problems]
    return problems
