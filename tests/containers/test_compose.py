"""docker-compose.yml as it is, brought up whole on stand-ins: what an operator would see, and a worker that dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import aiohttp
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents.testing.broker import free_port
from tests.containers.container import PATIENCE, inspected, until
from tests.containers.engine import Engine
from tests.containers.images import ROOT
from tests.unit.deploy.test_alerts import dashboard_queries

pytestmark = pytest.mark.containers

TOKEN = "a token of this test"
PRIME = "http://upstream:8080/numbers/293"
WORKERS = ("worker-1", "worker-2")
CHECKED = ("kafka", "memcached", *WORKERS, "nginx", "prometheus", "grafana", "upstream")
"""Services with a health check."""
PORTS = ("MILLRACE_PORT", "KAFKA_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")


class System:
    """What docker-compose.yml starts, brought up with `with`, on free ports."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.environment = {name: str(free_port()) for name in PORTS} | {"MILLRACE_WEB_TOKEN": TOKEN}
        self.url, self.kafka, self.prometheus, self.grafana = (
            f"{scheme}localhost:{self.environment[name]}"
            for scheme, name in zip(("http://", "", "http://", "http://"), PORTS, strict=True)
        )

    def compose(self, *arguments: str, profile: str = "demo") -> str:
        files = ["--file", str(ROOT / "docker-compose.yml"), "--project-name", "millrace", "--profile", profile]
        return self.engine.compose(*files, *arguments, **self.environment)

    def __enter__(self) -> System:
        try:
            began = time.monotonic()
            self.compose("up", "--detach", "--no-build")
            for name in CHECKED:
                until(self.engine, self.container(name), "healthy")
            print(f"docker-compose up, all healthy: {time.monotonic() - began:.0f} s")
        except BaseException:
            print(self.compose("logs", "--tail", "30"))
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.compose("down", "--volumes", "--timeout", "30")

    def container(self, service: str) -> str:
        return self.engine.docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.service={service}")

    def inspected(self, service: str) -> dict[str, Any]:
        return inspected(self.engine, self.container(service))


@pytest.fixture(scope="module")
def system(engine: Engine) -> Iterator[System]:
    with System(engine) as running:
        yield running


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session:
        yield session


def moment(text: str) -> datetime:
    """Return one of the engine's times."""
    return datetime.fromisoformat(text.partition(".")[0])


async def answer(browser: aiohttp.ClientSession, system: System, name: str) -> dict[str, Any]:
    """Send a request through nginx and return its result."""
    request = {"id": name, "url": PRIME, "checks": [{"name": "is_prime", "field": "n"}]}
    given = {"Authorization": f"Bearer {TOKEN}"}
    async with browser.post(f"{system.url}/api/requests?wait=30", json=request, headers=given) as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found


def test_the_files_are_sound(engine: Engine) -> None:
    """Compose itself takes the file, with and without TLS; without a token it says which variable is missing."""
    first = ["--file", str(ROOT / "docker-compose.yml")]
    tls = ["--file", str(ROOT / "deploy" / "nginx" / "tls.yml")]
    engine.compose(*first, "config", "--quiet", MILLRACE_WEB_TOKEN="x")
    engine.compose(*first, *tls, "config", "--quiet", MILLRACE_WEB_TOKEN="x", MILLRACE_TLS_FOLDER="/nowhere")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        engine.compose(*first, "config", "--quiet")
    assert b"set it to something" in refused.value.stderr


def test_services_start_in_order(system: System) -> None:
    """Topics are made once Kafka is healthy, workers start when that is done, nginx when the workers are healthy."""
    state = {name: system.inspected(name)["State"] for name in (*CHECKED, "topics")}

    def healthy_at(name: str) -> datetime:
        return min(moment(each["End"]) for each in state[name]["Health"]["Log"] if each["ExitCode"] == 0)

    started = {name: moment(each["StartedAt"]) for name, each in state.items()}
    assert started["topics"] > started["kafka"]
    assert state["topics"]["ExitCode"] == 0
    for name in WORKERS:
        assert started[name] >= moment(state["topics"]["FinishedAt"])
        assert started[name] >= started["memcached"]
        assert started["nginx"] > started[name]


def test_ports_are_on_loopback(system: System) -> None:
    """No container can be reached from another machine."""
    for name in CHECKED:
        for bound in (system.inspected(name)["HostConfig"]["PortBindings"] or {}).values():
            assert [each["HostIp"] for each in bound] == ["127.0.0.1"]


