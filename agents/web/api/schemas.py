"""The JSON of the API as marshmallow schemas: input is validated with them, and the API's documents are generated from
them. Answers may get more members; input may not.
"""

from __future__ import annotations

from typing import Any

from marshmallow import fields, validate

from agents.web.api.row_schemas import Open, PartialSchema, count, counts
from models.errors import OUTCOMES
from models.schema import StrictSchema

MAX_REDRIVEN = 500
"""Dead letters that one call redrives."""
MAX_PARTITION, MAX_OFFSET = (1 << 31) - 1, (1 << 63) - 1


class _Whole(fields.Integer):
    """A whole number as in JSON: 7.0 is valid, "7" is not."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return super()._deserialize(whole, attr, data, **options)


class PlaceSchema(StrictSchema):
    """The position of a record in its topic."""

    partition = _Whole(required=True, strict=True, validate=validate.Range(0, MAX_PARTITION))
    offset = _Whole(required=True, strict=True, validate=validate.Range(0, MAX_OFFSET))


class RedriveSchema(StrictSchema):
    """Which dead letters to put back on the requests topic."""

    letters = fields.List(fields.Nested(PlaceSchema), required=True, validate=validate.Length(1, MAX_REDRIVEN))


class WorkerPartitionSchema(Open):
    """A partition as its owner reports it; null is unknown."""

    topic = fields.String()
    partition = count()
    committed = fields.Integer(allow_none=True)
    end = fields.Integer(allow_none=True)
    lag = fields.Integer(allow_none=True)
    in_flight = fields.Integer(allow_none=True)
    unfinished = fields.Integer(allow_none=True)
    waiting_for_key = fields.Integer(allow_none=True)
    oldest_unfinished_s = fields.Float(allow_none=True)


class PartitionSchema(WorkerPartitionSchema):
    """A partition and its owner; `route` is there for one that a route reads."""

    route = fields.String()
    owner = fields.String(required=True)
    owner_answers = fields.Boolean(required=True)


class PartitionsSchema(Open):
    """The partitions."""

    partitions = fields.List(fields.Nested(PartitionSchema), required=True)


class RoutePartitionSchema(WorkerPartitionSchema):
    """A partition that a worker reads for a route."""

    route = fields.String()


class LookupSchema(Open):
    """A lookup of a route, and the source that it asks."""

    name = fields.String(required=True)
    source = fields.String(required=True)


class WorkerRouteSchema(Open):
    """A route as a worker reports it: topics that it reads now, with those that its patterns match, outcomes since the
    start, records in progress, and by reason how many lookups wait; null is unknown.
    """

    name = fields.String()
    topics = fields.List(fields.String())
    patterns = fields.List(fields.String())
    lookups = fields.List(fields.Nested(LookupSchema))
    results = fields.String()
    failures = fields.String()
    group = fields.String()
    partitions = fields.Integer(allow_none=True)
    outcomes = fields.Dict(keys=fields.String(), values=fields.Integer(strict=True))
    in_progress = fields.Integer(allow_none=True)
    waiting = fields.Dict(keys=fields.String(), values=fields.Integer(strict=True))
    lag = fields.Integer(allow_none=True)
    oldest_unfinished_s = fields.Float(allow_none=True)


class RouteSchema(WorkerRouteSchema):
    """A route, added up over the workers that answer: records a second over 10 s, and the ids of those workers."""

    name = fields.String(required=True)
    rate = fields.Float(required=True, allow_none=True)
    workers = fields.List(fields.String(), required=True)


class ReadSchema(Open):
    """A record that was read; text is cut to 4,096 characters, headers to 1,024."""

    topic = fields.String(required=True)
    partition = fields.Integer(required=True)
    offset = fields.Integer(required=True)
    timestamp = fields.Integer(required=True)
    key = fields.String(required=True, allow_none=True)
    value = fields.String(required=True, allow_none=True)
    headers = fields.Dict(keys=fields.String(), values=fields.String(allow_none=True), required=True)


class LookedUpSchema(Open):
    """A lookup of a record: method and URL of each question, or a function's `params`, the answer, and its place."""

    lookup = fields.String(required=True)
    source = fields.String(required=True)
    questions = fields.List(fields.Dict(keys=fields.String(), values=fields.String()), required=True)
    outcome = fields.String(required=True)
    into = fields.String(required=True, allow_none=True)
    cache = fields.String()
    value = fields.String(allow_none=True)
    checks = fields.String(allow_none=True)
    error = fields.String()


