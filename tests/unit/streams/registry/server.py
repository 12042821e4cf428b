"""A schema registry that speaks as much of Confluent's API as clients and serializers need, for tests."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter

from aiohttp import web

GUIDS = uuid.UUID("5f0b1b3c-0000-4000-8000-000000000000")


class RegistryServer:
    """Keeps schemas by id, GUID, subject and version. `fails`: a status for every answer; `pause`: seconds before each;
    `login`: the Authorization that it wants. `guids`: whether it knows them. `requests` counts paths.
    """

    def __init__(self):
        self.schemas = []
        self.requests = Counter()
        self.fails = self.login = None
        self.pause = 0.0
        self.guids = True

    async def open(self, stack, ssl_context=None):
        app = web.Application(middlewares=[self._watch])
        app.add_routes(
            [
                web.post("/subjects/{subject}/versions", self._register),
                web.post("/subjects/{subject}", self._register),
                web.get("/subjects/{subject}/versions/{version}", self._version),
                web.get("/schemas/ids/{id:\\d+}", self._by_id),
                web.get("/schemas/guids/{guid}", self._by_guid),
                web.get("/schemas/types", self._types),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
        await site.start()
        scheme = "https" if ssl_context else "http"
        self.url = f"{scheme}://localhost:{site._server.sockets[0].getsockname()[1]}"
        return self

    def add(self, subject, text, kind="AVRO", references=()):
        """Register a schema; returns its id."""
        version = 1 + sum(each["subject"] == subject for each in self.schemas)
        number = len(self.schemas) + 1
        guid = str(uuid.UUID(int=GUIDS.int + number))
        refers = [{"name": name, "subject": other, "version": which} for name, other, which in references]
        self.schemas.append({"subject": subject, "version": version, "id": number, "guid": guid, "schema": text,
                             "schemaType": kind, "references": refers})  # fmt: skip
        return number

    @web.middleware
    async def _watch(self, request, handler):
        self.requests[request.path_qs] += 1
        await asyncio.sleep(self.pause)
        if self.fails is not None:
            return web.Response(status=self.fails, text="<h1>broken</h1>")
        if self.login is not None and request.headers.get("Authorization") != self.login:
            return web.json_response({"error_code": 40101, "message": "Unauthorized"}, status=401)
        return await handler(request)

    async def _register(self, request):
        body = await request.json()
        subject = request.match_info["subject"]
        for each in self.schemas:
            if (each["subject"], each["schema"]) == (subject, body["schema"]):
                return web.json_response(each)
        refers = [(each["name"], each["subject"], each["version"]) for each in body.get("references") or ()]
        number = self.add(subject, body["schema"], body.get("schemaType", "AVRO"), refers)
        return web.json_response(self.schemas[number - 1])

    async def _version(self, request):
        subject, version = request.match_info["subject"], request.match_info["version"]
        found = [each for each in self.schemas if each["subject"] == subject]
        if not found:
            return self._unknown(40401, "Subject not found.")
        if version != "latest":
            found = [each for each in found if each["version"] == int(version)]
        return web.json_response(found[-1]) if found else self._unknown(40402, "Version not found.")

    async def _by_id(self, request):
        found = [each for each in self.schemas if each["id"] == int(request.match_info["id"])]
        return web.json_response(found[0]) if found else self._unknown(40403, "Schema not found")

    async def _by_guid(self, request):
        if not self.guids:
            raise web.HTTPNotFound
        found = [each for each in self.schemas if each["guid"] == request.match_info["guid"]]
        return web.json_response(found[0]) if found else self._unknown(40403, "Schema not found")

    async def _types(self, _):
        return web.json_response(["JSON", "PROTOBUF", "AVRO"])

    def _unknown(self, code, message):
        return web.json_response({"error_code": code, "message": message}, status=404)
