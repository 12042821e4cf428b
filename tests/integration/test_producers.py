"""Requests of the clients that teams use, by each codec that these have, are answered: `make compat` runs this."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from agents.testing.broker import jars
from tests.integration.stage import Stage, Upstream
from tests.integration.test_codecs import CODECS, EACH, send_by_another_client

pytestmark = [pytest.mark.kafka, pytest.mark.compat]

SOURCES = Path(__file__).parents[1] / "producers"
BUILD_LIMIT = 900.0
"""Seconds for a client to be fetched and compiled."""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a command to its end; what it says is shown if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=BUILD_LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr


def java(_: Path) -> list[str]:
    return ["java", "-cp", f"{jars()}/*", str(SOURCES / "Send.java")]


def golang(folder: Path) -> list[str]:
    program = folder / "send"
    run("go", "build", "-o", program, ".", cwd=SOURCES / "go")
    return [str(program)]


def node(folder: Path) -> list[str]:
    shutil.copytree(SOURCES / "kafkajs", folder / "kafkajs")
    run("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=folder / "kafkajs")
    return ["node", str(folder / "kafkajs" / "send.js")]


CLIENTS = {
    "Java": ("java", java, [], CODECS),
    "franz-go": ("go", golang, ["franz-go"], CODECS),
    "kafka-go": ("go", golang, ["kafka-go"], CODECS),
    "KafkaJS": ("npm", node, [], ("gzip", "snappy", "none")),
}
"""By client: the program that it needs, how the command is made, its first arguments, and the codecs that it has."""


async def test_librdkafka(stage: Stage, upstream: Upstream) -> None:
    """Requests by confluent-kafka are answered."""
    await answered(stage, await asyncio.to_thread(send_by_another_client, stage, upstream.url))


@pytest.mark.parametrize("client", CLIENTS)
async def test_client(stage: Stage, upstream: Upstream, tmp_path: Path, client: str) -> None:
    """Requests by the client are answered, keys and headers as they were."""
    needed, make, arguments, codecs = CLIENTS[client]
    if shutil.which(needed) is None:
        pytest.skip(f"needs {needed}")
    command = [*await asyncio.to_thread(make, tmp_path), *arguments]
    for codec in codecs:
        await asyncio.to_thread(run, *command, stage.servers, stage.requests, codec, str(EACH), upstream.url)
    await answered(stage, {f"{codec}-{number}" for codec in codecs for number in range(EACH)})


async def answered(stage: Stage, ids: set[str]) -> None:
    """Start a worker and see that each request has one result, `ok`, under its key."""
    await stage.start()
    await stage.until_results(len(ids))
    seen = await stage.results_of(ids)
    assert Counter(each.result["outcome"] for each in seen) == {"ok": len(ids)}
    assert all(each.key == each.result["id"].rpartition("-")[2].encode() for each in seen)
