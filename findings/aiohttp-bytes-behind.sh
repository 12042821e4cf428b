#!/usr/bin/env bash
# Packages: aiohttp 3.14.5, httpx 0.28.1
# A server's answer is whole, as its Content-Length says, and stray bytes follow: a script's last line, a counted body with
# a footer behind it. Whether aiohttp's client returns that answer depends on how TCP cut it. Bytes that come in a
# later segment are ignored; in the same one they fail the request that was answered, with status 400, which no server
# sent, and neither head nor body can be had. httpx returns the answer in both cases.
# Seen:
#             one segment                    two segments
#   aiohttp   ClientResponseError, 400       200, b'ok'
#   httpx     200, b'ok'                     200, b'ok'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check aiohttp==3.14.5 httpx==0.28.1
"$folder/env/bin/python" - <<'PYTHON'
import asyncio

import aiohttp
import httpx

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BEHIND = b"<!-- 12 ms -->\n"


async def by_aiohttp(url: str) -> str:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url) as response:
                return f"{response.status}, {await response.read()!r}"
        except aiohttp.ClientResponseError as exc:
            return f"{type(exc).__name__}, {exc.status}"


async def by_httpx(url: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(url)
        return f"{response.status_code}, {response.content!r}"


async def answered(segments: list[bytes], get) -> str:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for segment in segments:
            writer.write(segment)
            await asyncio.sleep(0.3)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        return await get(f"http://{host}:{port}/")
    finally:
        await asyncio.sleep(0.7)  # until the server has sent everything
        server.close()


async def main() -> None:
    one, two = [ANSWER + BEHIND], [ANSWER, BEHIND]
    print(f"{'':8}  {'one segment':28}  two segments")
    seen = []
    for name, get in (("aiohttp", by_aiohttp), ("httpx", by_httpx)):
        seen.append((await answered(one, get), await answered(two, get)))
        print(f"{name:8}  {seen[-1][0]:28}  {seen[-1][1]}")
    ok = "200, b'ok'"
    assert seen == [("ClientResponseError, 400", ok), (ok, ok)], "it has changed"


asyncio.run(main())
PYTHON
