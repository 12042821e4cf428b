"""The topics' own document: AsyncAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from agents.web.api.route_topics import BINDING, described
from agents.web.api.schemas import WorkerSchema
from agents.web.api.specification import check_schema, request_schema, schema_of, specification
from models.dead_letter import DLQ
from models.source import Sources
from streams.config.settings import Settings

ASYNCAPI = "3.1.0"
_TRACE = {"traceparent": "W3C trace context, carried on to the call and the result", "tracestate": "with traceparent"}
_EVENT = {
    "ce_specversion": "CloudEvents: 1.0",
    "ce_type": "millrace.result",
    "ce_source": "which service answered",
    "ce_id": "the request's id",
    "content-type": "application/json",
}
_DEAD_LETTER = {
    "topic": "of the request", "partition": "of the request", "offset": "of the request", "group": "that answered it",
    "delivery.count": "how often it was delivered", "message": "why its outcome is not ok", "outcome": "of its result",
    "id": "of the request", "host": "of the upstream", "timestamp": "of the request, in ms",
    "first": "topic, partition and offset of its first delivery", "value.bytes": "size of a value that was left out",
    "unreadable": "which part the value is of something that could not be decoded: record, batch, or elsewhere",
}  # fmt: skip


def asyncapi(settings: Settings, sources: Sources) -> dict[str, Any]:
    """Return the AsyncAPI document of a worker: which topics it reads and writes, and what their records are."""
    spec = specification("Millrace", version("millrace-kafka"), "")
    spec.components.schema("Check", component=check_schema())
    spec.components.schema("Request", component=request_schema(sources))
    worker = schema_of(spec, WorkerSchema)
    shapes: dict[str, Any] = spec.to_dict()["components"]["schemas"]
    channels = {
        "requests": _channel(settings.requests_topic, "Requests, with any key or none"),
        "results": _channel(settings.results_topic, "A result for every request, with its key, in its partition"),
        "deadLetters": _channel(settings.dead_letters_topic, "Requests whose outcome is not ok, unchanged (KIP-1191)"),
        "workers": _channel(
            settings.workers_topic,
            "What each worker reports about itself once a second, and its shares of shared limits; compacted",
        ),
    }
    letters = {DLQ + name: text for name, text in _DEAD_LETTER.items()}
    messages = {
        "requests": _message(
            "Request",
            "a request, by itself or as the data of a CloudEvent in structured mode",
            {"ce_id": "the request's id, if the body has none"} | _TRACE,
        ),
        "results": _message("Result", "a result", _EVENT | _TRACE),
        "deadLetters": _message(None, "the request's own bytes", letters),
        "workers": _message("Worker", "a worker's record", {}, key="the worker's id", schema=worker),
    }
    actions = {"requests": "receive", "results": "send", "deadLetters": "send", "workers": "send"}
    for each in described(sources.routes, letters):
        channels[each.id], messages[each.id], actions[each.id] = dict(each.channel), dict(each.message), each.action
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "Millrace",
            "version": version("millrace-kafka"),
            "description": "Put a request on a topic; get a fetched, validated, checked answer on another.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            name: {**channel, "messages": {name: {"$ref": f"#/components/messages/{name}"}}}
            for name, channel in channels.items()
        },
        "operations": {
            f"{action}{name[0].upper()}{name[1:]}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
            }
            for name, action in actions.items()
        },
        "components": {"messages": messages, "schemas": shapes},
    }


def _channel(topic: str, description: str) -> dict[str, Any]:
    binding = {"kafka": {"topic": topic, "bindingVersion": BINDING}}
    return {"address": topic, "description": description, "bindings": binding}


def _message(
    name: str | None,
    summary: str,
    headers: Mapping[str, str],
    *,
    key: str = "any bytes, or none",
    schema: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    message: dict[str, Any] = {
        "summary": summary,
        "contentType": "application/json" if name else "application/octet-stream",
        "bindings": {"kafka": {"key": {"type": "string", "description": key}, "bindingVersion": BINDING}},
    }
    if name is not None:
        message["name"] = name
        message["payload"] = schema or {"$ref": f"#/components/schemas/{name}"}
    if headers:
        described = {each: {"type": "string", "description": text} for each, text in headers.items()}
        message["headers"] = {"type": "object", "properties": described}
    if "ce_id" in headers and name == "Result":
        message["correlationId"] = {"location": "$message.header#/ce_id", "description": "the request's id"}
    return message
