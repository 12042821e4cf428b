"""Requests of the clients that teams use, by each codec that these have, are answered: `make compat` runs this."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import pytest

from agents.testing.broker import KAFKA_VERSION, jars
from tests.integration.stage import Seen, Stage, Upstream
from tests.integration.test_codecs import CODECS, EACH

pytestmark = [pytest.mark.kafka, pytest.mark.compat]

SOURCES = Path(__file__).parents[1] / "producers"
BUILD_LIMIT = 900.0
"""Seconds for a client to be fetched and compiled."""
HEADERS = {"own": "ü".encode(), "none": None}
"""The headers that every record is sent with."""
WITHOUT_NULLS = {"KafkaJS"}
"""Clients that cannot send a header without a value: theirs is empty."""


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


def python(_: Path) -> list[str]:
    return [sys.executable, str(SOURCES / "send.py")]


def go_module(name: str) -> str:
    """Return the version of a module that go.mod names."""
    return re.search(rf"{name} v(\S+)", (SOURCES / "go" / "go.mod").read_text())[1]


def npm_package(name: str) -> str:
    return json.loads((SOURCES / "kafkajs" / "package.json").read_text())["dependencies"][name]


CLIENTS = {
    "Java": ("java", java, [], CODECS, lambda: KAFKA_VERSION),
    "librdkafka": (sys.executable, python, [], CODECS, lambda: confluent_kafka.libversion()[0]),
    "franz-go": ("go", golang, ["franz-go"], CODECS, lambda: go_module("twmb/franz-go")),
    "Sarama": ("go", golang, ["Sarama"], CODECS, lambda: go_module("IBM/sarama")),
    "kafka-go": ("go", golang, ["kafka-go"], CODECS, lambda: go_module("segmentio/kafka-go")),
    "KafkaJS": ("npm", node, [], ("gzip", "snappy", "none"), lambda: npm_package("kafkajs")),
}
"""By client: the program that it needs, how the command is made, its first arguments, the codecs that it has, and its
version.
"""


@pytest.mark.parametrize("client", CLIENTS)
async def test_client(
    stage: Stage, upstream: Upstream, tmp_path: Path, client: str, record_property: Callable[[str, object], None]
) -> None:
    """Requests by the client are answered, keys and headers as they were; its tombstones become dead letters."""
    needed, make, arguments, codecs, version = CLIENTS[client]
    if shutil.which(needed) is None:
        pytest.skip(f"needs {needed}")
    record_property("version", version())
    command = [*await asyncio.to_thread(make, tmp_path), *arguments]
    for codec in codecs:
        await asyncio.to_thread(run, *command, stage.servers, stage.requests, codec, str(EACH), upstream.url)
    await stage.start(MILLRACE_CARRY_HEADERS=",".join(HEADERS))
    await stage.until_results(len(codecs) * (EACH + 1))
    seen, letters = await stage.read(), await stage.read(stage.dead_letters)
    headers = HEADERS | ({"none": b""} if client in WITHOUT_NULLS else {})
    found = {codec: right(codec, headers, seen, letters) for codec in codecs}
    for codec in CODECS:
        record_property(codec, f"{found[codec]} of {EACH + 1}" if codec in codecs else "-")
    assert found == dict.fromkeys(codecs, EACH + 1), (seen[0], letters[:1])
    assert len(seen) == len(codecs) * (EACH + 1)
    assert len(letters) == len(codecs)


def right(codec: str, headers: dict[str, bytes | None], seen: list[Seen], letters: list[Seen]) -> int:
    """Return how many records of a codec came out as they must: requests with one result, `ok`, with their own key,
    headers and document; the tombstone with one dead letter that has its key and headers, and no value.
    """
    ids = Counter(each.result["id"] for each in seen)
    results = {each.result["id"]: each for each in seen}
    answered = 0
    for number in range(EACH):
        each = results.get(f"{codec}-{number}")
        answered += (
            each is not None
            and ids[f"{codec}-{number}"] == 1
            and (each.result["outcome"], each.result.get("document")) == ("ok", {"n": number % 7})
            and each.key == b"%d" % number
            and headers.items() <= each.headers.items()
        )
    of_codec = [each for each in letters if each.key == codec.encode()]
    unchanged = [each for each in of_codec if each.result is None and headers.items() <= each.headers.items()]
    refused = [each for each in seen if each.key == codec.encode() and each.result["outcome"] == "invalid_request"]
    return answered + (len(of_codec) == len(unchanged) == len(refused) == 1)
