"""The faults: what is done to workers, brokers, network, records and upstream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from agents.testing.broker import jars
from tests.faults.proxy import Weather
from tests.faults.scene import Scene

PAST_A_SESSION = 14.0
"""Seconds: a session of a member ends after 10."""
CONTROL = Path(__file__).parent / "Control.java"
"""What no client in Python can ask of a broker: moving leaders, quotas."""


@dataclass(frozen=True)
class Fault:
    """`crash`: members may lose their partitions without a last commit, so what was finished since then may repeat.

    `unready`: it must be seen at /readyz. `hard`: one of the subset that CI runs.
    """

    act: Callable[[Scene], Awaitable[None]]
    crash: bool = False
    unready: bool = False
    hard: bool = False
    settings: dict[str, str] = field(default_factory=dict)


async def kill_workers(scene: Scene) -> None:
    """Kill -9 three times, a new worker after each."""
    for _ in range(3):
        await scene.end(scene.workers[0], kill=True)
        await scene.start()
        await asyncio.sleep(2)


async def stop_a_worker(scene: Scene) -> None:
    """SIGTERM, and a new one."""
    await scene.end(scene.workers[0])
    await scene.start()


async def freeze_a_worker(scene: Scene) -> None:
    """SIGSTOP for longer than a session; what comes back must neither publish nor commit for what it lost."""
    process = scene.workers[0].process
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(PAST_A_SESSION)
    process.send_signal(signal.SIGCONT)
    await asyncio.sleep(2)


async def scale(scene: Scene) -> None:
    """From two to four and to one, and back to two."""
    await asyncio.gather(scene.start(), scene.start())
    await asyncio.sleep(2)
    for worker in scene.workers[:3]:
        await scene.end(worker)
    await scene.start()


async def rolling_restart(scene: Scene) -> None:
    """Each worker in turn: a new one first, then the old one ends."""
    for worker in scene.workers:
        await scene.start()
        await scene.end(worker)


async def no_files(scene: Scene) -> None:
    """A worker may open no more files for 10 s."""
    process = psutil.Process(scene.workers[0].process.pid)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds(), hard))
    await asyncio.sleep(10)
    process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


def brokers(how: signal.Signals, times: int) -> Callable[[Scene], Awaitable[None]]:
    """End one broker after the other, `times` in all, and start each again."""

    async def act(scene: Scene) -> None:
        for number in range(times):
            await asyncio.to_thread(scene.cluster.nodes[number % 3].restart, how)
            await asyncio.sleep(2)

    return act


async def freeze_a_broker(scene: Scene) -> None:
    """SIGSTOP for 30 s."""
    node = scene.cluster.nodes[1]
    node.send(signal.SIGSTOP)
    await asyncio.sleep(30)
    node.send(signal.SIGCONT)


async def kill_the_controller(scene: Scene) -> None:
    """Kill the broker that leads the cluster's metadata."""
    client = admin(scene)
    found = await asyncio.to_thread(client.describe_cluster(request_timeout=10).result)
    await asyncio.to_thread(scene.cluster.node(found.controller.id).restart, signal.SIGKILL)


async def move_the_coordinator(scene: Scene) -> None:
    """Stop the broker that coordinates the group, start it, and do so again where the group went."""
    for _ in range(2):
        client = admin(scene)
        groups = client.describe_consumer_groups([scene.stage.group], request_timeout=30)
        coordinator = await asyncio.to_thread(groups[scene.stage.group].result)
        await asyncio.to_thread(scene.cluster.node(coordinator.coordinator.id).restart)
        await asyncio.sleep(2)


def all_down(seconds: float) -> Callable[[Scene], Awaitable[None]]:
    """Stop all brokers at once, and start them after so many seconds."""

    async def act(scene: Scene) -> None:
        nodes = scene.cluster.nodes
        await asyncio.gather(*(asyncio.to_thread(node.end, signal.SIGKILL) for node in nodes))
        await asyncio.sleep(seconds)
        await asyncio.to_thread(scene.cluster.heal)

    return act


async def move_leaders(scene: Scene) -> None:
    """Every partition of the three topics gets another leader every 5 s, four times."""
    topics = f"{scene.stage.requests},{scene.stage.results},{scene.stage.dead_letters}"
    await control(scene, "move", topics, "5", "4")


async def too_few_replicas(scene: Scene) -> None:
    """The results need three replicas while one broker is away: NOT_ENOUGH_REPLICAS for 15 s."""
    await configure(scene, scene.stage.results, "min.insync.replicas", "3")
    node = scene.cluster.nodes[2]
    await asyncio.to_thread(node.end)
    await asyncio.sleep(15)
    await asyncio.to_thread(scene.cluster.heal)
    await configure(scene, scene.stage.results, "min.insync.replicas", "2")


async def throttle(scene: Scene) -> None:
    """A quota of 20,000 bytes a second for producers, for 15 s."""
    await control(scene, "quota", "producer_byte_rate", "20000")
    await asyncio.sleep(15)
    await control(scene, "quota", "producer_byte_rate", "none")


def network(weather: Weather, seconds: float) -> Callable[[Scene], Awaitable[None]]:
    """Let the network between workers and brokers be like this for so long."""

    async def act(scene: Scene) -> None:
        scene.weather(weather)
        await asyncio.sleep(seconds)

    return act


