"""The JSON of the tables' rows as marshmallow schemas. It may get more members."""

from __future__ import annotations

from marshmallow import INCLUDE, Schema, fields, validate

from models.errors import OUTCOMES
from models.result import CACHE_STATES
from models.result_schema import ResultSchema


def count() -> fields.Integer:
    """Return the field of a whole number from 0 on."""
    return fields.Integer(strict=True, validate=validate.Range(0))


def counts(names: tuple[str, ...]) -> fields.Dict:
    """Return the field of counts by these names."""
    keys = fields.String(metadata={"enum": list(names)})
    return fields.Dict(keys=keys, values=fields.Integer(strict=True), metadata={"description": "how often, by name"})


class Open(Schema):
    """May get more members."""

    class Meta:
        """Unknown members are kept."""

        unknown = INCLUDE


class MissingSchema(Open):
    """What is missing in an answer: from which worker (null: no owner), which partitions of the results, and why."""

    worker = fields.String(required=True, allow_none=True)
    partitions = fields.List(fields.Integer(strict=True))
    reason = fields.String(required=True)


class PartialSchema(Open):
    """Present if some rows are missing."""

    missing = fields.List(fields.Nested(MissingSchema), required=True)


class TableSchema(Open):
    """A table."""

    name = fields.String(required=True)
    rows = count()
    description = fields.String(required=True)
    fields_ = fields.List(fields.String(), required=True, data_key="fields")


class TablesSchema(Open):
    """The tables."""

    tables = fields.List(fields.Nested(TableSchema), required=True)
    partial_ = fields.Nested(PartialSchema, data_key="partial")


class LatencySchema(Open):
    """A histogram: upper bounds in seconds, the count of each bucket and of one more without bound, and the sum."""

    le = fields.List(fields.Float(), required=True)
    counts = fields.List(fields.Integer(strict=True), required=True)
    sum = fields.Float(required=True)


class FaultSchema(Open):
    """Why an outcome is not `ok`."""

    type = fields.String()
    message = fields.String()
    retryable = fields.Boolean()
    body = fields.String()
    body_truncated = fields.Boolean()


class AnswerRowSchema(Open):
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
    partition = count()
    offset = count()
    bytes = count()
    truncated = fields.Boolean()
    result = fields.Nested(ResultSchema)


class LastErrorSchema(Open):
    """The last answer of a host that was not `ok`."""

    id = fields.String()
    outcome = fields.String()
    message = fields.String()
    at = fields.String()


class HostRowSchema(Open):
    """An upstream host; in /api/hosts with what each worker reports about its breaker and limits. A `source` with
    pauses and breaker of its own has a row of its own.
    """

    host = fields.String(required=True)
    source = fields.String()
    answers = counts(OUTCOMES)
    cache = counts(CACHE_STATES)
    latency = fields.Nested(LatencySchema)
    bytes = count()
    last_error = fields.Nested(LastErrorSchema)
    last_seen = fields.String()
    workers = fields.List(fields.Dict())


class OutcomeRowSchema(Open):
    """A minute of the last 24 hours."""

    minute = fields.String(required=True)
    answers = counts(OUTCOMES)
    cache = counts(CACHE_STATES)
    latency = fields.Nested(LatencySchema)
    bytes = count()


class CheckRowSchema(Open):
    """A check."""

    name = fields.String(required=True)
    runs = count()
    failures = count()
    seconds = fields.Float()
    slowest_ms = fields.Float()
    last_seen = fields.String()


class HostsSchema(Open):
    """A page of hosts."""

    rows = fields.List(fields.Nested(HostRowSchema), required=True)
    total = fields.Integer(required=True)
    cursor = fields.String()
    partial_ = fields.Nested(PartialSchema, data_key="partial")
