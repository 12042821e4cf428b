"""The form of `[routes.NAME]` in sources.toml, as marshmallow schemas, and the Route that it makes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from marshmallow import ValidationError, fields, post_load, validate

from models.expression import Expression, Path, document_expression
from models.request import Checks
from models.retry_later import RetryLater
from models.route import (
    FORMATS,
    MAX_LOOKUPS,
    ORDERS,
    OTHERWISE,
    OUTPUTS,
    PATTERN,
    REGISTERED,
    RESULTS_FORMATS,
    TIMESTAMPS,
    TOMBSTONES,
    Lookup,
    Route,
    goes_round,
    name_problem,
    stages_of,
)
from models.schema import StrictSchema, Text, kind, refuse
from models.source_fields import Flag, delays_field, take_later

MAX_TOPICS = 100
"""Topics of one route."""
MAX_PATTERN = 1_000
"""Characters of a pattern of topics."""
MAX_IN_PROGRESS = 4_096
"""Records of one route in progress at once on one worker."""
_TOPIC = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}")


def check_topic(name: str) -> None:
    """Raise ValidationError for what Kafka does not take as a topic's name."""
    if not _TOPIC.fullmatch(name):
        refuse(f"{name[:60]!r} is not a topic name: use 1 to 249 letters, digits, dots, dashes and underscores")


def check_topics(item: str) -> None:
    """Raise ValidationError for what is neither a topic's name nor a pattern of them."""
    if not item.startswith(PATTERN):
        check_topic(item)
    elif len(item) > MAX_PATTERN:
        refuse(f"the pattern has {len(item)} characters; at most {MAX_PATTERN} are allowed")
    else:
        try:
            re.compile(item)
        except (re.error, RecursionError, OverflowError) as exc:
            refuse(f"{item[:60]!r} is not a regular expression: {exc}")


def _check_name(name: str) -> None:
    if (reason := name_problem(name)) is not None:
        refuse(reason)


class _Made(fields.Field[Any]):
    """A string made into something by a function that raises ValueError."""

    def __init__(self, make: Callable[[str], Any], **options: Any) -> None:
        super().__init__(**options)
        self._make = make

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> Any:  # noqa: ARG002  marshmallow's signature
        if not isinstance(value, str):
            refuse(f"must be a string, not {kind(value)}")
        try:
            return self._make(value)
        except ValueError as exc:
            return refuse(str(exc))


def _one_of(choices: tuple[str, ...]) -> fields.String:
    return fields.String(validate=validate.OneOf(choices))


class LookupSchema(StrictSchema):
    """`[[routes.NAME.lookups]]`."""

    name = Text(_check_name)
    source = fields.String(required=True)
    params = fields.Dict(keys=fields.String(), values=_Made(Expression))
    whole = fields.List(fields.String())
    into = _Made(Path)
    pick = _Made(document_expression)
    checks = Checks()
    checks_into = _Made(Path)
    required = Flag()

    @post_load
    def _lookup(self, data: dict[str, Any], **_: Any) -> Lookup:
        if "checks_into" in data and "checks" not in data:
            refuse("goes with checks", "checks_into")
        data["whole"] = tuple(data.get("whole", ()))
        if unused := sorted(set(data["whole"]) - data.get("params", {}).keys()):
            refuse(f"{unused[0]!r} is not among the params", "whole")
        return Lookup(**{"name": data["source"], **data})


