"""A route: topics of a team's own, what is looked up for each of their records, and where the outcome goes.

An operator says in sources.toml which records are read, in which format, which sources are requested with which of
their values, and what becomes of the answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from models.checks import Call
from models.expression import LOOKUPS, Expression, Path
from models.retry_later import NEVER, RetryLater

REGISTERED = ("avro", "protobuf", "json-schema")
"""Formats whose schemas are in a schema registry."""
FORMATS = ("json", "text", "bytes", *REGISTERED)
"""How a route's records and their keys are read: as JSON; as text in UTF-8; not at all, as base64; by the schema that
each names.
"""
RESULTS_FORMATS = ("json", *REGISTERED)
"""How what a route publishes is written."""
OUTPUTS = ("merge", "result", "document")
"""What a route publishes: the record with the documents in it, Millrace's result, or the document alone."""
OTHERWISE = ("pass", "drop")
"""What becomes of a record that `when` is not true of: it goes to the results as it is, or nowhere."""
TOMBSTONES = ("pass", "drop", "look-up")
"""What becomes of a record without a value: as above, or it is looked up like any other, by its key."""
TIMESTAMPS = ("now", "record")
"""The timestamp of what a route publishes: the time of publication, or the record's own."""
ORDERS = ("none", "key")
"""In which order results come: as they are made, or those of one key in the order of its records."""
MAX_LOOKUPS = 32
"""Lookups of one route."""
MAX_VALUES = 256
"""Values of one list that a lookup requests."""
DEFAULT_IN_PROGRESS = 64
"""Records of a route in progress at once on one worker; the next ones wait in Kafka."""
PATTERN = "^"
"""How an item of `topics` begins that is a regular expression for whole names."""
INTERNAL = "__"
"""How the names of topics begin that no pattern matches."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Lookup:
    """One question about a record: the `params` for a source, and where its answer goes.

    `into` is a place in the record, `pick` the part of the document that goes there (None: all of it). Without
    `required`, the record goes on without the answer and says so in a header. `whole` names the parameters whose lists
    the source takes as they are; of any other, each value is requested. `checks_into`: where the values of the
    checks go, None: into a header.
    """

    name: str
    source: str
    params: Mapping[str, Expression] = field(default_factory=dict)
    into: Path | None = None
    pick: Expression | None = None
    whole: tuple[str, ...] = ()
    checks: tuple[Call, ...] = ()
    checks_into: Path | None = None
    required: bool = True

    @property
    def needs(self) -> frozenset[str]:
        """Return the names of the lookups whose documents it uses."""
        return frozenset[str]().union(*(each.lookups for each in self.params.values()))


@dataclass(frozen=True, slots=True)
class Route:
    """See the module, and the fields' constants. `failures` is None for the worker's dead letters. `topics` are names
    and patterns.

    `stages` has the lookups in the order in which they can begin: those of a stage use only documents of earlier
    ones, and begin at once. `results_subject` is the registry's subject by whose latest schema outputs are written.
    """

    name: str
    topics: tuple[str, ...]
    results: str
    lookups: tuple[Lookup, ...]
    failures: str | None = None
    format: str = "json"
    key_format: str = "text"
    when: Expression | None = None
    otherwise: str = "pass"
    tombstones: str = "pass"
    output: str = "merge"
    results_format: str = "json"
    results_subject: str | None = None
    timestamp: str = "now"
    in_progress: int = DEFAULT_IN_PROGRESS
    later: RetryLater = NEVER
    order: str = "none"
    stages: tuple[tuple[Lookup, ...], ...] = ()

    @property
    def needs_registry(self) -> bool:
        """Whether a schema registry has to say how records, or their keys, are read or written."""
        return self.writes_anew or self.key_format in REGISTERED

    @property
    def writes_anew(self) -> bool:
        """Whether a schema registry has to say how values are read or written: none is published as it came."""
        return self.format in REGISTERED or self.results_format in REGISTERED

    @property
    def names(self) -> tuple[str, ...]:
        """Return the topics that are read by their names."""
        return tuple(each for each in self.topics if not each.startswith(PATTERN))

    @property
    def patterns(self) -> tuple[str, ...]:
        """Return the patterns of topics that are read, too."""
        return tuple(each for each in self.topics if each.startswith(PATTERN))

    def pattern_of(self, name: str) -> str | None:
        """Return the first pattern that matches a topic's name, None if none does."""
        if name.startswith(INTERNAL):
            return None
        return next((each for each in self.patterns if re.fullmatch(each, name)), None)

    def reads(self, name: str) -> bool:
        """Whether a topic of this name is one that the route reads."""
        return name in self.topics or self.pattern_of(name) is not None

    def matched(self, existing: Iterable[str]) -> Route:
        """Return the route with those of the existing topics in the place of its patterns that they match."""
        if not self.patterns:
            return self
        found = sorted(name for name in existing if self.pattern_of(name) is not None)
        return replace(self, topics=tuple(dict.fromkeys((*self.names, *found))))

    @property
    def all_topics(self) -> tuple[str, ...]:
        """Return the names of the topics that are read and written, without the worker's own dead letters."""
        return (*self.names, self.results, *(() if self.failures is None else (self.failures,)))

    def group(self, worker_group: str) -> str:
        """Return the consumer group in which this route is read: one of its own, so that it holds up no other."""
        return f"{worker_group}-{self.name}"


def too_many(count: int) -> str:
    """Return what is wrong with a list of so many values."""
    return f"has {count} values; at most {MAX_VALUES} are allowed"


def stages_of(lookups: tuple[Lookup, ...]) -> tuple[tuple[Lookup, ...], ...]:
    """Return lookups in the order in which they can begin. Raises ValueError for one that cannot be."""
    names = {each.name for each in lookups}
    for each in lookups:
        if missing := sorted(each.needs - names):
            msg = f"{each.name}: uses {LOOKUPS}.{missing[0]}, which this route does not look up; known: {listed(names)}"
            raise ValueError(msg)
    stages: list[tuple[Lookup, ...]] = []
    left, done = list(lookups), set[str]()
    while left:
        ready = tuple(each for each in left if each.needs <= done)
        if not ready:
            msg = f"{listed(each.name for each in left)}: they wait for one another's answers (a cycle)"
            raise ValueError(msg)
        stages.append(ready)
        done |= {each.name for each in ready}
        left = [each for each in left if each.name not in done]
    return tuple(stages)


def goes_round(topic: str, pattern: str) -> str:
    """Return what is wrong with a topic that is written, and that a pattern of those read matches."""
    escaped, shown = topic.replace(".", r"\."), pattern.removeprefix(PATTERN)
    return (
        f"{topic!r} matches the pattern {pattern!r} of the topics that the route reads: its records would loop; "
        f"leave it out of the pattern, as in '^(?!{escaped}$){shown}'"
    )


RESERVED = "tables"
"""No route's name: its group would be that of the tables."""


def name_problem(name: str) -> str | None:
    """Return why something cannot be the name of a route or lookup, None if it can."""
    if _NAME.fullmatch(name):
        return None
    return f"{name[:60]!r} is not a valid name: use a letter, then at most 63 letters, digits, dashes and underscores"


def listed(names: Iterable[str]) -> str:
    """Return names, sorted, as a message shows them."""
    return ", ".join(sorted(names))
