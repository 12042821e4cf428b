"""The API's own document: OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from agents.web.api import letter_filter, row_schemas, schemas
from agents.web.api.dead_letters import MAX_ERRORS
from agents.web.api.selection import DEFAULT_LIMIT, MAX_CONDITIONS, MAX_LIMIT, MAX_TEXT
from agents.web.api.specification import check_schema, request_schema, schema_of, specification
from agents.web.api.submission import MAX_KEY, MAX_WAIT
from agents.web.api.tables import TABLES
from models.errors import OUTCOMES
from models.source import Sources
from streams.web.security import TOKEN_HEADER

_ABOUT = (
    "The state of a Millrace worker and its peers: tables of results, workers, partitions, dead letters; and a way to "
    "submit requests. Anyone who can reach the worker may read; changes need the token."
)
_PROBLEMS = {
    400: "a parameter is invalid",
    401: "the token is missing or wrong",
    403: "no token is set: nothing can be changed",
    404: "not found",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is not JSON",
    421: "host not allowed",
    422: "the body is invalid: the fields are named",
    502: "a part failed",
    503: "not ready yet, or Kafka is unavailable: retry after Retry-After",
}
_TOKEN: list[dict[str, list[str]]] = [{"token": []}, {"own": []}]
_WRITING = (400, 401, 403, 408, 413, 415, 421, 422, 503)
_READING = (400, 421, 503)
_ROWS = (row_schemas.AnswerRowSchema, row_schemas.HostRowSchema, row_schemas.OutcomeRowSchema,
         row_schemas.CheckRowSchema)  # fmt: skip

MOMENT_PATTERN = (
    r"^([0-9]{1,9}[smhd]|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]Z)?$"
)
"""Matches ages, most times of ISO 8601, and nothing; other times may be valid, too."""


class Document:
    """Generates the document of a worker with these sources."""

    def __init__(self, sources: Sources) -> None:
        self.spec = specification("Millrace", version("millrace-kafka"), _ABOUT)
        components = self.spec.components
        components.schema("Check", component=check_schema())
        components.schema("Request", component=request_schema(sources))
        components.security_scheme("token", {"type": "http", "scheme": "bearer", "description": "MILLRACE_WEB_TOKEN"})
        components.security_scheme("own", {"type": "apiKey", "in": "header", "name": TOKEN_HEADER,
                                           "description": "The same, where Authorization is a proxy's"})  # fmt: skip
        self._problem = schema_of(self.spec, schemas.ProblemSchema)

    def write(self) -> dict[str, Any]:
        """Return the document."""
        self._tables()
        self._cluster()
        self._dead_letters()
        self._requests()
        written: dict[str, Any] = self.spec.to_dict()
        return written

    def _path(self, path: str, **operations: dict[str, Any]) -> None:
        self.spec.path(path=path, operations=operations)

    def _read(self, name: str, summary: str, answer: Mapping[str, Any], parameters: Iterable[Any] = (), *,
              problems: Iterable[int] = _READING, csv: bool = False, tag: str = "read") -> dict[str, Any]:  # fmt: skip
        content = {"application/json": {"schema": answer}}
        if csv:
            content["text/csv"] = {"schema": {"type": "string"}}
        found = {
            "description": summary,
            "content": content,
            "headers": {"ETag": _header("for If-None-Match next time")},
        }
        responses = {"200": found, "304": {"description": "unchanged since If-None-Match"}, **self._refusals(problems)}
        return {
            "operationId": name,
            "summary": summary,
            "tags": [tag],
            "parameters": list(parameters),
            "responses": responses,
        }

    def _refusals(self, statuses: Iterable[int]) -> dict[str, Any]:
        content = {"application/problem+json": {"schema": self._problem}}
        return {str(status): {"description": _PROBLEMS[status], "content": content} for status in statuses}

    def _write(self, name: str, summary: str, body: Mapping[str, Any], responses: Mapping[str, Any],
               parameters: Iterable[Any] = ()) -> dict[str, Any]:  # fmt: skip
        return {
            "operationId": name,
            "summary": summary,
            "tags": ["change"],
            "security": _TOKEN,
            "parameters": list(parameters),
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {**responses, **self._refusals(_WRITING)},
        }

    def _tables(self) -> None:
        rows = [schema_of(self.spec, each) for each in _ROWS]
        name = _in("path", "name", {"type": "string", "enum": list(TABLES)}, "the table", required=True)
        key = _in("path", "key", {"type": "string", "minLength": 1}, "the row's key; `/` in it as %2F", required=True)
        partial = schema_of(self.spec, row_schemas.PartialSchema)
        page = {"type": "object", "required": ["rows", "total"], "properties": {
            "rows": {"type": "array", "items": {"anyOf": rows}}, "total": {"type": "integer", "minimum": 0},
            "cursor": {"type": "string"}, "partial": partial}}  # fmt: skip
        self.spec.components.schema("Page", component=page)
        self._path(
            "/api/tables", get=self._read("tables", "The tables", schema_of(self.spec, row_schemas.TablesSchema))
        )
        page_of = {"$ref": "#/components/schemas/Page"}
        self._path("/api/tables/{name}", get=self._read(
            "rows", "A page of a table's rows", page_of, [name, *_selection()],
            csv=True, problems=(400, 404, 421, 503)))  # fmt: skip
        self._path("/api/tables/{name}/{key}", get=self._read(
            "row", "The whole row of a key; 404 only if certainly there is none", {"anyOf": rows},
            [name, key, _encoding()], problems=(400, 404, 421, 503)))  # fmt: skip
        hosts = schema_of(self.spec, row_schemas.HostsSchema)
        self._path("/api/hosts", get=self._read(
            "hosts", "Upstream hosts, with their breakers and limits", hosts, _selection(), csv=True))  # fmt: skip

    def _cluster(self) -> None:
        for name, summary, schema in (
            ("overview", "The state of the service", schemas.OverviewSchema),
            ("workers", "The workers", schemas.WorkersSchema),
            ("partitions", "The partitions and their owners", schemas.PartitionsSchema),
            ("sources", "The named sources", schemas.SourcesSchema),
            ("routes", "The routes", schemas.RoutesSchema),
            ("retry-later", "What is tried again later", schemas.RetryLaterSchema),
            ("pool", "This worker's check pool", None),
        ):
            answer = schema_of(self.spec, schema) if schema else {"type": "object"}
            self._path(f"/api/{name}", get=self._read(name.replace("-", "_"), summary, answer))
        self._routes()
        get = self._read("cache", "The caches", schema_of(self.spec, schemas.CacheSchema))
        one = [_in("query", each, {"type": "string"}, f"every entry of this {each}") for each in ("url", "source")]
        every = _in("query", "all", {"type": "string", "enum": ["true"]}, "everything")
        removed = schema_of(self.spec, schemas.RemovedSchema)
        purge = self._read("purge", "Purge this worker's cache: give one of the three", removed, [*one, every],
                           problems=(400, 401, 403, 421, 502, 503), tag="change")  # fmt: skip
        self._path("/api/cache", get=get, delete=purge | {"security": _TOKEN})

    def _routes(self) -> None:
        name = _in("path", "name", {"type": "string"}, "the route", required=True)
        walked, own = (schema_of(self.spec, each) for each in (schemas.WalkedRouteSchema, schemas.RouteSampleSchema))
        self._path("/api/routes/{name}", get=self._read(
            "route", "A route, with its latest record walked through", walked, [name],
            problems=(404, 421, 503)))  # fmt: skip
        self._path("/api/routes/{name}/sample", get=self._read(
            "route_sample", "The latest record of a route that this worker has read", own, [name],
            problems=(404, 421, 503)))  # fmt: skip

    def _dead_letters(self) -> None:
        errors = schema_of(self.spec, schemas.ErrorsSchema)
        self._path("/api/errors", get=self._read(
            "errors", "The latest dead letters, or those that match", errors, [_limit(MAX_ERRORS), *_letter_filter()]
        ))  # fmt: skip
        whole = {
            "200": _answer("The dead letter", schema_of(self.spec, schemas.WholeLetterSchema)),
            **self._refusals([404]),
        }
        self._path("/api/letter", post=self._write(
            "letter", "A dead letter with key, value, headers and its last result",
            schema_of(self.spec, schemas.PlaceSchema), whole
        ))  # fmt: skip
        redriven = {"200": _answer("What happened to each", schema_of(self.spec, schemas.RedrivenSchema))}
        body = schema_of(self.spec, schemas.RedriveSchema)
        self._path(
            "/api/redrive", post=self._write("redrive", "Put dead letters back on the requests topic", body, redriven)
        )

    def _requests(self) -> None:
        accepted = _answer("On the topic", schema_of(self.spec, schemas.AcceptedSchema))
        accepted["headers"] = {"Location": _header("where its result will be")}
        responses = {"200": _answer("The result itself", {"$ref": "#/components/schemas/Result"}), "202": accepted}
        key = _in("query", "key", {"type": "string", "maxLength": MAX_KEY}, "the record's key")
        wait = _in(
            "query", "wait", {"type": "number", "minimum": 0, "maximum": MAX_WAIT}, "seconds to wait for the result"
        )
        body = {"$ref": "#/components/schemas/Request"}
        operation = self._write("send", "Put a request on the topic", body, responses, [key, _encoding(), wait])
        self._path("/api/requests", post=operation)


def _answer(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _in(
    where: str, name: str, schema: Mapping[str, Any], description: str, *, required: bool = False
) -> dict[str, Any]:
    return {"in": where, "name": name, "schema": schema, "description": description, "required": required}


def _header(description: str) -> dict[str, Any]:
    return {"schema": {"type": "string"}, "description": description}


def _limit(most: int) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": DEFAULT_LIMIT}
    return _in("query", "limit", schema, "the maximum")


def _letter_filter() -> list[dict[str, Any]]:
    text = {"type": "string", "maxLength": letter_filter.MAX_TEXT}
    when = {"type": "string", "pattern": MOMENT_PATTERN, "examples": ["2h", "2026-11-22T14:00Z"]}
    return [
        _in("query", "outcome", {"type": "string", "enum": list(OUTCOMES)}, "only this outcome"),
        _in("query", "host", text, "only this host, with its port or without"),
        _in("query", "source", text, "only requests of this source"),
        _in("query", "status", {"type": "integer", "minimum": 100, "maximum": 599}, "only this status"),
        _in("query", "since", when, "only from this time on, ISO 8601 or an age"),
        _in("query", "until", when, "only from before this time"),
        _in("query", "retryable", {"type": "string", "enum": ["true"]}, "only what a retry may help"),
    ]


def _encoding() -> dict[str, Any]:
    return _in("query", "encoding", {"type": "string", "enum": ["base64"]}, "for keys that are not text")


def _selection() -> list[dict[str, Any]]:
    text = {"type": "string", "maxLength": MAX_TEXT}
    where = {"type": "array", "maxItems": MAX_CONDITIONS, "items": {"type": "string", "pattern": "^[^:]+:"}}
    return [
        _in("query", "prefix", text, "the beginning of the key"),
        _in("query", "where", where, "field:value, with dots into nested fields; all must hold"),
        _in("query", "begins", where, "field:beginning of its value; all must hold"),
        _in(
            "query", "sort", {"type": "string", "maxLength": MAX_TEXT}, "a field, `-` before it for the greatest first"
        ),
        _limit(MAX_LIMIT),
        _in("query", "cursor", {"type": "string"}, "the `cursor` of the page before; all else unchanged"),
        _in("query", "format", {"type": "string", "enum": ["json", "csv"]}, "instead of Accept"),
    ]


def openapi(sources: Sources) -> dict[str, Any]:
    """Return the OpenAPI document of a worker with these sources."""
    return Document(sources).write()
