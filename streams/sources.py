"""Reads sources.toml. Everything that is wrong with it is reported at once, each with its line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from marshmallow import Schema, ValidationError

from models import strictjson
from models.errors import SettingsError
from models.route import Route
from models.route_check import route_problems, settings_problems
from models.schema import problems
from models.source import REQUIRED, Param, Source, Sources
from models.source_schema import CALL, LimitsSchema, SourceSchema
from streams.config.secrets import Steps, hardened, read_secret, secrets_in
from streams.config.settings import Settings
from streams.functions import function_of, signature_of
from streams.http.policy import tls_context
from streams.http.url import without_default_port
from streams.telemetry.timed import timed

_LINE = re.compile(r"[^\n]*\n|[^\n]+")  # str.splitlines ends lines at characters that TOML does not
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[1-9][0-9]{0,4})?")
MAX_FILE_BYTES = 1 << 20
"""Bytes of a sources.toml."""


class Problem(NamedTuple):
    """What is wrong, and where: the line, and the path of the key."""

    line: int
    where: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.where}: {self.reason}" if self.where else f"line {self.line}: {self.reason}"


@timed(name="load_sources")
def load(path: str) -> Sources:
    """Read a file of sources; no path, no sources. Raises SettingsError with every problem, one a line."""
    if not path:
        return Sources()
    try:
        content = Path(path).read_bytes()
    except OSError as exc:
        msg = f"MILLRACE_SOURCES: {path!r} cannot be read: {exc.strerror}"
        raise SettingsError(msg) from None
    sources, wrong = parse(content)
    if wrong:
        raise SettingsError("\n".join(f"{path}: {problem}" for problem in wrong))
    return sources


def parse(content: bytes) -> tuple[Sources, list[Problem]]:
    """Read a file's bytes; returns what is right in it, and every problem in the order of lines."""
    if len(content) > MAX_FILE_BYTES:
        return Sources(), [Problem(1, "", f"the file has {len(content)} bytes; at most {MAX_FILE_BYTES} are read")]
    try:
        text = content.decode("utf-8-sig")
        members = tomllib.loads(text, parse_float=_number)
    except UnicodeDecodeError as exc:
        return Sources(), [Problem(content.count(b"\n", 0, exc.start) + 1, "", "is not UTF-8")]
    except tomllib.TOMLDecodeError as exc:
        return Sources(), [_not_toml(text, exc)]
    except (ValueError, RecursionError) as exc:  # an endless number, or what nests too deep
        return Sources(), [Problem(1, "", f"cannot be read: {exc}")]
    reader = _Reader(lines_of(text))
    return reader.read(members), sorted(reader.wrong)


TRIED_AGAIN = (
    "retry_later: what is tried again is read by a group of its own, whose offsets are not in the transactions of "
    "MILLRACE_DELIVERY=exactly-once: leave out one of the two"
)


def route_misfits(settings: Settings, sources: Sources) -> list[str]:
    """Return what is wrong with routes and sources beside a worker's settings."""
    found = [TRIED_AGAIN] if settings.exactly_once and sources.delays else []
    return found + settings_problems(
        sources.routes, sources.by_name, requests=settings.requests_topic, results=settings.results_topic,
        dead_letters=settings.dead_letters_topic, workers=settings.workers_topic, group=settings.group,
        timeout=settings.timeout, registry=bool(settings.registry_url),
    )  # fmt: skip


