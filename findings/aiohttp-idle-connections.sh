#!/usr/bin/env bash
# Packages: aiohttp 3.14.5
# `TCPConnector(limit=N)` bounds the connections in use. Those that idle between two requests are not counted: a client
# that asks many hosts once each, never more than one at a time, holds one open connection for every host until the
# keep-alive time is over, however small the limit. What runs out is the process's open files.
# Seen:
#   limit 2, 100 hosts asked one after the other: 100 connections open
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check aiohttp==3.14.5
"$folder/env/bin/python" - <<'PYTHON'
import asyncio

import aiohttp

HOSTS, LIMIT = 100, 2
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def main() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWER)

    open_now: set[asyncio.StreamWriter] = set()

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now.add(writer)
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            open_now.discard(writer)
            writer.close()

    server = await asyncio.start_server(counted, [f"127.0.1.{number + 1}" for number in range(HOSTS)], 0)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=LIMIT)) as session:
        for listening in server.sockets:
            host, port = listening.getsockname()
            async with session.get(f"http://{host}:{port}/") as response:
                await response.read()
        seen = len(open_now)
    print(f"limit {LIMIT}, {HOSTS} hosts asked one after the other: {seen} connections open")
    assert seen == HOSTS, "it has changed"
    server.close()


asyncio.run(main())
PYTHON