class PublishedSchema(Open):
    """What was published for a record; `value` is null for one without, and where it is not known any more."""

    topic = fields.String(required=True)
    value = fields.String(required=True, allow_none=True)


class SampleSchema(Open):
    """The latest record of a route on one worker: read, looked up, and published, null for one that was dropped."""

    at = fields.String(required=True)
    outcome = fields.String(required=True)
    read = fields.Nested(ReadSchema, required=True)
    lookups = fields.List(fields.Nested(LookedUpSchema), required=True)
    published = fields.Nested(PublishedSchema, required=True, allow_none=True)


class RouteSampleSchema(Open):
    """The sample alone; null before the first record, and for one of over 256 KiB."""

    sample = fields.Nested(SampleSchema, required=True, allow_none=True)


class WalkedRouteSchema(RouteSchema):
    """A route with a sample."""

    sample = fields.Nested(SampleSchema, required=True, allow_none=True)


class RoutesSchema(Open):
    """The routes."""

    routes = fields.List(fields.Nested(RouteSchema), required=True)


class DelayTopicSchema(Open):
    """A delay topic: `waiting` is null as long as no worker reads it; the counts are since the workers' start."""

    topic = fields.String(required=True)
    delay_s = count()
    waiting = fields.Integer(required=True, allow_none=True)
    next_due = fields.String(required=True, allow_none=True)
    overdue_s = fields.Float(required=True)
    deferred = count()
    taken_up = count()
    partitions = count()


class RetryLaterSchema(Open):
    """What is tried again later: the delay topics, and how many records failed at their last try."""

    topics = fields.List(fields.Nested(DelayTopicSchema), required=True)
    exhausted = count()


class WorkerSchema(Open):
    """What a worker reports about itself, once a second."""

    id = fields.String(required=True)
    group = fields.String()
    role = fields.String()
    url = fields.String(allow_none=True)
    version = fields.String()
    state = fields.String()
    started_at = fields.String()
    at = fields.String()
    partitions = fields.List(fields.Nested(WorkerPartitionSchema))
    tables = fields.Dict(allow_none=True)
    answers = fields.Dict()
    in_flight = fields.Integer(allow_none=True)
    cache = fields.Dict(allow_none=True)
    pool = fields.Dict(allow_none=True)
    hosts = fields.List(fields.Dict())
    sources = fields.List(fields.Dict())
    limits = fields.List(fields.Dict())
    routes = fields.List(fields.Nested(WorkerRouteSchema))
    route_partitions = fields.List(fields.Nested(RoutePartitionSchema))
    retry_later = fields.Dict()
    rss = fields.Integer(allow_none=True)
    loop_lag_s = fields.Float(allow_none=True)


class ListedWorkerSchema(WorkerSchema):
    """A worker's latest record, how many seconds ago it came, and whether it counts as answering."""

    silent_s = fields.Float(required=True)
    answering = fields.Boolean(required=True)


class WorkersSchema(Open):
    """The workers that reported within the last ten minutes."""

    workers = fields.List(fields.Nested(ListedWorkerSchema), required=True)


class SourcesSchema(Open):
    """The named sources, and which workers have them."""

    sources = fields.List(fields.Dict(), required=True)


