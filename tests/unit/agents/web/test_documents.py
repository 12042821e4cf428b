"""The documents that the API and the topics have of themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import openapi_spec_validator
import pytest

from agents.web.api.asyncapi import asyncapi
from agents.web.api.openapi import openapi
from models.request import RequestSchema, load
from models.result_schema import ResultSchema
from models.route import Route
from models.source import Param, Source, Sources
from models.template import UrlTemplate
from streams.config.settings import Settings
from tests.unit.agents.web.fleet import Fleet

SCHEMA = Path(__file__).parent / "asyncapi_schema" / "3.1.0.json"
"""AsyncAPI's own, unmodified, from the npm package @asyncapi/specs 6.11.1."""
SOURCES = Sources({
    "quotes": Source("quotes", UrlTemplate("https://a.example/{symbol}?r={range}"), params={"range": Param("1d")}),
    "plain": Source("plain", UrlTemplate("https://a.example/")),
})  # fmt: skip


@pytest.fixture
async def fleet():
    async with Fleet({0}) as opened:
        yield opened


@pytest.mark.slow
async def test_the_openapi_document_is_valid(fleet):
    """/openapi.json is OpenAPI 3.1, also with sources; it is the same for who has it already."""
    status, told, headers = await fleet.get("/openapi.json")
    assert (status, told["openapi"]) == (200, "3.1.0")
    openapi_spec_validator.validate(told)
    openapi_spec_validator.validate(openapi(SOURCES))
    assert (await fleet.get("/openapi.json", If_None_Match=headers["ETag"]))[0] == 304


async def test_every_route_of_the_api_is_in_it(fleet):
    """No path or method of /api that the document does not have, but the one for other workers, and none too many."""
    _, told, _ = await fleet.get("/openapi.json")
    described = {(path, method) for path, operations in told["paths"].items() for method in operations}
    served = {(re.sub(r":[^}]*", "", route.path), route.method.lower()) for route in fleet.apis[0].routes()}
    assert described == {each for each in served if each[0].startswith("/api/")} - {("/api/held/{name}", "get")}


def test_routes_are_in_the_asyncapi_document():
    """Each topic that is read or written, patterns too, with its format, and where a schema's id is."""

    def route(name, topics, **more):
        return Route(name, topics, f"{name}-out", (), **more)

    routes = {each.name: each for each in (
        route("orders", ("orders", "^returns-.*"), failures="failed", format="avro", output="result"),
        route("texts", ("texts",), format="text", results_format="avro", results_subject="texts-value"),
    )}  # fmt: skip
    told = asyncapi(Settings(), Sources({}, {}, routes))
    jsonschema.validators.validator_for(schema := json.loads(SCHEMA.read_bytes()))(schema).validate(told)
    channels, messages = told["channels"], told["components"]["messages"]
    assert {name: each["address"] for name, each in channels.items() if name.startswith("route-")} == {
        "route-orders-read-1": "orders", "route-orders-read-2": None, "route-orders-results": "orders-out",
        "route-orders-failures": "failed", "route-texts-read-1": "texts", "route-texts-results": "texts-out",
    }  # fmt: skip
    assert "^returns-.*" in channels["route-orders-read-2"]["description"]
    assert messages["route-orders-read-1"]["bindings"]["kafka"]["schemaIdPayloadEncoding"] == "confluent"
    assert messages["route-orders-results"]["payload"] == {"$ref": "#/components/schemas/Result"}
    assert "__dlq.errors.route" in messages["route-orders-failures"]["headers"]["properties"]
    assert messages["route-texts-read-1"]["contentType"] == "text/plain"
    assert "texts-value" in messages["route-texts-results"]["description"]


@pytest.mark.slow
async def test_the_asyncapi_document_is_valid(fleet):
    """/asyncapi.json is AsyncAPI 3.1 by the specification's own JSON Schema, and its references lead somewhere."""
    status, told, _ = await fleet.get("/asyncapi.json")
    assert status == 200
    jsonschema.validators.validator_for(schema := json.loads(SCHEMA.read_bytes()))(schema).validate(told)
    assert {channel["address"] for channel in told["channels"].values()} == {
        "requests", "results", "dead-letters", "millrace-workers"}  # fmt: skip
    for reference in _references(told):
        found = told
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


def _references(value):
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def validator(name, sources=SOURCES):
    document = openapi(sources)
    return jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    )


def test_the_described_request_has_the_fields_of_the_real_one():
    """No field of the contract is left out of the document, and none is made up."""
    kinds = openapi(SOURCES)["components"]["schemas"]["Request"]["oneOf"]
    assert set().union(*(kind["properties"] for kind in kinds)) == RequestSchema().fields.keys()
    assert openapi(SOURCES)["components"]["schemas"]["Result"]["properties"].keys() == ResultSchema().fields.keys()


