"""The JSON of the API as marshmallow schemas: what is read with them is judged by them, and the API's documents are
written from them. What is answered may get more members; what is asked may not.
"""

from __future__ import annotations

from typing import Any

from marshmallow import INCLUDE, Schema, fields, validate

from models.errors import OUTCOMES
from models.result import CACHE_STATES, ResultSchema
from models.schema import StrictSchema

MAX_REDRIVEN = 500
"""Letters that are put back by one call."""
MAX_PARTITION, MAX_OFFSET = (1 << 31) - 1, (1 << 63) - 1


def _count() -> fields.Integer:
    return fields.Integer(strict=True, validate=validate.Range(0))


def _counts(names: tuple[str, ...]) -> fields.Dict:
    keys = fields.String(metadata={"enum": list(names)})
    return fields.Dict(keys=keys, values=fields.Integer(strict=True), metadata={"description": "how often, by name"})


class _Open(Schema):
    class Meta:
        unknown = INCLUDE


class _Whole(fields.Integer):
    """A whole number, as JSON has it: 7.0 is one too, "7" is none."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return super()._deserialize(whole, attr, data, **options)


class PlaceSchema(StrictSchema):
    """Where a record stands in its topic."""

    partition = _Whole(required=True, strict=True, validate=validate.Range(0, MAX_PARTITION))
    offset = _Whole(required=True, strict=True, validate=validate.Range(0, MAX_OFFSET))


class RedriveSchema(StrictSchema):
    """Which dead letters to put back on the topic of the requests."""

    letters = fields.List(fields.Nested(PlaceSchema), required=True, validate=validate.Length(1, MAX_REDRIVEN))


class MissingSchema(_Open):
    """What is missing in an answer: of which worker (null: of nobody), which partitions of the results, and why."""

    worker = fields.String(required=True, allow_none=True)
    partitions = fields.List(fields.Integer(strict=True))
    reason = fields.String(required=True)


class PartialSchema(_Open):
    """There because not everybody who was asked answered."""

    missing = fields.List(fields.Nested(MissingSchema), required=True)


class TableSchema(_Open):
    """A table."""

    name = fields.String(required=True)
    rows = _count()
    description = fields.String(required=True)
    fields_ = fields.List(fields.String(), required=True, data_key="fields")


class TablesSchema(_Open):
    """The tables."""

    tables = fields.List(fields.Nested(TableSchema), required=True)
    partial_ = fields.Nested(PartialSchema, data_key="partial")


class LatencySchema(_Open):
    """A histogram: upper bounds in seconds, the count of each bucket and of one more without bound, and the sum."""

    le = fields.List(fields.Float(), required=True)
    counts = fields.List(fields.Integer(strict=True), required=True)
    sum = fields.Float(required=True)


class FaultSchema(_Open):
    """Why something was not answered `ok`."""

    type = fields.String()
    message = fields.String()
    retryable = fields.Boolean()


class AnswerRowSchema(_Open):
    """The latest result of a key; by itself with the `result`, which is left out, with `truncated`, if too large."""

    key = fields.String()
    key_base64 = fields.String()
    keyed = fields.Boolean()
    id = fields.String()
    outcome = fields.String(validate=validate.OneOf(OUTCOMES))
    cache = fields.String(validate=validate.OneOf(CACHE_STATES))
    status = fields.Integer(strict=True)
    url = fields.String()
    source = fields.String()
    host = fields.String()
    fetched_at = fields.String()
    at = fields.String()
    elapsed_ms = fields.Float()
    attempts = fields.Integer(strict=True)
    error = fields.Nested(FaultSchema)
    partition = _count()
    offset = _count()
    bytes = _count()
    truncated = fields.Boolean()
    result = fields.Nested(ResultSchema)


class LastErrorSchema(_Open):
    """The last answer of a host that was not `ok`."""

    id = fields.String()
    outcome = fields.String()
    message = fields.String()
    at = fields.String()


class HostRowSchema(_Open):
    """An upstream host; in /api/hosts with what each worker tells of its breaker and limits."""

    host = fields.String(required=True)
    answers = _counts(OUTCOMES)
    cache = _counts(CACHE_STATES)
    latency = fields.Nested(LatencySchema)
    bytes = _count()
    last_error = fields.Nested(LastErrorSchema)
    last_seen = fields.String()
    workers = fields.List(fields.Dict())


class OutcomeRowSchema(_Open):
    """A minute of the last 24 hours."""

    minute = fields.String(required=True)
    answers = _counts(OUTCOMES)
    cache = _counts(CACHE_STATES)
    latency = fields.Nested(LatencySchema)
    bytes = _count()


class CheckRowSchema(_Open):
    """A check."""

    name = fields.String(required=True)
    runs = _count()
    failures = _count()
    seconds = fields.Float()
    slowest_ms = fields.Float()
    last_seen = fields.String()


class HostsSchema(_Open):
    """A page of hosts."""

    rows = fields.List(fields.Nested(HostRowSchema), required=True)
    total = fields.Integer(required=True)
    cursor = fields.String()
    partial_ = fields.Nested(PartialSchema, data_key="partial")


class WorkerPartitionSchema(_Open):
    """A partition as its owner tells of it; null is unknown."""

    topic = fields.String()
    partition = _count()
    committed = fields.Integer(allow_none=True)
    end = fields.Integer(allow_none=True)
    lag = fields.Integer(allow_none=True)
    in_flight = fields.Integer(allow_none=True)
    unfinished = fields.Integer(allow_none=True)
    oldest_unfinished_s = fields.Float(allow_none=True)


class PartitionSchema(WorkerPartitionSchema):
    """A partition and its owner."""

    owner = fields.String(required=True)
    owner_answers = fields.Boolean(required=True)


class PartitionsSchema(_Open):
    """The partitions."""

    partitions = fields.List(fields.Nested(PartitionSchema), required=True)


class WorkerSchema(_Open):
    """What a worker tells of itself, once a second."""

    id = fields.String(required=True)
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
    rss = fields.Integer(allow_none=True)
    loop_lag_s = fields.Float(allow_none=True)


class HeardWorkerSchema(WorkerSchema):
    """A worker's latest record, how many seconds ago it came, and whether it counts as answering."""

    silent_s = fields.Float(required=True)
    answering = fields.Boolean(required=True)


