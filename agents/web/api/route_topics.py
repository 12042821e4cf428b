"""Routes in the AsyncAPI document: the topics that each reads and writes, and in which format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from agents.routes.record import CHECKS, MISSING, PLACE
from models.dead_letter import LOOKUP, ROUTE
from models.route import PATTERN, REGISTERED, Route

BINDING = "0.5.0"
"""Version of the Kafka binding."""
_CONTENT_TYPES = {
    "json": "application/json", "json-schema": "application/json", "text": "text/plain",
    "bytes": "application/octet-stream", "avro": "application/vnd.apache.avro+binary",
    "protobuf": "application/x-protobuf",
}  # fmt: skip
_OUTPUT = {
    PLACE: "topic-partition-offset of the record that it was made of",
    MISSING: "name and outcome of each lookup that it goes without",
    CHECKS: "name and check results of each lookup whose checks have no other place",
}
_FAILED = {ROUTE: "the route", LOOKUP: "the lookup that failed"}


class Described(NamedTuple):
    """A channel of a route by its id, with its message, and whether the worker will `receive` or `send` it."""

    id: str
    channel: Mapping[str, Any]
    message: Mapping[str, Any]
    action: str


def described(routes: Mapping[str, Route], dead_letters: Mapping[str, str]) -> Iterator[Described]:
    """Yield the channels of routes; `dead_letters` are the headers that every dead letter has."""
    for route in routes.values():
        for number, topic in enumerate(route.topics, 1):
            yield Described(f"route-{route.name}-read-{number}", _read(route, topic), _record(route), "receive")
        yield Described(
            f"route-{route.name}-results", _channel(route.results, f"What the route {route.name} publishes"),
            _output(route), "send",
        )  # fmt: skip
        if route.failures is not None:
            message = {
                **_record(route),
                "summary": "the record's own bytes",
                "headers": _headers({**dead_letters, **_FAILED}),
            }
            channel = _channel(route.failures, f"Records that fail in the route {route.name}, unchanged (KIP-1191)")
            yield Described(f"route-{route.name}-failures", channel, message, "send")


def _read(route: Route, topic: str) -> dict[str, Any]:
    if not topic.startswith(PATTERN):
        return _channel(topic, f"Records that the route {route.name} reads")
    return {"address": None, "description": f"Every topic that matches {topic}, for the route {route.name}"}


def _channel(topic: str, description: str) -> dict[str, Any]:
    binding = {"kafka": {"topic": topic, "bindingVersion": BINDING}}
    return {"address": topic, "description": description, "bindings": binding}


def _record(route: Route) -> dict[str, Any]:
    return _message("a record", route.format, route.key_format)


def _output(route: Route) -> dict[str, Any]:
    what = {"merge": "the record with the answers in it", "document": "the answer's document", "result": "a result"}
    message = _message(what[route.output], route.results_format, route.key_format) | {"headers": _headers(_OUTPUT)}
    if route.output == "result":
        message["payload"] = {"$ref": "#/components/schemas/Result"}
    if route.results_subject is not None:
        message["description"] = f"by the latest schema of subject {route.results_subject}"
    return message


def _message(summary: str, form: str, key_form: str) -> dict[str, Any]:
    binding: dict[str, Any] = {"bindingVersion": BINDING, "key": {"description": f"by the format {key_form}, or none"}}
    if form in REGISTERED:
        binding |= {"schemaIdLocation": "payload", "schemaIdPayloadEncoding": "confluent"}
    return {"summary": summary, "contentType": _CONTENT_TYPES[form], "bindings": {"kafka": binding}}


def _headers(texts: Mapping[str, str]) -> dict[str, Any]:
    described = {name: {"type": "string", "description": text} for name, text in texts.items()}
    return {"type": "object", "properties": described}