class CacheSchema(Open):
    """This worker's cache, tier by tier, and under `workers` those of all workers."""

    tiers = fields.List(fields.Dict(), required=True)
    counts = fields.Dict(required=True)
    workers = fields.List(fields.Dict(), required=True)


class RemovedSchema(Open):
    """How many entries a purge removed."""

    removed = count()


class MinuteSchema(Open):
    """A minute's results."""

    minute = fields.String(required=True)
    total = count()
    outcomes = counts(OUTCOMES)
    p50 = fields.Float(allow_none=True)
    p95 = fields.Float(allow_none=True)
    p99 = fields.Float(allow_none=True)


class OverviewSchema(Open):
    """The state of the service: results a second over 10 s, lag, quantiles in seconds and outcomes of the last minute,
    the last hour by minute. null is unknown.
    """

    at = fields.String(required=True)
    workers = count()
    silent = count()
    throughput = fields.Float(required=True, allow_none=True)
    lag = fields.Integer(required=True, allow_none=True)
    in_flight = fields.Integer(required=True, allow_none=True)
    p50 = fields.Float(allow_none=True)
    p95 = fields.Float(allow_none=True)
    p99 = fields.Float(allow_none=True)
    cache_hit_rate = fields.Float(required=True, allow_none=True)
    outcomes = counts(OUTCOMES)
    minutes = fields.List(fields.Nested(MinuteSchema), required=True)
    partial_ = fields.Nested(PartialSchema, data_key="partial")


class LetterSchema(Open):
    """A dead letter: what failed and why, where its request was, whether it was redriven, and why it cannot be
    (`flaw`).
    """

    partition = count()
    offset = count()
    at = fields.String(required=True)
    key = fields.String()
    key_base64 = fields.String()
    id = fields.String()
    outcome = fields.String()
    message = fields.String()
    body = fields.String()
    host = fields.String()
    source = fields.String()
    status = fields.Integer()
    retryable = fields.Boolean()
    route = fields.String()
    attempts = count()
    redriven = fields.Boolean()
    flaw = fields.String()
    origin = fields.Dict()


class HeaderSchema(Open):
    """A header of a record; null has no bytes, and what is no text is in base64."""

    name = fields.String(required=True)
    value = fields.String(allow_none=True)
    value_base64 = fields.String()


class LastResultSchema(Open):
    """A result of a dead letter's request, and where it is in the results topic: its latest one, by the tables, or the
    one that was published with the letter.
    """

    partition = count()
    offset = count()
    at = fields.String(required=True)
    latest = fields.Boolean(required=True)
    value = fields.String()
    value_base64 = fields.String()


class WholeLetterSchema(LetterSchema):
    """A dead letter with the bytes that its sender sent; what is no text is in base64. Its `last_result`, or why there
    is none to show (`no_result`).
    """

    value = fields.String(allow_none=True)
    value_base64 = fields.String()
    headers = fields.List(fields.Nested(HeaderSchema), required=True)
    last_result = fields.Nested(LastResultSchema)
    no_result = fields.String()


class ErrorsSchema(Open):
    """The latest dead letters, newest first."""

    errors = fields.List(fields.Nested(LetterSchema), required=True)


class RedrivenSchema(Open):
    """What happened to each letter, and which were not found."""

    redriven = count()
    letters = fields.List(fields.Dict(), required=True)
    missing = fields.List(fields.Nested(PlaceSchema), required=True)


class AcceptedSchema(Open):
    """Where a request was put, and the id that its result will have."""

    id = fields.String(required=True)
    topic = fields.String(required=True)
    partition = count()
    offset = count()


class WrongFieldSchema(Open):
    """An invalid field, as a dotted path, and the reason."""

    field = fields.String(required=True)
    message = fields.String(required=True)


class ProblemSchema(Open):
    """An error (RFC 9457)."""

    title = fields.String(required=True)
    status = fields.Integer(required=True, strict=True)
    detail = fields.String(required=True)
    errors = fields.List(fields.Nested(WrongFieldSchema))