class RouteSchema(StrictSchema):
    """`[routes.NAME]`. The checks that it names must be registered: load the plugins first."""

    topics = fields.List(Text(check_topics), required=True, validate=validate.Length(1, MAX_TOPICS))
    results = Text(check_topic, required=True)
    failures = Text(check_topic)
    format = _one_of(FORMATS)
    key_format = _one_of(FORMATS)
    when = _Made(Expression)
    otherwise = _one_of(OTHERWISE)
    tombstones = _one_of(TOMBSTONES)
    output = _one_of(OUTPUTS)
    results_format = _one_of(RESULTS_FORMATS)
    results_subject = fields.String(validate=validate.Length(1, 255))
    timestamp = _one_of(TIMESTAMPS)
    in_progress = fields.Integer(strict=True, validate=validate.Range(1, MAX_IN_PROGRESS))
    retry_later = delays_field()
    interim_results = Flag()
    order = _one_of(ORDERS)
    lookups = fields.List(fields.Nested(LookupSchema), required=True, validate=validate.Length(1, MAX_LOOKUPS))

    @post_load
    def _route(self, data: dict[str, Any], **_: Any) -> Route:
        later = take_later(data)
        wrong = _conflicts(data, later)
        if wrong:
            raise ValidationError(wrong)
        lookups = tuple(data.pop("lookups"))
        try:
            stages = stages_of(lookups)
        except ValueError as exc:
            refuse(str(exc), "lookups")
        topics, results = tuple(dict.fromkeys(data.pop("topics"))), data.pop("results")
        return Route("", topics, results, lookups, stages=stages, later=later, **data)


def _conflicts(data: dict[str, Any], later: RetryLater) -> dict[str, list[str]]:
    """Return what does not go together, by member."""
    wrong: dict[str, list[str]] = {}
    lookups: list[Lookup] = data["lookups"]
    output = data.get("output", "merge")
    wrong |= _going_round(data)
    if data.get("failures") == data["results"]:
        wrong["failures"] = ["is the topic of the results: dead letters need one of their own"]
    [(name, count)] = Counter(each.name for each in lookups).most_common(1)
    reason = f"two are called {name!r}: give them a name each" if count > 1 else _place_problem(lookups)
    if reason is not None:
        wrong["lookups"] = [reason]
    if output == "merge" and data.get("format", "json") in ("text", "bytes"):
        wrong["output"] = [f'{data["format"]} cannot hold an answer: set output = "result" or "document"']
    if output != "merge" and (reason := _single_problem(output, lookups)) is not None:
        wrong["output"] = [reason]
    if (data.get("results_format", "json") in REGISTERED) != ("results_subject" in data):
        wrong["results_subject"] = ["goes with results_format avro, protobuf or json-schema, which need it"]
    if output == "result" and "results_subject" in data:
        wrong["results_format"] = ['a result is JSON: set output = "merge" or "document"']
    if later.interim_results and output != "result":
        wrong["interim_results"] = ['goes with output = "result": other routes publish nothing for what fails']
    if later.delays and data.get("order") == "key":
        wrong["retry_later"] = ['does not go with order = "key": what is tried again would come after later records']
    if data.get("when") is not None and data["when"].lookups:
        wrong["when"] = ["is decided before anything is looked up"]
    return wrong


def _place_problem(lookups: list[Lookup]) -> str | None:
    """Return why some answer can never be seen, None if all can. One that may be missing may replace another."""
    places = [(each, path) for each in lookups for path in (each.into, each.checks_into) if path is not None]
    for at, (lookup, path) in enumerate(places):
        for earlier, other in places[:at]:
            if other.steps[: len(path.steps)] == path.steps and (lookup.required or lookup is earlier):
                return f"{lookup.name}: {path.text} would replace what {earlier.name} puts into {other.text}"
    return None


def _going_round(data: dict[str, Any]) -> dict[str, list[str]]:
    """Return which topics that are written are read, by member."""
    wrong: dict[str, list[str]] = {}
    read = Route("", tuple(data["topics"]), data["results"], ())
    for name in ("results", "failures"):
        topic = data.get(name, "")
        if topic in data["topics"]:
            wrong[name] = [f"{topic!r} is one of the topics that the route reads: its records would loop"]
        elif (pattern := read.pattern_of(topic)) is not None:
            wrong[name] = [goes_round(topic, pattern)]
    return wrong


def _single_problem(output: str, lookups: list[Lookup]) -> str | None:
    """Return why a route of these lookups cannot publish what one of them has brought, None if it can."""
    if len(lookups) > 1:
        return f"{output!r} is of one lookup; there are {len(lookups)}"
    if any(each.into or each.checks_into for each in lookups):
        return f"{output!r} has no place for into and checks_into"
    if output == "result" and lookups[0].pick is not None:
        return f"{output!r} has the whole document: leave out pick"
    if not all(each.required for each in lookups):
        return f"{output!r} cannot do without its lookup: leave out required = false"
    return None
