"""The JSON of a result as a marshmallow schema, for its readers."""

from __future__ import annotations

from marshmallow import fields, validate

from models.errors import OUTCOMES
from models.result import CACHE_STATES
from models.schema import StrictSchema


class _EchoSchema(StrictSchema):
    method = fields.String()
    url = fields.String()
    source = fields.String()


class _CheckResultSchema(StrictSchema):
    name = fields.String(required=True)
    field = fields.String()
    value = fields.Raw(allow_none=True)
    error = fields.String()
    elapsed_ms = fields.Float(required=True)


class _ErrorSchema(StrictSchema):
    type = fields.String(required=True)
    message = fields.String(required=True)
    retryable = fields.Boolean(required=True)
    kind = fields.String()
    body = fields.String()
    body_truncated = fields.Boolean()


class ResultSchema(StrictSchema):
    """The JSON of a result, for its readers: `tail`, the tables, the tests, the API's description."""

    id = fields.String(required=True)
    context = fields.Raw(allow_none=True)
    outcome = fields.String(required=True, validate=validate.OneOf(OUTCOMES))
    request = fields.Nested(_EchoSchema)
    status = fields.Integer(strict=True)
    document = fields.Raw(allow_none=True)
    headers = fields.Dict(keys=fields.String(), values=fields.String())
    checks = fields.List(fields.Nested(_CheckResultSchema))
    cache = fields.String(validate=validate.OneOf(CACHE_STATES))
    age = fields.Float()
    attempts = fields.Integer(strict=True)
    elapsed_ms = fields.Float(required=True)
    fetched_at = fields.String()
    error = fields.Nested(_ErrorSchema)
    retry_at = fields.String()
