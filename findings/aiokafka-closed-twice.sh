#!/usr/bin/env bash
# Package: aiokafka 0.14.0
# A client whose broker does not read any more cannot be closed: what it has written waits. A caller that gives close() a time
# with asyncio.wait_for gets its TimeoutError. But that has cancelled the future which every connection keeps of its own end,
# and from then on close() ends with a CancelledError at once, in a task that nobody has cancelled: `except
# Exception` does not see it, and a finally block that closes again ends its task without a word.
# Seen:
#   first close()    TimeoutError
#   second close()   CancelledError, though the task was asked to cancel 0 times
#   its task         cancelled, nothing behind close() has run
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check aiokafka==0.14.0
"$folder/env/bin/python" - <<'PYTHON'
import asyncio
import struct

from aiokafka.admin import AIOKafkaAdminClient

API_VERSIONS, METADATA = 18, 3
TOPICS = [f"{number:05d}" + "t" * 200 for number in range(60_000)]
"""A request of 12 MB: more than the sockets of both ends hold."""


class Broker:
    """Answers two kinds of request, and reads nothing more once it is `frozen`."""

    async def start(self) -> None:
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.host, self.port = self.server.sockets[0].getsockname()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                await self.thawed.wait()
                key, _, correlation = struct.unpack(">hhi", (await reader.readexactly(size))[:8])
                body = self.versions() if key == API_VERSIONS else self.metadata()
                writer.write(struct.pack(">ii", 4 + len(body), correlation) + body)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    def versions(self) -> bytes:
        """Version 0: no error, and these two requests in their lowest versions."""
        return struct.pack(">hi", 0, 2) + struct.pack(">hhh", API_VERSIONS, 0, 0) + struct.pack(">hhh", METADATA, 1, 1)

    def metadata(self) -> bytes:
        """Version 1: this broker alone, which is the controller, and no topic."""
        host = self.host.encode()
        return struct.pack(f">iih{len(host)}sihii", 1, 1, len(host), host, self.port, -1, 1, 0)


async def main() -> None:
    broker = Broker()
    await broker.start()
    client = AIOKafkaAdminClient(bootstrap_servers=f"{broker.host}:{broker.port}")
    await client.start()
    await client.list_topics()
    broker.thawed.clear()
    asking = asyncio.create_task(client.describe_topics(TOPICS))
    await asyncio.sleep(1)
    asking.cancel()

    first, second, behind = "closed", "closed", []

    async def close_again() -> None:
        nonlocal second
        try:
            await client.close()
        except asyncio.CancelledError:
            second = f"CancelledError, though the task was asked to cancel {asyncio.current_task().cancelling()} times"
            raise
        behind.append("ran")

    try:
        await asyncio.wait_for(client.close(), 2)
    except TimeoutError:
        first = "TimeoutError"
    task = asyncio.create_task(close_again())
    await asyncio.wait([task], timeout=10)
    ended = "cancelled, nothing behind close() has run" if task.cancelled() and not behind else f"{task}"
    print(f"first close()    {first}\nsecond close()   {second}\nits task         {ended}", flush=True)
    broker.thawed.set()
    assert first == "TimeoutError"
    assert second == "CancelledError, though the task was asked to cancel 0 times"
    assert ended == "cancelled, nothing behind close() has run"


asyncio.run(main())
PYTHON
