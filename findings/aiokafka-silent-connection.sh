#!/usr/bin/env bash
# Package: aiokafka 0.14.0
# A connection to a broker goes silent, as one does that a firewall has forgotten; a new one would work. A caller that gives
# a call its own, shorter time with asyncio.wait_for never gets one: cancelled calls do not count against the
# connection, so each further call is sent over it and waits in vain, however many there are. Only a call that outlives the
# client's request_timeout_ms (40 s) closes it. A shorter request_timeout_ms does, after the first call.
# Seen:
#   wait_for(..., 1.5)            0 new connections: TimeoutError, TimeoutError, TimeoutError, TimeoutError, TimeoutError
#   and request_timeout_ms=1000   1 new connections: RequestTimedOutError, ok, ok, ok, ok
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check aiokafka==0.14.0
"$folder/env/bin/python" - <<'PYTHON'
import asyncio
import struct

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import RequestTimedOutError

API_VERSIONS, METADATA = 18, 3


class Broker:
    """Answers two kinds of request. `hang()`: connections that are open stay open, and nothing is answered on them."""

    def __init__(self) -> None:
        self.opened: list[bool] = []

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.host, self.port = self.server.sockets[0].getsockname()

    def hang(self) -> None:
        self.opened = [False for _ in self.opened]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.opened)
        self.opened.append(True)
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                key, _, correlation = struct.unpack(">hhi", (await reader.readexactly(size))[:8])
                body = self.versions() if key == API_VERSIONS else self.metadata()
                if self.opened[number]:
                    writer.write(struct.pack(">ii", 4 + len(body), correlation) + body)
        except asyncio.IncompleteReadError:
            writer.close()

    def versions(self) -> bytes:
        """Version 0: no error, and these two requests in their lowest versions."""
        return struct.pack(">hi", 0, 2) + struct.pack(">hhh", API_VERSIONS, 0, 0) + struct.pack(">hhh", METADATA, 1, 1)

    def metadata(self) -> bytes:
        """Version 1: this broker alone, which is the controller, and no topic."""
        host = self.host.encode()
        return struct.pack(f">iih{len(host)}sihii", 1, 1, len(host), host, self.port, -1, 1, 0)


async def calls(**options: int) -> str:
    broker = Broker()
    await broker.start()
    client = AIOKafkaAdminClient(bootstrap_servers=f"{broker.host}:{broker.port}", **options)
    await client.start()
    await client.list_topics()
    broker.hang()
    before, seen = len(broker.opened), []
    for _ in range(5):
        try:
            await asyncio.wait_for(client.list_topics(), 1.5)
            seen.append("ok")
        except (TimeoutError, RequestTimedOutError) as exc:
            seen.append(type(exc).__name__)
    await client.close()
    broker.server.close()
    return f"{len(broker.opened) - before} new connections: {', '.join(seen)}"


async def main() -> None:
    alone = await calls()
    print(f"wait_for(..., 1.5)            {alone}")
    within = await calls(request_timeout_ms=1000)
    print(f"and request_timeout_ms=1000   {within}")
    assert alone == "0 new connections: " + ", ".join(["TimeoutError"] * 5)
    assert within == "1 new connections: RequestTimedOutError, ok, ok, ok, ok"


asyncio.run(main())
PYTHON