class WorkersSchema(_Open):
    """The workers heard of in the last ten minutes."""

    workers = fields.List(fields.Nested(HeardWorkerSchema), required=True)


class SourcesSchema(_Open):
    """The named sources, and which workers have them."""

    sources = fields.List(fields.Dict(), required=True)


class CacheSchema(_Open):
    """This worker's cache, tier by tier, and under `workers` everybody's."""

    tiers = fields.List(fields.Dict(), required=True)
    counts = fields.Dict(required=True)
    workers = fields.List(fields.Dict(), required=True)


class RemovedSchema(_Open):
    """How many entries a purge removed."""

    removed = _count()


class MinuteSchema(_Open):
    """A minute's results."""

    minute = fields.String(required=True)
    total = _count()
    outcomes = _counts(OUTCOMES)
    p50 = fields.Float(allow_none=True)
    p95 = fields.Float(allow_none=True)
    p99 = fields.Float(allow_none=True)


class OverviewSchema(_Open):
    """How it goes: results a second over 10 s, lag, quantiles in seconds and outcomes of the last minute, the last hour
    by minute. null is unknown.
    """

    at = fields.String(required=True)
    workers = _count()
    silent = _count()
    throughput = fields.Float(required=True, allow_none=True)
    lag = fields.Integer(required=True, allow_none=True)
    in_flight = fields.Integer(required=True)
    p50 = fields.Float(allow_none=True)
    p95 = fields.Float(allow_none=True)
    p99 = fields.Float(allow_none=True)
    cache_hit_rate = fields.Float(required=True, allow_none=True)
    outcomes = _counts(OUTCOMES)
    minutes = fields.List(fields.Nested(MinuteSchema), required=True)
    partial_ = fields.Nested(PartialSchema, data_key="partial")


class LetterSchema(_Open):
    """A dead letter: what failed and why, where its request came, whether it was put back, and why it cannot be."""

    partition = _count()
    offset = _count()
    at = fields.String(required=True)
    key = fields.String()
    key_base64 = fields.String()
    id = fields.String()
    outcome = fields.String()
    message = fields.String()
    host = fields.String()
    attempts = _count()
    redriven = fields.Boolean()
    flaw = fields.String()
    origin = fields.Dict()


class ErrorsSchema(_Open):
    """The latest dead letters, newest first."""

    errors = fields.List(fields.Nested(LetterSchema), required=True)


class RedrivenSchema(_Open):
    """What came of each letter, and which were not to be found."""

    redriven = _count()
    letters = fields.List(fields.Dict(), required=True)
    missing = fields.List(fields.Nested(PlaceSchema), required=True)


class AcceptedSchema(_Open):
    """Where a request was put, and the id that its result will have."""

    id = fields.String(required=True)
    topic = fields.String(required=True)
    partition = _count()
    offset = _count()


class WrongFieldSchema(_Open):
    """A field that is wrong, as a dotted path, and why."""

    field = fields.String(required=True)
    message = fields.String(required=True)


class ProblemSchema(_Open):
    """An error (RFC 9457)."""

    title = fields.String(required=True)
    status = fields.Integer(required=True, strict=True)
    detail = fields.String(required=True)
    errors = fields.List(fields.Nested(WrongFieldSchema))