GOOD = [
    {"url": "https://example.com"},
    {"url": "http://a.example:8080/x?y=1", "id": "a", "method": "POST", "headers": {"X-A": "b c"}, "body": {"a": [1]}},
    {
        "url": "http://a.example/",
        "checks": ["is_prime", {"name": "range", "field": "n", "args": {"low": 1}}],
        "max_age": 0,
    },
    {"url": "http://a.example/", "timeout": 300, "schema": "text", "body": None, "context": None},
    {"url": "http://a.example/", "context": {"order": [1, "a"]}},
]
BAD = [
    {}, [], {"url": 1}, {"url": "ftp://a.example/"}, {"url": "http://a b/"}, {"url": "http://a.example/", "nope": 1},
    {"url": "http://a.example/", "id": ""}, {"url": "http://a.example/", "id": "x" * 129},
    {"url": "http://a.example/", "timeout": 0}, {"url": "http://a.example/", "timeout": 301},
    {"url": "http://a.example/", "checks": ["nope"]}, {"params": {}},
    {"url": "http://a.example/", "checks": ["range"]}, {"url": "http://a.example/", "method": "BREW"},
    {"url": "http://a.example/", "headers": {"a b": "c"}}, {"url": "http://a.example/", "headers": {"a": "b\nc"}},
    {"url": "http://a.example/", "source": "quotes"}, {"url": "http://a.example/", "params": {}},
    {"url": "http://a.example/", "checks": [{"name": "is_prime", "args": {"x": 1}}]},
    {"url": "http://a.example/", "max_age": -1},
]  # fmt: skip


@pytest.mark.parametrize("members", GOOD)
def test_what_is_a_request_is_one_by_the_document(members):
    """What the worker takes, the document describes."""
    load(members)
    validator("Request").validate(members)


@pytest.mark.parametrize("members", BAD)
def test_what_is_none_is_none_by_the_document(members):
    """What the worker refuses, the document does not describe."""
    with pytest.raises(jsonschema.ValidationError):
        validator("Request").validate(members)


@pytest.mark.parametrize(
    ("members", "fine"),
    [
        ({"source": "quotes", "params": {"symbol": "A"}}, True),
        ({"source": "quotes", "params": {"symbol": 1, "range": "5d"}}, True),
        ({"source": "plain"}, True), ({"source": "quotes"}, False), ({"source": "quotes", "params": {}}, False),
        ({"source": "plain", "params": {"x": 1}}, False), ({"source": "nope"}, False),
        ({"source": "plain", "method": "GET"}, False),
    ],
)  # fmt: skip
def test_the_sources_of_the_worker_are_described(members, fine):
    """Each named source with the parameters that it takes and needs."""
    assert validator("Request").is_valid(members) is fine


def test_every_check_is_described():
    """Each check with its arguments; those that need none also by name alone."""
    check = validator("Check")
    assert check.is_valid("is_prime")
    assert check.is_valid({"name": "one_of", "field": "a.b", "args": {"values": [1]}})
    assert not check.is_valid("one_of")
    assert not check.is_valid({"name": "one_of", "args": {"values": 1}})
    assert not check.is_valid({"name": "regex", "args": {}})


@pytest.mark.parametrize("path", ["", "/init.js", "/swagger-ui.css", "/swagger-ui-bundle.js"])
async def test_swagger_ui_is_served_by_us(fleet, path):
    """/docs and its files come from here, each with its type and an ETag, and nothing of them from elsewhere."""
    status, body, headers = await fleet.get("/docs" + path)
    assert status == 200
    assert headers["Content-Type"] == {"": "text/html", "/swagger-ui.css": "text/css"}.get(path, "text/javascript")
    assert (await fleet.get("/docs" + path, If_None_Match=headers["ETag"]))[0] == 304
    assert b"<script>" not in body or path
    assert b"https://" not in body or path.startswith("/swagger")


async def test_no_other_file_is_served(fleet):
    """Not what lies beside them, nor what a path could climb to."""
    for path in ("/docs/package.json", "/docs/../server.py", "/docs/%2e%2e/server.py", "/docs/swagger-ui/LICENSE"):
        assert (await fleet.get(path))[0] == 404


def test_a_parameter_that_takes_a_list_is_described_so():
    """A list goes into `{name*}` alone."""
    sources = Sources({"s": Source("s", UrlTemplate("https://a.example/{one}?many={many*}"))})
    request = validator("Request", sources)
    assert request.is_valid({"source": "s", "params": {"one": 1, "many": ["a", 2]}})
    assert request.is_valid({"source": "s", "params": {"one": 1, "many": "a"}})
    assert not request.is_valid({"source": "s", "params": {"one": [1], "many": "a"}})