class _Reader:
    """Takes the parsed file apart and collects what is wrong."""

    def __init__(self, lines: Mapping[Steps, int]) -> None:
        self._lines = lines
        self.wrong: list[Problem] = []

    def read(self, members: Mapping[str, Any]) -> Sources:
        for name in members.keys() - {"sources", "hosts", "routes"}:
            self._report((name,), "unknown table; known: sources, hosts, routes")
        found = {name: self._source(name, table) for name, table in self._tables(members, "sources")}
        hosts = {self._host(name): self._load(LimitsSchema(), ("hosts", name), table)
                 for name, table in self._tables(members, "hosts")}  # fmt: skip
        sources = {name: source for name, source in found.items() if source is not None}
        return Sources(sources, {name: limits for name, limits in hosts.items() if limits is not None},
                       self._routes(members, sources, found.keys() - sources.keys()))  # fmt: skip

    def _routes(
        self, members: Mapping[str, Any], sources: Mapping[str, Source], wrong: Collection[str]
    ) -> dict[str, Route]:
        """Return the routes, of which none is to name a source that there is not; `wrong` are reported already."""
        if "routes" not in members:
            return {}
        from models.route_schema import RouteSchema  # noqa: PLC0415  loads JMESPath

        routes: dict[str, Route] = {}
        for name, table in self._tables(members, "routes"):
            route = self._load(RouteSchema(), ("routes", name), table)
            if route is not None:
                routes[name] = replace(route, name=name)
        for steps, reason in route_problems(routes, sources, wrong):
            self._report(("routes", *steps), reason)
        return routes

    def _host(self, name: str) -> str:
        """Return a host as requests name it: without a port that is a scheme's own."""
        if not _HOST.fullmatch(name):
            self._report(("hosts", name), "is not a host: give host, or host:port")
        return without_default_port(name)

    def _tables(self, members: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
        tables = members.get(name, {})
        if isinstance(tables, dict):
            yield from tables.items()
        else:
            self._report((name,), "must be a table of tables")

    def _source(self, name: str, table: Any) -> Source | None:
        where = ("sources", name)
        source: Source | None = self._load(SourceSchema(), where, table)
        digest = hashlib.blake2b(json.dumps([name, table], sort_keys=True, default=str).encode(), digest_size=16)
        readable = True
        for steps, secret in secrets_in(table):
            try:
                digest.update(hardened(read_secret(secret), name))
            except ValueError as exc:
                readable = False
                self._report((*where, *steps), str(exc))
        params = self._params(where, table, source)
        if source is None:
            return None
        if source.tls is not None and readable:
            try:
                tls_context(source.tls)
            except ValueError as exc:
                self._report((*where, "tls"), str(exc))
        return dataclasses.replace(source, name=name, identity=digest.hexdigest(), params=params)

    def _params(self, where: Steps, table: Any, source: Source | None) -> Mapping[str, Param]:
        """Return a source's parameters; a function's are those of its signature, and what the file says of them."""
        call = table.get("call") if isinstance(table, dict) else None
        declared = {} if source is None else source.params
        if not isinstance(call, str) or not CALL.fullmatch(call):
            return declared
        try:
            params = signature_of(function_of(call))
        except ValueError as exc:
            self._report((*where, "call"), str(exc))
            return declared
        for name in declared.keys() - params.keys() if params else ():
            self._report((*where, "params", name), f"is not a parameter of {call}")
        for name in params.keys() - declared.keys():
            if source is not None and not _is_json(params[name].default):
                kind = type(params[name].default).__name__
                self._report((*where, "call"), f"{call}: the default of {name} is a {kind}, which JSON does not have: "
                                               f"give params.{name}.default here, or None there")  # fmt: skip
        return {**params, **declared}

    def _load(self, schema: Schema, where: Steps, table: Any) -> Any:
        try:
            return schema.load(table)
        except ValidationError as exc:
            for path, reason in problems(exc.messages):
                written = (*where, *_as_written(path))
                if where[0] == "hosts" and reason == "unknown field" and (name := _unquoted(where[1], table)):
                    self._report(written, f'a name with dots needs quotes: [hosts."{name}"]')
                else:
                    self._report(written, _IN_TOML.get(reason, reason))
            return None

    def _report(self, steps: Steps, reason: str) -> None:
        """Note a problem at the line of the key, or of the nearest table around it."""
        line = next((self._lines[steps[:end]] for end in range(len(steps), 0, -1) if steps[:end] in self._lines), 1)
        self.wrong.append(Problem(line, ".".join(steps), reason))


def _unquoted(name: str, table: Any) -> str | None:
    """Return the host whose name TOML took for a path of tables, None if it did not."""
    parts = [name]
    while isinstance(table, dict) and len(table) == 1:
        [(part, inner)] = table.items()
        if not isinstance(inner, dict):
            break
        parts.append(part)
        table = inner
    return ".".join(parts) if len(parts) > 1 and "." not in name else None


_IN_TOML = {
    "must be a JSON object": "must be a table",
    "Not a valid list": "must be an array: write it in brackets",
}
"""What values are called here that elsewhere come as JSON."""


def _is_json(default: Any) -> bool:
    """Whether a default can be the value of a request's parameter."""
    try:
        return default is REQUIRED or bool(strictjson.dumps(default))
    except (TypeError, ValueError):
        return False


def _as_written(path: Steps) -> Steps:
    """Return a path without the steps that marshmallow adds inside a table of named values."""
    at = 2 if path[:1] == ("lookups",) else 0  # behind the number of a lookup
    if path[at : at + 1] in (("params",), ("form",)) and path[at + 2 : at + 3] in (("key",), ("value",)):
        return path[: at + 2] + path[at + 3 :]
    return path


def _number(text: str) -> float:
    """Read a TOML float with its digits: a default of 1.10 goes into URLs and bodies as it was written."""
    digits = text.replace("_", "").removeprefix("+")
    number = float(digits)
    return number if repr(number) == digits or not math.isfinite(number) else strictjson.Number(digits)


def _not_toml(text: str, exc: tomllib.TOMLDecodeError) -> Problem:
    reason, _, place = str(exc).partition(" (at line ")
    number = place.partition(",")[0]
    return Problem(int(number) if number.isdecimal() else text.count("\n") + 1, "", f"is not TOML: {reason}")


def lines_of(text: str) -> dict[Steps, int]:
    """Return the line on which each key and table of a valid TOML text begins; tables of an array have numbers.

    tomllib tells no lines. A text is a row of statements, each of one line or more: lines are joined until they parse.
    """
    lines: dict[Steps, int] = {}
    counts: Counter[Steps] = Counter()
    table: Steps = ()
    begun: list[str] = []
    for number, line in enumerate(_LINE.findall(text), 1):
        begun.append(line)
        try:
            statement = tomllib.loads("".join(begun))
        except tomllib.TOMLDecodeError:
            continue
        first = number - len(begun) + 1
        opening = begun[0].lstrip()[:2]
        begun = []
        paths = list(_paths(statement))
        if opening[:1] == "[":
            table = _table(paths[-1], counts, is_of_array=opening == "[[")
            paths = [table[:end] for end in range(1, len(table) + 1)]
        else:
            paths = [(*table, *path) for path in paths]
        for path in paths:
            lines.setdefault(path, first)
    return lines


def _table(named: Steps, counts: Counter[Steps], *, is_of_array: bool) -> Steps:
    """Return the path of a table of this name: one of an array has a number, and so have those inside of one."""
    path: Steps = ()
    for left, step in zip(range(len(named) - 1, -1, -1), named, strict=True):
        path = (*path, step)
        if is_of_array and not left:
            counts[path] += 1
        if path in counts:
            path = (*path, str(counts[path] - 1))
    return path


def _paths(value: Any, steps: Steps = ()) -> Iterator[Steps]:
    if steps:
        yield steps
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*steps, key))
