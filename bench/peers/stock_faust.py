"""Stock Faust as its guide has it: an agent with `concurrency`, events acknowledged when the block ends."""

from __future__ import annotations

from agents.entry import EntryPoint

if __name__ == "__main__":  # first: it needs neither the library nor the settings below
    parser = EntryPoint(
        "bench.peers.stock_faust", f"{__doc__}\nA worker that `python -m bench` starts, with its settings."
    )
    parser.add_argument("command", choices=("worker",), help="Faust's own, as the options are")
    parser.add_argument("-l", "--loglevel")
    parser.add_argument("--without-web", action="store_true")
    parser.begin()

import json
import os
import time

import aiohttp
import faust

from bench.peers.same import checked, headers, read, result

app = faust.App(
    os.environ["MILLRACE_GROUP"],
    broker=f"kafka://{os.environ['KAFKA_BOOTSTRAP_SERVERS']}",
    value_serializer="raw",
    web_enabled=False,
    topic_allow_declare=False,
    topic_disable_leader=True,
    stream_recovery_delay=0.0,
    producer_linger=0.005,
    producer_max_batch_size=262144,
    stream_buffer_maxsize=4096,
    datadir=os.environ.get("TMPDIR", "/tmp") + "/stock-faust",
)
requests = app.topic(os.environ["MILLRACE_REQUESTS_TOPIC"], key_type=bytes, value_type=bytes)
results = app.topic(os.environ["MILLRACE_RESULTS_TOPIC"], key_type=bytes, value_type=bytes)
known: dict[str, tuple[object, float, list[dict]]] = {}
session: aiohttp.ClientSession | None = None


@app.agent(requests, concurrency=256)
async def answer(stream):
    global session
    if session is None:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    async for event in stream.events():
        request = read(event.value)
        url = request["url"]
        found = known.get(url)
        cache = "hit"
        if found is None:
            cache = "miss"
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=30)) as response:
                document = json.loads(await response.read())
            found = known[url] = document, time.time(), checked(request, document)
        made = result(request, event.message, found, cache)
        await (await results.send(key=event.key, value=json.dumps(made).encode(), partition=event.message.partition,
                                  headers=headers(made["id"])))  # fmt: skip


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    app.main()
