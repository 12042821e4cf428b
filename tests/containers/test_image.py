"""Our image, built by the repository's own Dockerfile on a stand-in for its base, run as an operator should.

The broker is 'give me a broker' in its Docker branch, on a stand-in for apache/kafka.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from agents.testing.broker import Broker, broker, free_port
from streams.config.settings import SHUTDOWN_DEADLINE
from tests.containers.conftest import IMAGE
from tests.containers.container import Container, inspected
from tests.containers.engine import Engine
from tests.integration.stage import Stage, Upstream, asked, repeats

pytestmark = pytest.mark.containers

REQUESTS = 600
FETCHES_OF_A_HOST = 32
SLOW = 1.0
"""Seconds that the upstream takes for what is to be under way when a worker is told to stop."""


@pytest.fixture(scope="module")
def kafka(engine: Engine) -> Iterator[Broker]:
    """The best broker found where a Docker engine answers: Kafka in a container."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
        for name in ("DOCKER_HOST", "DOCKER_CONFIG"):
            patch.setenv(name, engine.environment[name])
        patch.setenv("PATH", f"{engine.environment['PATH']}:{os.environ['PATH']}")
        with broker(need_real=True) as found:
            [name] = engine.docker("ps", "--quiet").split()
            assert inspected(engine, name)["HostConfig"]["PortBindings"].popitem()[1][0]["HostIp"] == "127.0.0.1"
            yield found
        assert engine.docker("ps", "--all", "--quiet", "--filter", f"id={name}") == ""


@pytest.fixture
async def stage(kafka: Broker) -> AsyncIterator[Stage]:
    async with Stage(kafka.servers) as opened:
        await opened.create_topics()
        yield opened


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as opened:
        yield opened


def worker(engine: Engine, stage: Stage) -> Container:
    """Start a worker and wait for its health check."""
    ours = {name: text for name, text in stage.environment.items() if name.startswith(("KAFKA_B", "MILLRACE_"))}
    container = Container(engine, **ours | {"MILLRACE_WEB_PORT": str(free_port())})
    container.until_healthy()
    return container


def test_a_broker_is_given_in_docker(kafka: Broker) -> None:
    """Where an engine has Kafka's image, 'give me a broker' runs it, on loopback, and nothing of it is left."""
    assert kafka.kind.endswith("in Docker")
    assert kafka.real


async def test_a_worker_answers_with_nothing_to_write_to_and_no_rights(
    engine: Engine, stage: Stage, upstream: Upstream
) -> None:
    """Read-only, without capabilities and within its memory it gets healthy and answers, checks too, as nobody's user,
    and is itself what signals reach.
    """
    container = worker(engine, stage)
    await stage.send([asked(f"{upstream.url}/doc/7", 0, checks=[{"name": "is_prime", "field": "n"}])])
    [seen] = await stage.results_of({"r0"})
    assert (seen.result["outcome"], seen.result["checks"][0]["value"]) == ("ok", True)
    assert container.execute("id", "-u") == "10001"
    assert container.execute("cat", "/proc/1/cmdline").split("\0")[1:3] == ["/app/bin/millrace", "worker"]
    assert "CapEff:\t0000000000000000" in container.execute("cat", "/proc/1/status")
    with pytest.raises(subprocess.CalledProcessError):
        container.execute("touch", "/app/something")
    assert container.stop()[0] == 0


async def test_a_stop_in_the_middle_loses_nothing(engine: Engine, stage: Stage, upstream: Upstream) -> None:
    """`docker stop` with requests under way ends the worker in time and with 0; another answers all the rest."""
    first = worker(engine, stage)
    await stage.send([asked(f"{upstream.url}/doc/{number}?delay={SLOW}", number) for number in range(REQUESTS)])
    await stage.until_results(REQUESTS // 10)
    code, seconds = await asyncio.to_thread(first.stop)
    assert (code, seconds < SHUTDOWN_DEADLINE) == (0, True), first.logs
    assert await stage.count(stage.results) < REQUESTS
    second = worker(engine, stage)
    seen = await stage.results_of({f"r{number}" for number in range(REQUESTS)})
    assert repeats(seen) <= FETCHES_OF_A_HOST  # those under way when the time was up
    assert second.stop()[0] == 0


async def test_a_command_ends_when_it_is_told_to(engine: Engine, stage: Stage, upstream: Upstream) -> None:
    """SIGTERM ends what runs as a container's first process at once, though the kernel would drop it."""
    ours = {name: text for name, text in stage.environment.items() if name.startswith(("KAFKA_B", "MILLRACE_"))}
    following = Container(engine, "tail", "--from-beginning", **ours)
    await stage.producer.send_and_wait(stage.results, json.dumps({"id": "told", "outcome": "ok"}).encode())
    await asyncio.to_thread(following.until_logged, "told")
    code, seconds = await asyncio.to_thread(following.stop)
    assert (code, seconds < 5) == (143, True)


async def test_an_unhealthy_worker_is_told(engine: Engine, stage: Stage) -> None:
    """The health check fails for a worker that does not answer."""
    container = worker(engine, stage)
    test = inspected(engine, container.id)["Config"]["Healthcheck"]["Test"]
    assert test[0] == "CMD"
    container.execute(*test[1:])
    command = ["--env", f"MILLRACE_WEB_PORT={free_port()}", container.id, *test[1:]]
    with pytest.raises(subprocess.CalledProcessError):
        engine.docker("exec", *command)
    assert container.stop()[0] == 0


def test_the_image_lists_what_is_in_it(engine: Engine) -> None:
    """The file that its label names is CycloneDX: every package of the environment, with version and licence."""
    path = inspected(engine, IMAGE)["Config"]["Labels"]["millrace.sbom"]
    look = ("run", "--rm", "--network", "none", "--entrypoint", "sh", IMAGE, "-c")
    found = json.loads(engine.docker(*look, f"cat {path}"))
    assert found["bomFormat"] == "CycloneDX"
    listed = {each["name"].lower().replace("_", "-"): each for each in found["components"]}
    names = engine.docker(
        *look, "ls -d /app/lib/python3*/site-packages/*.dist-info | sed 's,.*/,,; s,-[^-]*\\.dist-info$,,'"
    ).split()
    assert {name.lower().replace("_", "-") for name in names} == set(listed)
    assert {"aiohttp", "faust-streaming", "millrace-kafka", "rocksdict"} <= set(listed)
    assert [name for name, each in listed.items() if not each.get("licenses")] == []


def test_the_image_says_what_it_is(engine: Engine) -> None:
    """Its labels name version and revision; nothing of the repository but the packages is in it."""
    labels = inspected(engine, IMAGE)["Config"]["Labels"]
    named = {name.removeprefix("org.opencontainers.image."): text for name, text in labels.items()}
    assert {
        "title": "Millrace",
        "version": "1.2.3",
        "revision": "abc",
        "licenses": "Apache-2.0",
    }.items() <= named.items()
    look = ("run", "--rm", "--network", "none", "--entrypoint", "sh", IMAGE, "-c")
    assert (
        engine.docker(*look, "ls /app/lib/python3*/site-packages | grep -E '^(tests|bench|pip|uv|hatchling)$' || true")
        == ""
    )
    assert engine.docker(*look, "millrace config --json | grep -c MILLRACE_STORE") == "1"
    assert (
        engine.docker(
            *look, "python -c 'import rocksdict, opentelemetry.sdk, confluent_kafka.schema_registry; print(1)'"
        )
        == "1"
    )
