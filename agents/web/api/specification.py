"""The contract's requests and results as JSON Schema: what the models validate with code, as a schema."""

from __future__ import annotations

import sys
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import resolve_schema_cls
from marshmallow import Schema, fields

from models import checks, documents, headers
from models import request as requests
from models.request import RequestSchema
from models.result_schema import ResultSchema
from models.schema import Seconds, Text
from models.source import REQUIRED, Param, Sources
from models.url import MAX_URL

OPENAPI = "3.1.0"
_ANY = Param()
_ID = {"minLength": 1, "maxLength": requests.MAX_ID}
_SHAPES: dict[str, dict[str, Any]] = {
    "anything": {},
    "a boolean": {"type": "boolean"},
    "an integer": {"type": "integer"},
    "a number": {"type": "number"},
    "a string": {"type": "string"},
    "null": {"type": "null"},
    "an array": {"type": "array"},
    "an object": {"type": "object"},
}
URL_PATTERN = r"^https?://[A-Za-z0-9.-]+(:([1-9][0-9]{0,3}|[1-5][0-9]{4}))?(/[!#-;=?-\[\]_a-z|~]*)?$"
"""Matches most URLs; others may be valid, too."""
_TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # noqa: S105  what a header's name is made of (RFC 9110)
_VALUE = r"^([!-~]([ -~]*[!-~])?)?$"


def specification(title: str, version: str, description: str) -> APISpec:
    """Return a document with the fields of our own types, and the schema of results."""
    plugin = MarshmallowPlugin(schema_name_resolver=_name)
    info = {"description": description, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}}
    spec = APISpec(title=title, version=version, openapi_version=OPENAPI, plugins=[plugin], info=info)
    plugin.converter.field_mapping[Text] = ("string", None)
    plugin.converter.field_mapping[Seconds] = ("number", None)
    plugin.converter.add_attribute_function(_minimum)
    spec.components.schema("Result", schema=ResultSchema)
    return spec


def _name(schema: Any) -> str:
    return str(resolve_schema_cls(schema).__name__).strip("_").removesuffix("Schema")


def _minimum(_: Any, field: fields.Field[Any], **__: Any) -> dict[str, Any]:
    return {"minimum": 0} if isinstance(field, Seconds) else {}


def request_schema(sources: Sources) -> dict[str, Any]:
    """Return the schema of a request, with the checks, schemas and sources that this worker has."""
    common: dict[str, Any] = {
        "id": {"type": "string", **_ID, "description": "the result has it too; generated if absent"},
        "schema": {"type": "string", "enum": documents.names(), "description": "loads the document; default: json"},
        "checks": {"type": "array", "maxItems": requests.MAX_CHECKS, "items": {"$ref": "#/components/schemas/Check"}},
        "max_age": {"type": "number", "minimum": 0, "maximum": sys.float_info.max,
                    "description": "seconds: the oldest cached answer accepted; 0 fetches now"},
        "timeout": {"type": "number", "exclusiveMinimum": 0, "maximum": requests.MAX_TIMEOUT,
                    "description": "seconds: the deadline of the whole request"},
        "context": {"description": "any JSON, which the result repeats: at most 64 KiB"},
    }  # fmt: skip
    by_url = {
        "url": {"type": "string", "pattern": URL_PATTERN, "maxLength": MAX_URL,
                "examples": ["https://example.com/numbers/7"]},
        "method": {"type": "string", "enum": list(headers.METHODS), "description": "default: GET"},
        "headers": {"type": "object", "maxProperties": headers.MAX_HEADERS, "propertyNames": {"pattern": _TOKEN},
                    "additionalProperties": {"type": "string", "pattern": _VALUE,
                                             "maxLength": headers.MAX_HEADER_VALUE}},
        "body": {"description": "JSON, or a string that is sent as text"},
    }  # fmt: skip
    kinds = [_object({**by_url, **common}, "url")]
    for source in sources.by_name.values():
        params = {
            name: {"type": ["string", "number", "boolean", *(["array"] if name in source.lists else [])]}
            for name in sorted(source.names)
        }
        needed = [
            name
            for name in sorted(source.names)
            if name not in source.params or source.params[name].default is REQUIRED
        ]
        given = {"source": {"const": source.name}, "params": _object(params, *needed)}
        kinds.append(_object({**given, **common}, "source", *(["params"] if needed else [])))
    return {"description": RequestSchema.__doc__, "oneOf": kinds} if len(kinds) > 1 else kinds[0]


def check_schema() -> dict[str, Any]:
    """Return the schema of one check of a request: a name, or an object."""
    found = [checks.find(name) for name in checks.names()]
    bare = [check.name for check in found if not check.problems({})]
    kinds: list[dict[str, Any]] = [{"type": "string", "enum": bare}]
    for check in found:
        arguments = {name: _shape(each.shape.one) for name, each in check.signature.arguments.items()}
        args = _object(arguments, *sorted(check.signature.required))
        args["additionalProperties"] = check.signature.others
        field = {"type": "string", "minLength": 1, "maxLength": 256, "description": "a dotted path; default: all of it"}
        schema = _object({"name": {"const": check.name}, "field": field, "args": args}, "name")
        schema["description"] = (check.function.__doc__ or "").strip().partition("\n")[0]
        if check.name not in bare:
            schema["required"] = ["name", "args"]
        kinds.append(schema)
    return {"oneOf": kinds}


def _shape(words: str) -> dict[str, Any]:
    """Return the schema of a check's argument, as far as its description is a plain type."""
    kinds = [_SHAPES.get(each.partition(" of ")[0]) for each in words.split(" or ")]
    if None in kinds:
        return {"description": words}
    return {"description": words, **(kinds[0] or {})} if len(kinds) == 1 else {"description": words, "anyOf": kinds}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": list(required)} if required else schema


def schema_of(spec: APISpec, schema: type[Schema]) -> dict[str, str]:
    """Return the reference to a schema in a document, to which it is added."""
    name = _name(schema)
    if name not in spec.components.schemas:
        spec.components.schema(name, schema=schema)
    return {"$ref": f"#/components/schemas/{name}"}
