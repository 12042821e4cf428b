"""Named sources, conditional requests and the cache command, as a real worker does them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.integration.memcached import Memcached
from tests.integration.stage import Stage, Upstream
from tests.integration.test_commands import millrace

SOURCES = """
[sources.letters]
url = "{url}/{{account}}/letters?after={{after}}"
params.after.default = 0
auth.type = "client_credentials"
auth.token_url = "{url}/token"
auth.client_id = "us"
auth.client_secret.env = "LETTERS"
checks = [{{ name = "sha256", field = "subject" }}]
cache.ttl = 60

[sources.orders]
url = "{url}/orders"
method = "POST"
retry.unsafe = true
response_headers = ["X-Order"]
body = {{ item = "{{item}}", count = "{{count}}", note = "for {{item}}" }}
headers.X-Api-Key = {{ file = "{key}" }}

[sources.sums]
call = "sums:total"
"""
SUMS = """
def total(numbers, start=0):
    return {"total": sum(numbers, start)}
"""


class Office(Upstream):
    """An upstream with a token endpoint, letters with ETags, and orders that fail once each."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[web.Request] = []
        self.bodies: list[Any] = []
        self.app.router.add_post("/token", self._token)
        self.app.router.add_get("/{account}/letters", self._letters)
        self.app.router.add_post("/orders", self._orders)
        self.app.router.add_post("/refused", self._refuse)
        self.app.router.add_delete("/orders", self._delete)

    async def _token(self, _: web.Request) -> web.Response:
        self.calls["token"] += 1
        return web.json_response({"access_token": "tok-12345", "token_type": "Bearer", "expires_in": 600})

    async def _letters(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        if request.headers.get("Authorization") != "Bearer tok-12345":
            return web.Response(status=401)
        if request.headers.get("If-None-Match") == '"1"':
            return web.Response(status=304)
        document = {"subject": request.match_info["account"], "after": request.query["after"]}
        return web.json_response(document, headers={"ETag": '"1"'})

    async def _orders(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        self.bodies.append(await request.json())
        if len(self.bodies) == 1:
            return web.Response(status=503)
        return web.json_response({"done": True}, headers={"X-Order": "17"})

    async def _refuse(self, _: web.Request) -> web.Response:
        self.calls["refused"] += 1
        return web.json_response({"detail": "no ink"}, status=503, content_type="application/problem+json")

    async def _delete(self, _: web.Request) -> web.Response:
        return web.Response(status=204)


async def answer(stage: Stage, **request: Any) -> dict[str, Any]:
    """Send one request and return its result."""
    await stage.producer.send(stage.requests, json.dumps(request).encode())
    seen = await stage.results_of({request["id"]})
    return next(each.result for each in seen if each.result["id"] == request["id"])


def configure(stage: Stage, office: Office, folder: Path) -> None:
    (folder / "key").write_text("key-67890\n")
    (folder / "sums.py").write_text(SUMS)
    (folder / "sources.toml").write_text(SOURCES.format(url=office.url, key=folder / "key"))
    stage.settings |= {
        "MILLRACE_SOURCES": str(folder / "sources.toml"),
        "LETTERS": "secret-of-letters",
        "PYTHONPATH": str(folder),
        "MILLRACE_WEB_TOKEN": "web-token",
    }


async def test_sources_are_asked_as_they_say(stage: Stage, tmp_path: Path) -> None:
    """A token is fetched once and shown, values go to their places, checks run, what has not changed is revalidated. A
    POST is tried again with one Idempotency-Key where its source says so, and once where nobody does; an error has the
    upstream's words, a DELETE no document. A function is called; no secret is in any result or the log.
    """
    async with Office() as office:
        configure(stage, office, tmp_path)
        worker = await stage.start()
        letters = {"source": "letters", "params": {"account": "a b"}}
        first = await answer(stage, id="1", **letters)
        assert (first["outcome"], first["document"]) == ("ok", {"subject": "a b", "after": "0"})
        assert first["request"] == {
            "method": "GET",
            "url": f"{office.url}/a%20b/letters?after=0",
            "source": "letters",
        }
        assert first["checks"][0]["name"] == "sha256"
        assert (await answer(stage, id="2", **letters, max_age=0))["cache"] == "bypass"
        held = await answer(stage, id="3", **letters, max_age=0.001)
        assert (held["cache"], held["document"], held["attempts"]) == ("revalidated", first["document"], 1)
        assert office.seen[-1].headers["If-None-Match"] == '"1"'
        assert office.calls["token"] == 1

        order = {"source": "orders", "params": {"item": "pen", "count": 3}}
        done = await answer(stage, id="4", **order)
        assert (done["outcome"], done["attempts"], done["headers"]) == ("ok", 2, {"x-order": "17"})
        assert office.bodies == [{"item": "pen", "count": 3, "note": "for pen"}] * 2
        keys = {request.headers["Idempotency-Key"] for request in office.seen[-2:]}
        assert len(keys) == 1
        assert keys.pop().startswith(f"{stage.requests}-")
        assert office.seen[-1].headers["X-Api-Key"] == "key-67890"

        refused = await answer(stage, id="r", url=f"{office.url}/refused", method="POST", body={})
        assert (refused["status"], refused["attempts"], office.calls["refused"]) == (503, 1, 1)
        assert refused["error"]["body"] == '{"detail": "no ink"}'
        deleted = await answer(stage, id="d", url=f"{office.url}/orders", method="DELETE")
        assert (deleted["outcome"], deleted["status"], "document" in deleted) == ("ok", 204, False)

        total = await answer(stage, id="5", source="sums", params={"numbers": [1, 2, 3]})
        assert (total["document"], total["request"]) == ({"total": 6}, {"source": "sums"})

        for number, bad in enumerate(({"account": "../x"}, {}, {"account": "a", "what": 1}, {"account": "%2e%2e"})):
            refused = await answer(stage, id=f"bad{number}", source="letters", params=bad)
            assert refused["outcome"] == "invalid_request", refused
            assert refused["error"]["message"].startswith("params")
        everything = json.dumps([each.result for each in await stage.read()]) + "".join(worker.log)
        for secret in ("secret-of-letters", "tok-12345", "key-67890"):
            assert secret not in everything


async def test_a_bad_file_of_sources_stops_the_start(stage: Stage, tmp_path: Path) -> None:
    """The worker ends with 2 and names each problem with its line; `config --sources` does the same, without Kafka."""
    (tmp_path / "s.toml").write_text('[sources.a]\nurl = "ftp://x"\n\n[sources.b]\nurl = "http://h/"\nschema = "no"\n')
    stage.settings["MILLRACE_SOURCES"] = str(tmp_path / "s.toml")
    for command in (["worker"], ["config", "--sources"], ["config", "--sources", str(tmp_path / "s.toml")]):
        code, _, err = await millrace(stage, *command, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
        assert code == 2
        assert "line 2: sources.a.url" in err
        assert "line 6: sources.b.schema" in err


async def test_the_cache_can_be_looked_into_and_purged(stage: Stage, tmp_path: Path) -> None:
    """`cache stats`, `get` and `purge` reach files, memcached and the memory of a worker that is named."""
    async with Office() as office, Memcached() as memcached:
        configure(stage, office, tmp_path)
        stage.settings["MILLRACE_CACHE"] = (
            f"memory:// file://{tmp_path}/cache memcached://127.0.0.1:{memcached.port}?timeout=2"
        )
        worker = await stage.start()
        url = f"{office.url}/doc/7"
        letters = {"source": "letters", "params": {"account": "ann"}}
        await answer(stage, id="1", url=url)
        await answer(stage, id="2", url=url, schema="text")
        await answer(stage, id="3", **letters)

        code, out, err = await millrace(stage, "cache", "stats", "--json", "--worker", worker.url)
        assert code == 0, err
        told = {(line["where"], line["tier"]): line for line in map(json.loads, out.splitlines())}
        assert told[worker.url, "memory"]["entries"] == 3
        assert told["here", "file"]["entries"] == 3
        assert told["here", "memcached"]["items"] == 3

        code, out, _ = await millrace(stage, "cache", "get", "--url", url, "--json")
        assert (code, json.loads(out)["answer"]["document"]) == (0, {"n": 7})
        code, out, _ = await millrace(stage, "cache", "get", "--request", json.dumps(letters))
        assert (code, '"subject":"ann"' in out, '"checks":[{"name":"sha256"' in out) == (0, True, True)
        assert (await millrace(stage, "cache", "get", "--url", url + "0"))[0] == 1
        assert (await millrace(stage, "cache", "get", "--request", "{"))[0] == 2

        code, out, err = await millrace(stage, "cache", "purge", "--url", url, "--worker", worker.url, "--json")
        assert (code, json.loads(out)) == (0, {"removed": 6}), err  # two entries, in three tiers
        assert (await answer(stage, id="4", url=url))["cache"] == "miss"
        assert (await answer(stage, id="5", **letters, max_age=300))["cache"] == "hit"
        code, out, _ = await millrace(stage, "cache", "purge", "--source", "letters", "--worker", worker.url, "--json")
        assert (code, json.loads(out)) == (0, {"removed": 3})
        assert (await millrace(stage, "cache", "purge"))[0] == 2
        code, _, err = await millrace(stage, "cache", "purge", "--all", "--worker", worker.url, MILLRACE_WEB_TOKEN="")
        assert (code, "set MILLRACE_WEB_TOKEN to the worker's token" in err) == (1, True)
