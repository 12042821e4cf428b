#!/usr/bin/env bash
# Packages: uvloop 0.23.0, aiokafka 0.14.0
# `write` on a transport whose connection is lost does nothing under asyncio, which logs a warning from the sixth time
# on. uvloop's does nothing between the loss and `connection_lost`, and from then on raises RuntimeError, which is no
# OSError. aiokafka's `AIOKafkaConnection.send` turns OSError alone into KafkaConnectionError, and hears of the loss from
# its reading task, two turns of the loop later: a request that is sent in between fails with an error that its callers
# do not catch. The task in which its client looks up brokers ended of it, and the client waited for a coordinator for ever.
# Seen (here the loss is the client's own `abort`):
#   asyncio: write: nothing raised; aiokafka: KafkaConnectionError
#   uvloop:  write: RuntimeError; aiokafka: RuntimeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check uvloop==0.23.0 aiokafka==0.14.0
"$folder/env/bin/python" - <<'PYTHON'
import asyncio
import struct

import uvloop
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

VERSIONS = struct.pack(">hihhhhhh", 0, 2, 3, 0, 5, 18, 0, 0)  # a broker that takes Metadata 0 to 5 and ApiVersions 0


async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            request = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
            frame = request[4:8] + VERSIONS
            writer.write(len(frame).to_bytes(4, "big") + frame)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> tuple[str, str]:
    async with await asyncio.start_server(broker, "127.0.0.1", 0) as server:
        place = server.sockets[0].getsockname()
        _, writer = await asyncio.open_connection(*place)
        writer.transport.abort()
        await asyncio.sleep(0.1)
        plain = "nothing raised"
        try:
            writer.write(b"data")
        except Exception as exc:
            plain = type(exc).__name__
        connection = await create_conn(*place)
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        try:
            await connection.send(MetadataRequest([]))
        except KafkaConnectionError:
            sent = "KafkaConnectionError"
        except Exception as exc:
            sent = type(exc).__name__
        connection.close()
        await asyncio.sleep(0.1)
        return plain, sent


seen = {"asyncio:": asyncio.run(main()), "uvloop: ": uvloop.run(main())}
for loop, (plain, sent) in seen.items():
    print(f"{loop} write: {plain}; aiokafka: {sent}")
wanted = [("nothing raised", "KafkaConnectionError"), ("RuntimeError", "RuntimeError")]
assert list(seen.values()) == wanted, "it has changed"
PYTHON
