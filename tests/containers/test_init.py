"""The project of `millrace init`: its image, built on ours by its own Makefile, and a worker that runs its plugin."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from agents.commands import run
from agents.testing.broker import Broker, broker, free_port
from tests.containers.container import Container
from tests.containers.engine import Engine
from tests.integration.stage import Stage, Upstream

pytestmark = pytest.mark.containers

NAME = "rates-shop"
RATES = {"USD": "1.0873", "JPY": "168.42"}


@pytest.fixture(scope="module")
def kafka() -> Iterator[Broker]:
    with broker(need_real=True) as found:
        yield found


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """What stands for rates.example.com."""
    made = Upstream()

    async def rate(request: web.Request) -> web.Response:
        currency = request.match_info["currency"]
        text = f'{{"base": "EUR", "currency": "{currency}", "rate": {RATES[currency]}}}'
        return web.Response(text=text, content_type="application/json")

    made.app.router.add_get("/EUR/{currency}", rate)
    async with made:
        yield made


def built(engine: Engine, folder: Path, address: str) -> str:
    """Write a project whose upstream has this address, and build its image; returns the image's name."""
    assert run(["init", str(folder)]) == 0
    sources = folder / "sources.toml"
    sources.write_text(sources.read_text().replace("https://rates.example.com", address))
    path = f"{engine.environment['PATH']}:{os.environ['PATH']}"
    subprocess.run(["make", "image"], cwd=folder, env=engine.environment | {"PATH": path}, check=True)
    return f"{folder.name}:latest"


async def test_the_image_of_a_project_answers_by_its_plugin(
    engine: Engine, kafka: Broker, upstream: Upstream, tmp_path: Path
) -> None:
    """`make image` builds it on our image; it makes its topics, and a hardened worker of it answers a request of its
    source by its schema and its check.
    """
    image = built(engine, tmp_path / NAME, upstream.url)
    async with Stage(kafka.servers) as stage:
        ours = {name: text for name, text in stage.environment.items() if name.startswith(("KAFKA_B", "MILLRACE_"))}
        ours |= {"MILLRACE_WEB_PORT": str(free_port())}
        variables = [part for name, value in ours.items() for part in ("--env", f"{name}={value}")]
        made = engine.docker("run", "--rm", "--network", "host", *variables, image, "topics", "--create")
        assert "orders-priced" in made
        stage.partitions = 8
        container = Container(engine, image=image, **ours)
        container.until_healthy()
        request = b'{"id": "r0", "source": "rates", "params": {"currency": "USD"},'
        await stage.send([request + b'"checks": [{"name": "plausible", "field": "rate", "args": {"low": 2}}]}'])
        [seen] = await stage.results_of({"r0"})
        assert (seen.result["outcome"], seen.result["document"]["rate"]) == ("ok", float(RATES["USD"]))
        assert [(check["name"], check["value"]) for check in seen.result["checks"]] == [("plausible", False)]
        assert container.stop()[0] == 0
