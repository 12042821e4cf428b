"""What both peers do to a request before and a result after, so that the work is the same as Millrace's."""

from __future__ import annotations

import json
import os

from marshmallow import RAISE, Schema, fields, validate

BARE = bool(os.environ.get("BARE"))


class RequestSchema(Schema):
    class Meta:
        unknown = RAISE

    id = fields.String(validate=validate.Length(1, 128))
    url = fields.Url(required=True, require_tld=False)
    method = fields.String(load_default="GET")
    schema = fields.String(load_default="json")
    max_age = fields.Float()
    timeout = fields.Float()


SCHEMA = RequestSchema()


def read(value: bytes) -> dict:
    return json.loads(value) if BARE else SCHEMA.load(json.loads(value))


def headers(identity: str) -> list[tuple[str, bytes]]:
    if BARE:
        return []
    return [("ce_specversion", b"1.0"), ("ce_type", b"millrace.result"), ("ce_source", b"/by-hand"),
            ("content-type", b"application/json"), ("ce_id", identity.encode())]  # fmt: skip
