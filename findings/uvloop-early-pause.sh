#!/usr/bin/env bash
# Packages: uvloop 0.23.0
# A protocol that calls `transport.pause_reading()` in `connection_made` reads nothing under asyncio (CPython 3.11.4 and
# later) until it resumes. uvloop starts to read after `connection_made` whatever was called in it: `is_reading()` is
# False, and yet data arrives, its end too, and the connection is closed. So a server that holds back the connections
# it has no room for gets their data all the same. A pause in the next turn of the loop is heeded, but data may come before.
# Seen:
#   asyncio: is_reading() False, received []
#   uvloop:  is_reading() False, received [b'data', 'end', 'lost']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check uvloop==0.23.0
"$folder/env/bin/python" - <<'PYTHON'
import asyncio
import socket

import uvloop


class Paused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:
        transport.pause_reading()
        self.transport, self.reading, self.received = transport, transport.is_reading(), []

    def data_received(self, data: bytes) -> None:
        self.received.append(data)

    def eof_received(self) -> None:
        self.received.append("end")

    def connection_lost(self, exc: Exception | None) -> None:
        self.received.append("lost")


async def main() -> tuple[bool, list]:
    accepted = asyncio.get_running_loop().create_future()

    def protocol() -> Paused:
        accepted.set_result(Paused())
        return accepted.result()

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.sendall(b"data")
        paused = await accepted
        await asyncio.sleep(0.5)
    await asyncio.sleep(0.5)
    seen = paused.reading, list(paused.received)
    paused.transport.abort()
    server.close()
    return seen


seen = {"asyncio:": asyncio.run(main()), "uvloop: ": uvloop.run(main())}
for loop, (reading, received) in seen.items():
    print(f"{loop} is_reading() {reading}, received {received}")
assert list(seen.values()) == [(False, []), (False, [b"data", "end", "lost"])], "it has changed"
PYTHON
