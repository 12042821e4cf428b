"""The JSON of the API as marshmallow schemas: what is read with them is judged by them, and the API's document is
written from them.
"""

from __future__ import annotations

from marshmallow import fields, validate

from models.schema import StrictSchema

MAX_REDRIVEN = 500
"""Letters that are put back by one call."""
MAX_PARTITION, MAX_OFFSET = (1 << 31) - 1, (1 << 63) - 1


class PlaceSchema(StrictSchema):
    """Where a record stands in its topic."""

    partition = fields.Integer(required=True, strict=True, validate=validate.Range(0, MAX_PARTITION))
    offset = fields.Integer(required=True, strict=True, validate=validate.Range(0, MAX_OFFSET))


class RedriveSchema(StrictSchema):
    """Which dead letters to put back on the topic of the requests."""

    letters = fields.List(fields.Nested(PlaceSchema), required=True, validate=validate.Length(1, MAX_REDRIVEN))