async def cut_connections(scene: Scene) -> None:
    """Cut all connections to the brokers, five times."""
    for _ in range(5):
        for proxy in scene.proxies:
            proxy.reset()
        await asyncio.sleep(1)


def upstream(weather: Weather, seconds: float) -> Callable[[Scene], Awaitable[None]]:
    """Let the network between workers and upstream be like this for so long."""

    async def act(scene: Scene) -> None:
        scene.weather(weather, scene.gate)
        await asyncio.sleep(seconds)

    return act


async def poison(scene: Scene) -> None:
    """Records that are no requests, tombstones, and one as large as Kafka takes, between those that are."""
    for number in range(200):
        scene.load.put([b"\xff\x00", None, b"{", b"[1]", b'{"url": 1}'][number % 5], b"p%d" % number)
        if number % 50 == 0:
            big = {"id": f"big-{number}", "url": f"{scene.load.url}/doc/1", "context": {"pad": "x" * 900_000}}
            scene.load.put(json.dumps(big).encode(), b"big", f"big-{number}")
        await asyncio.sleep(0.02)


def more_partitions(name: str) -> Callable[[Scene], Awaitable[None]]:
    """Give a topic two partitions more."""

    async def act(scene: Scene) -> None:
        topic, count = getattr(scene.stage, name), scene.stage.partitions + 2  # the stage's is that of the results, too
        client = admin(scene)
        await asyncio.to_thread(client.create_partitions([NewPartitions(topic, count)])[topic].result)
        await asyncio.sleep(15)

    return act


async def kill_pool(scene: Scene) -> None:
    """Kill each worker's children, five times."""
    for _ in range(5):
        for worker in scene.workers:
            for child in psutil.Process(worker.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        await asyncio.sleep(1)


def admin(scene: Scene) -> AdminClient:
    """Return a client for what is no load. It has to be kept until its futures are done: without it they fail."""
    return AdminClient({"bootstrap.servers": scene.cluster.servers, "log_level": 0})


async def configure(scene: Scene, topic: str, name: str, value: str) -> None:
    """Change a topic's configuration."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = admin(scene)
    await asyncio.to_thread(client.incremental_alter_configs([resource])[resource].result)


async def control(scene: Scene, *arguments: str) -> None:
    """Run Control.java to its end."""
    command = ["java", "-cp", f"{jars()}/*", str(CONTROL), scene.cluster.servers, *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def delete_records(scene: Scene) -> None:
    """Delete what is already answered from the requests: the log now begins behind its beginning."""
    committed = await asyncio.to_thread(scene.observer.committed)
    places = [TopicPartition(scene.stage.requests, partition, offset) for partition, offset in committed.items()]
    client = admin(scene)
    for future in client.delete_records(places).values():
        await asyncio.to_thread(future.result)


FAULTS = {
    "nothing": Fault(lambda _: asyncio.sleep(5)),
    "worker killed three times": Fault(kill_workers, crash=True, hard=True),
    "worker stopped": Fault(stop_a_worker),
    "worker frozen past its session": Fault(freeze_a_worker, crash=True, hard=True),
    "two workers, four, one": Fault(scale),
    "rolling restart of workers": Fault(rolling_restart, hard=True),
    "worker without files": Fault(no_files),
    "brokers killed, five times": Fault(brokers(signal.SIGKILL, 5), crash=True, hard=True),
    "brokers stopped, five times": Fault(brokers(signal.SIGTERM, 5), crash=True),
    "broker frozen for 30 s": Fault(freeze_a_broker, crash=True),
    "controller killed": Fault(kill_the_controller, crash=True),
    "coordinator moved": Fault(move_the_coordinator, crash=True),
    "all brokers down for 60 s": Fault(all_down(60), crash=True, unready=True),
    "all brokers down for 15 s": Fault(all_down(15), crash=True, hard=True),
    "leaders moved every 5 s": Fault(move_leaders, hard=True),
    "results under-replicated": Fault(too_few_replicas, crash=True, hard=True),
    "producers throttled": Fault(throttle),
    "network: 500 ms": Fault(network(Weather(delay=0.5), 15)),
    "network: nothing to Kafka": Fault(network(Weather(lost_up=True), 15), crash=True),
    "network: nothing from Kafka": Fault(network(Weather(lost_down=True), 15), crash=True, hard=True),
    "network: connections cut": Fault(cut_connections, crash=True),
    "network: 50,000 bytes/s": Fault(network(Weather(rate=50_000), 15), crash=True),
    "network: 7 bytes at once": Fault(network(Weather(piece=7), 10)),
    "upstream: 500 ms": Fault(upstream(Weather(delay=0.5), 10)),
    "upstream: nothing comes": Fault(upstream(Weather(lost_down=True), 15)),
    "upstream: sliced": Fault(upstream(Weather(piece=3), 10)),
    "poison, tombstones, large records": Fault(poison),
    "partitions added to requests": Fault(more_partitions("requests")),
    "records deleted up to the commit": Fault(delete_records),
    "pool's processes killed": Fault(kill_pool),
}
"""All of them by name."""


def mix(seed: int, count: int) -> list[str]:
    """Return the names of `count` faults drawn at random; the same seed draws the same."""
    draw = random.Random(seed)
    return [draw.choice([name for name in FAULTS if name != "nothing"]) for _ in range(count)]
