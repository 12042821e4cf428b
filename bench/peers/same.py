"""What the peers do to a request before and a result after, so that the work is the same as Millrace's."""

from __future__ import annotations

import hashlib
import json
import os
import time

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
    checks = fields.List(fields.Raw(), validate=validate.Length(max=64))


SCHEMA = RequestSchema()


def read(value: bytes) -> dict:
    return json.loads(value) if BARE else SCHEMA.load(json.loads(value))


def headers(identity: str) -> list[tuple[str, bytes]]:
    if BARE:
        return []
    return [("ce_specversion", b"1.0"), ("ce_type", b"millrace.result"), ("ce_source", b"/by-hand"),
            ("content-type", b"application/json"), ("ce_id", identity.encode())]  # fmt: skip


def checked(request: dict, document: object) -> list[dict]:
    """Return the results of `sha256` and `length` if a request has checks: what is measured has just these."""
    if "checks" not in request:
        return []
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    digest = {"name": "sha256", "value": hashlib.sha256(canonical).hexdigest()}
    return [digest, {"name": "length", "args": {"high": 9}, "value": len(document) <= 9}]


def result(request: dict, record, known: tuple[object, float, list[dict]], cache: str) -> dict:
    """Return a result; `known` is the document, its time and the results of its checks."""
    document, fetched, checks = known
    return {
        "id": request.get("id") or f"{record.topic}-{record.partition}-{record.offset}", "outcome": "ok",
        "request": {"method": "GET", "url": request["url"]}, "status": 200, "document": document,
        "cache": cache, "age": round(time.time() - fetched, 1),
    } | ({"checks": checks} if checks else {})  # fmt: skip
