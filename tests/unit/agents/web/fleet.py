"""A fleet for the tests: real servers on loopback over the real API, each with tables of its own partitions; what is
pretended is what Kafka would bring: rows and the workers' records.
"""

from __future__ import annotations

import io
import json
from contextlib import AsyncExitStack
from typing import Any

import aiohttp

from agents.tables.rows import _named
from agents.web.api.local_rows import LocalRows
from agents.web.api.query import Query
from agents.web.api.routes import open_api
from models import strictjson
from models.histogram import Histogram
from models.source import Sources
from streams.config.settings import Kafka, Settings
from streams.web.server import Server

TOKEN = "a-token"


class Shelves:
    """Stored rows by table and partition, as JSON."""

    def __init__(self, held=()):
        self.partitions = frozenset(held)
        self.waiting = "ok"
        self.rows: dict[tuple[str, int], dict[bytes, bytes]] = {}
        self.store = self

    @property
    def all_recovered(self):
        return self.waiting == "ok"

    def put(self, table, partition, key, row):
        self.rows.setdefault((table, partition), {})[key] = json.dumps(row).encode()

    def get(self, table, partition, key):
        return self.rows.get((table, partition), {}).get(key)

    def scan(self, table, partition, prefix):
        rows = self.rows.get((table, partition), {})
        for key in list(rows):
            if key.startswith(prefix) and key in rows:
                yield key, rows[key]


def decode(table, partition, key, value, heads):
    """Make a row of a stored one."""
    row = json.loads(value) if heads else strictjson.loads(value, exact=True)
    if heads:
        row.pop("result", None)
    return row


class Heard:
    """The records that a worker has heard."""

    def __init__(self, me):
        self.me = me
        self.records: list[dict[str, Any]] = []

    def all(self):
        return self.records


class Member:
    """One worker of the fleet."""

    def __init__(self, name, held):
        self.name = name
        self.shelves = Shelves(held)
        self.local = LocalRows(self.shelves, decode)
        self.heard = Heard(name)
        self.query = Query(name)
        self.settings = Settings(kafka=Kafka(bootstrap_servers="127.0.0.1:1"), worker_id=name)
        self.sources = Sources()
        self.url = ""

    async def open(self, stack, partitions, token=TOKEN):
        await stack.enter_async_context(self.query)
        self.api = api = await stack.enter_async_context(open_api(self.settings, self.sources, self.query))
        server = Server("127.0.0.1", 0, dict, api.routes(), token=token)
        await stack.enter_async_context(server)
        self.url = f"http://127.0.0.1:{server.port}"
        self.query.set_local_rows(self.local, partitions)
        await self.query.set_registry(self.heard)
        return server

    def record(self, **more):
        told = {
            "id": self.name, "role": "all", "url": self.url, "silent_s": 0.2, "state": "running",
            "started_at": "2026-11-22T13:00:00Z", "at": "2026-11-22T14:00:00Z",
            "tables": {"partitions": sorted(self.shelves.partitions), "recovered": True, "lag": 0},
        }  # fmt: skip
        return told | more


class Fleet:
    """Opened with `async with`: workers with the partitions given, each of which has heard of all."""

    def __init__(self, *held, partitions=None):
        self.members = [Member(f"w{number}", each) for number, each in enumerate(held)]
        self.partitions = partitions or sum(len(each) for each in held)
        self._stack = AsyncExitStack()
        self.servers = []

    @property
    def apis(self):
        return [member.api for member in self.members]

    async def __aenter__(self):
        self.session = await self._stack.enter_async_context(aiohttp.ClientSession())
        for member in self.members:
            self.servers.append(await member.open(self._stack, self.partitions))
        self.tell()
        return self

    async def __aexit__(self, *_):
        await self._stack.aclose()

    def tell(self, **more):
        """Have everybody hear everybody's record; `more` by worker changes it."""
        records = [member.record(**more.get(member.name, {})) for member in self.members]
        for member in self.members:
            member.heard.records = list(records)

    def put(self, table, partition, key, row):
        """Put a row where its partition is held."""
        for member in self.members:
            if partition in member.shelves.partitions:
                member.shelves.put(table, partition, key, row)

    async def get(self, path, number=0, **headers):
        """Ask one worker; returns status, what it said, and the headers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(self.members[number].url + path, headers=named) as response:
            body = await response.read()
            return response.status, _read(response, body), response.headers

    async def post(self, path, body, number=0, *, token=TOKEN, **headers):
        """Send something, with the token unless told otherwise."""
        named = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes | io.BytesIO) else json.dumps(body).encode()
        async with self.session.post(self.members[number].url + path, data=data, headers=named) as response:
            return response.status, _read(response, await response.read()), response.headers


def _read(response, body):
    return json.loads(body) if response.content_type.endswith(("/json", "+json")) and body else body


def answer_row(number, partition=0, **more):
    """Return a row of answers."""
    at = f"2026-11-22T14:{number // 60 % 60:02d}:{number % 60:02d}.{number // 3600:03d}Z"
    row = {"key": f"k{number:06d}", "keyed": True, "id": f"r{number}", "outcome": "ok", "cache": "miss", "status": 200,
           "url": f"http://a.example/{number}", "host": "a.example", "fetched_at": at, "at": at,
           "elapsed_ms": number % 97, "attempts": 1, "partition": partition, "offset": number, "bytes": 200,
           "result": {"id": f"r{number}", "outcome": "ok", "elapsed_ms": 1.0}}  # fmt: skip
    return row | more


def counted(name, value, answers=1, seconds=0.02):
    """Return a partial row of hosts or outcomes."""
    latency = Histogram()
    for _ in range(answers):
        latency.add(seconds)
    named = _named(value) if name == "host" else {name: value}
    return {**named, "answers": {"ok": answers}, "cache": {"miss": answers}, "latency": latency.row(),
            "bytes": 100 * answers, "last_seen": "2026-11-22T14:00:00Z"}  # fmt: skip
