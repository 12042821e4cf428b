"""Quotes of an exchange: a schema that loads them, and a check of their price."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from marshmallow import fields, post_load, validate

from millrace import StrictSchema, check, schema


@dataclass(frozen=True)
class Quote:
    """What one unit of `symbol` cost, and when."""

    symbol: str
    price: Decimal
    at: datetime


@schema("quote")
class QuoteSchema(StrictSchema):
    """A quote. The price is a decimal, never rounded by a float; the time has its zone."""

    symbol = fields.String(required=True, validate=validate.Length(1, 12))
    price = fields.Decimal(required=True, as_string=True, validate=validate.Range(min=0))
    at = fields.AwareDateTime(required=True, default_timezone=UTC)

    @post_load
    def _quote(self, data: dict[str, Any], **_: Any) -> Quote:
        return Quote(**data)


@check
def price_between(value: str, low: float = 0.0, high: float = 1_000_000.0) -> bool:
    """Whether a price is from `low` to `high`, both included."""
    return Decimal(str(low)) <= Decimal(value) <= Decimal(str(high))