async def test_a_request_through_nginx(system: System, browser: aiohttp.ClientSession) -> None:
    """Who has the token gets a result for a request sent through nginx; who has not is refused."""
    found = await answer(browser, system, "through-nginx")
    assert (found["id"], found["outcome"], found["checks"][0]["value"]) == ("through-nginx", "ok", True)
    async with browser.post(f"{system.url}/api/requests", json={"url": PRIME}) as response:
        assert response.status == 401


async def test_requests_through_kafka(system: System) -> None:
    """A program on this machine has its requests answered, beside the demo's, of which one URL in 200 fails."""
    consumer = AIOKafkaConsumer("results", bootstrap_servers=system.kafka, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=system.kafka)
    async with consumer, producer, asyncio.timeout(PATIENCE):
        awaited = {f"ours-{number}" for number in range(20)}
        for name in awaited:
            await producer.send_and_wait("requests", json.dumps({"id": name, "url": PRIME}).encode())
        outcomes = set()
        async for record in consumer:
            result = json.loads(record.value)
            awaited.discard(result["id"])
            outcomes.add(result["outcome"])
            if not awaited and {"ok", "upstream_error"} <= outcomes:
                break


async def test_the_page_and_its_events(system: System, browser: aiohttp.ClientSession) -> None:
    """Nginx serves the page, compressed, and its stream of events as they are made, once a second."""
    async with browser.get(f"{system.url}/") as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Encoding"] == "gzip"
        assert "<title>" in await response.text()
    came: list[float] = []
    async with browser.get(f"{system.url}/events") as response:
        async for line in response.content:
            if line.strip() == b"event: overview":
                came.append(time.monotonic())
            if len(came) == 4:
                break
    assert came[-1] - came[0] > 1.5  # what is held back comes all at once


async def test_a_killed_worker_is_missed_by_nobody_and_comes_back(
    system: System, browser: aiohttp.ClientSession
) -> None:
    """Kill -9: the other answers, the page stays up, and the engine starts the dead one again."""
    pid = system.inspected("worker-1")["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(psutil.Process(pid).wait, PATIENCE)  # what reaches it while it dies is lost with it
    for number in range(3):
        assert (await answer(browser, system, f"after-{number}"))["outcome"] == "ok"
    async with browser.get(f"{system.url}/") as response:
        assert response.status == 200
    await asyncio.to_thread(until, system.engine, system.container("worker-1"), "healthy")
    assert system.inspected("worker-1")["RestartCount"] == 1
    async with asyncio.timeout(PATIENCE):
        while True:
            async with browser.get(f"{system.url}/api/workers") as response:
                workers = (await response.json())["workers"]
            if {each["id"] for each in workers if each["silent_s"] < 5} == set(WORKERS):
                return
            await asyncio.sleep(0.5)


async def test_prometheus_reads_the_workers(system: System, browser: aiohttp.ClientSession) -> None:
    """Prometheus takes our configuration and rules, reads both workers, and can answer what the dashboard asks."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with browser.get(f"{system.prometheus}/api/v1/targets") as response:
                targets = (await response.json())["data"]["activeTargets"]
            if [each["health"] for each in targets] == ["up", "up"]:
                break
            await asyncio.sleep(0.5)
    async with browser.get(f"{system.prometheus}/api/v1/rules") as response:
        assert (await response.json())["data"]["groups"]
    answered = 0
    for query in dashboard_queries():
        asked = {"query": query.replace("$worker", ".*").replace("$__rate_interval", "1m")}
        async with browser.get(f"{system.prometheus}/api/v1/query", params=asked) as response:
            found = await response.json()
            assert found["status"] == "success" or query.startswith("label_values("), f"{query}: {found}"
            answered += bool(found.get("data", {}).get("result"))
    assert answered > 20  # some ask for what does not happen here
    async with browser.get(f"{system.grafana}/api/health") as response:
        assert (await response.json())["dashboards"] == ["millrace"]


def test_it_goes_down_without_a_trace(system: System) -> None:
    """Workers stop with 0 within their time, and nothing is left of containers, networks and volumes."""
    began = time.monotonic()
    system.compose("stop", *WORKERS)
    assert time.monotonic() - began < 30
    codes = [system.inspected(name)["State"]["ExitCode"] for name in WORKERS]
    assert codes == [0, 0], system.compose("logs", "--tail", "30", *WORKERS)
    system.compose("down", "--volumes", "--timeout", "30")
    assert system.engine.docker("ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project") == ""
    assert system.engine.docker("volume", "ls", "--quiet", "--filter", "label=com.docker.compose.project") == ""
    assert system.engine.docker("network", "ls", "--quiet", "--filter", "label=com.docker.compose.project") == ""
