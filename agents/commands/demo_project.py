"""The demo of a project: its own sources, routes and plugins, with the records and responses of its folder demo.

demo/TOPIC.jsonl has the records of a topic, a value a line. demo/responses/HOST/PATH is the body that a URL of a source
returns, PATH?QUERY if it has a query; URLs without a file return 404.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agents.commands import DONE, FAILED, printable, say
from agents.commands.demo_stage import PATIENCE, create, listen, start_worker
from models.errors import MillraceError
from models.retry_later import delay_topics

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from aiohttp import web

    from agents.testing.broker import Broker
    from models.source import Sources
    from streams.config.settings import Settings

FOLDER, RESPONSES = "demo", "responses"
SUFFIX = ".jsonl"
POLL_MS = 100
REASON = "__dlq.errors.message"
_URL = re.compile(r"""(\b(?:token_)?url\s*=\s*["'])https?://""")
"""Where a URL of sources.toml begins."""


class Sample(NamedTuple):
    """A record to send, and the topics of which one gets what becomes of it."""

    topic: str
    value: bytes
    outputs: tuple[str, ...]


async def show(found: Broker, project: Path) -> int:
    """Run the demo; returns 0 only if something came out for each record. Raises MillraceError if there is none."""
    from streams.config import settings as configuration
    from streams.config.plugins import load_plugins
    from streams.config.settings import Kafka
    from streams.kafka import client
    from streams.sources import load

    settings = configuration.load()
    load_plugins(settings)
    sources = load(settings.sources)
    samples = list(_samples(project / FOLDER, settings, sources))
    read = {topic for route in sources.routes.values() for topic in route.all_topics}
    delays = delay_topics(settings.group, sources.delays)
    await create(found, sorted({*settings.topics(), *read, *delays, *(sample.topic for sample in samples)}))
    kafka = Kafka(bootstrap_servers=found.servers)
    outputs = sorted({topic for sample in samples for topic in sample.outputs})
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(_serve(project / FOLDER / RESPONSES))
        consumer = await stack.enter_async_context(client.consumer(kafka, *outputs))
        producer = await stack.enter_async_context(client.producer(kafka))
        environment = stack.enter_context(_environment(found, settings, address))
        worker = await stack.enter_async_context(start_worker(environment))
        for number, sample in enumerate(samples):
            await producer.send(sample.topic, sample.value, key=b"%d" % number)
        missing = await _follow(consumer, samples, worker)
    for sample in missing:
        say(f"nothing came out for this record of {sample.topic}: {_text(sample.value)}")
    say(f"{len(samples)} records sent, {len(samples) - len(missing)} came out")
    return FAILED if missing else DONE


def _samples(folder: Path, settings: Settings, sources: Sources) -> Iterator[Sample]:
    """Yield the records of the folder's files. Raises MillraceError if there are none, or nothing reads them."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        msg = f"no records in {folder}: it needs a file TOPIC{SUFFIX}, such as {settings.requests_topic}{SUFFIX}"
        raise MillraceError(msg)
    for path in files:
        topic = path.name.removesuffix(SUFFIX)
        routes = [route for route in sources.routes.values() if route.reads(topic)]
        if topic != settings.requests_topic and not routes:
            msg = f"no route of MILLRACE_SOURCES reads the topic of {path}: {topic!r}"
            raise MillraceError(msg)
        for value in filter(None, path.read_bytes().splitlines()):
            if topic == settings.requests_topic:
                yield Sample(topic, value, (settings.results_topic,))
            for route in routes:
                yield Sample(topic, value, (route.results, route.failures or settings.dead_letters_topic))


@contextlib.asynccontextmanager
async def _serve(folder: Path) -> AsyncIterator[str]:
    """Serve the recorded responses on loopback; yields host and port."""
    from aiohttp import web

    async def respond(request: web.Request) -> web.Response:
        body = _recorded(folder, request.path.lstrip("/"), request.query_string)
        if body is None:
            raise web.HTTPNotFound
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    async with listen(app) as address:
        yield address


def _recorded(folder: Path, path: str, query: str) -> bytes | None:
    """Return the body recorded for a path of the demo's upstream, None if there is none in the folder."""
    for name in (f"{path}?{query}", path):
        file = (folder / name).resolve()
        if file.is_relative_to(folder.resolve()) and file.is_file():
            return file.read_bytes()
    return None


@contextlib.contextmanager
def _environment(found: Broker, settings: Settings, address: str) -> Iterator[Mapping[str, str]]:
    """Yield a worker's environment: this one, with the broker, and with sources whose URLs lead to the address."""
    with tempfile.TemporaryDirectory(prefix="millrace-demo-") as folder:
        sources = Path(folder) / "sources.toml"
        if settings.sources:
            text = Path(settings.sources).read_text(encoding="utf-8")
            sources.write_text(_URL.sub(rf"\1http://{address}/", text), encoding="utf-8")
        yield {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")} | {
            "KAFKA_BOOTSTRAP_SERVERS": found.servers,
            "MILLRACE_SOURCES": str(sources) if settings.sources else "",
        }


async def _follow(consumer: Any, samples: Sequence[Sample], worker: Process) -> Sequence[Sample]:
    """Print what comes out; returns the records for which nothing did before time was up or the worker ended."""
    waiting = dict(enumerate(samples))
    deadline = time.monotonic() + PATIENCE
    while waiting and worker.returncode is None and time.monotonic() < deadline:
        for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
            for record in records:
                sample = waiting.get(int(record.key))
                if sample is None or record.topic not in sample.outputs:
                    continue
                del waiting[int(record.key)]
                reason = dict(record.headers).get(REASON)
                print(f"{sample.topic} → {record.topic}  {_text(record.value or b'')}"
                      + (f"  ← {_text(reason)}" if reason else ""), flush=True)  # fmt: skip
    return list(waiting.values())


def _text(value: bytes) -> str:
    return printable(value.decode(errors="replace"))
