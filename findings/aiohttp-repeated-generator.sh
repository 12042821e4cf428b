#!/usr/bin/env bash
# Packages: aiohttp 3.14.5
# A client middleware may call its handler again, and aiohttp's own DigestAuthMiddleware does so after a 401. A body from an
# asynchronous generator has been read by then: the second request, the one with the credentials, goes out with an empty
# chunked body, and nothing is raised. The server stores 0 bytes and answers 200. A redirect refuses to send such a
# body again (ClientPayloadError), so a good guess is that a middleware gets the same error.
# Seen:
#   digest, bytes:      200, the server stored 6 bytes
#   digest, generator:  200, the server stored 0 bytes
#   307, generator:     ClientPayloadError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check aiohttp==3.14.5
"$folder/env/bin/python" - <<'PYTHON'
import asyncio

import aiohttp
from aiohttp import web

CHALLENGE = {"WWW-Authenticate": 'Digest realm="store", nonce="1", qop="auth", algorithm=SHA-256'}


async def store(request: web.Request) -> web.Response:
    body = await request.read()
    if "Authorization" not in request.headers:
        return web.Response(status=401, headers=CHALLENGE)
    return web.Response(text=str(len(body)))


async def move(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=307, headers={"Location": "/store"})


async def generated():
    yield b"one"
    yield b"two"


async def put(url: str, body) -> str:
    digest = aiohttp.DigestAuthMiddleware("user", "password")
    async with aiohttp.ClientSession(middlewares=(digest,)) as session:
        try:
            async with session.put(url, data=body) as response:
                return f"{response.status}, the server stored {await response.text()} bytes"
        except aiohttp.ClientPayloadError as exc:
            return type(exc).__name__


async def main() -> None:
    app = web.Application()
    app.add_routes([web.put("/store", store), web.put("/move", move)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    seen = {
        "digest, bytes:     ": await put(f"http://{host}:{port}/store", b"onetwo"),
        "digest, generator: ": await put(f"http://{host}:{port}/store", generated()),
        "307, generator:    ": await put(f"http://{host}:{port}/move", generated()),
    }
    await runner.cleanup()
    for case, end in seen.items():
        print(case, end)
    expected = ["200, the server stored 6 bytes", "200, the server stored 0 bytes", "ClientPayloadError"]
    assert list(seen.values()) == expected, "it has changed"


asyncio.run(main())
PYTHON
