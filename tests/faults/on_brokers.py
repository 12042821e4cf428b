"""Faults of brokers and topics."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from agents.testing.broker import jars
from tests.faults.cluster import PASSWORD, USER
from tests.faults.fault import Act
from tests.faults.scene import Scene, need_root

CONTROL = Path(__file__).parent / "Control.java"
"""What no client in Python can ask of a broker: moving leaders, quotas."""
MORE = 2
"""Partitions that are added."""


def brokers(how: signal.Signals, times: int) -> Act:
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
    leader = await _controller(scene)
    await asyncio.to_thread(scene.cluster.node(leader).restart, signal.SIGKILL)
    assert await _controller(scene) != leader, "the controller is where it was"


async def _controller(scene: Scene) -> int:
    """Return which node leads the metadata. What DescribeCluster calls so is any broker that lives (KIP-590)."""
    return int(await control(scene, "controller"))


async def move_the_coordinator(scene: Scene) -> None:
    """Stop the broker that coordinates the group, start it, and do so again where the group went."""
    for _ in range(2):
        client = admin(scene)
        groups = client.describe_consumer_groups([scene.stage.group], request_timeout=30)
        coordinator = await asyncio.to_thread(groups[scene.stage.group].result)
        await asyncio.to_thread(scene.cluster.node(coordinator.coordinator.id).restart)
        await asyncio.sleep(2)


def all_down(seconds: float) -> Act:
    """Stop all brokers at once, and start them after so many seconds."""

    async def act(scene: Scene) -> None:
        nodes = scene.cluster.nodes
        await asyncio.gather(*(asyncio.to_thread(node.end, signal.SIGKILL) for node in nodes))
        await asyncio.sleep(seconds)
        await asyncio.to_thread(scene.cluster.heal)

    return act


async def move_leaders(scene: Scene) -> None:
    """Every partition of the three topics gets another leader every 5 s, four times."""
    names = scene.stage.requests, scene.stage.results, scene.stage.dead_letters
    before = await _leaders(scene, names)
    await control(scene, "move", ",".join(names), "5", "4")
    after = await _leaders(scene, names)
    stayed = [place for place, leader in before.items() if after[place] == leader]
    assert len(stayed) < len(before) / 2, f"leaders are where they were: {stayed}"


async def _leaders(scene: Scene, topics: Iterable[str]) -> dict[tuple[str, int], int]:
    found = (await asyncio.to_thread(admin(scene).list_topics, timeout=10)).topics
    return {(topic, number): each.leader for topic in topics for number, each in found[topic].partitions.items()}


async def too_few_replicas(scene: Scene) -> None:
    """The results need three replicas while one broker is away: NOT_ENOUGH_REPLICAS for 15 s."""
    await configure(scene, scene.stage.results, "min.insync.replicas", "3")
    node = scene.cluster.nodes[2]
    await asyncio.to_thread(node.end)
    await asyncio.sleep(15)
    await asyncio.to_thread(scene.cluster.heal)
    await configure(scene, scene.stage.results, "min.insync.replicas", "2")


def throttle(name: str, value: int) -> Act:
    """A quota for 15 s: bytes a second, or percent of a broker's threads."""

    async def act(scene: Scene) -> None:
        await control(scene, "quota", name, str(value))
        await asyncio.sleep(15)
        await control(scene, "quota", name, "none")

    return act


async def logged_in(scene: Scene) -> None:
    """Let workers log in where a login ends after 8 s (KIP-368)."""
    scene.settings |= {
        "KAFKA_BOOTSTRAP_SERVERS": scene.cluster.login,
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": PASSWORD,
    }


async def fill_disk(scene: Scene) -> None:
    """Move a broker's folder to a file system that runs full under it; it has room again after it ended."""
    need_root()
    node = scene.cluster.nodes[2]
    aside = node.data.with_name("aside")
    await asyncio.to_thread(node.end)
    node.data.rename(aside)
    node.data.mkdir()
    await run("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(node.data))
    try:
        await run("cp", "-a", f"{aside}/.", str(node.data))
        node.start()
        await asyncio.to_thread(node.until_up)
        filler = node.data / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        async with asyncio.timeout(30):
            while node.up:
                await asyncio.sleep(0.2)
        filler.unlink()
    finally:
        await asyncio.to_thread(node.end, signal.SIGKILL)
        await run("cp", "-a", f"{node.data}/.", str(aside))
        await run("umount", "--lazy", str(node.data))
        node.data.rmdir()
        aside.rename(node.data)


async def more_requests(scene: Scene) -> None:
    """Give the requests two partitions more. Those of the results stay as they are, and so does the stage's count."""
    await _enlarge(scene, scene.stage.requests)
    await asyncio.sleep(15)
    await _written(scene, scene.stage.requests)


async def more_results(scene: Scene) -> None:
    """Give results and requests two partitions more. A worker writes to those of the results once it starts anew."""
    await _enlarge(scene, scene.stage.results)
    await asyncio.sleep(15)
    await _enlarge(scene, scene.stage.requests)
    scene.stage.partitions += MORE
    await scene.roll()
    await _written(scene, scene.stage.results)


async def _enlarge(scene: Scene, topic: str) -> None:
    client = admin(scene)
    more = NewPartitions(topic, scene.stage.partitions + MORE)
    await asyncio.to_thread(client.create_partitions([more])[topic].result)


async def _written(scene: Scene, topic: str) -> None:
    """Wait until each partition of a topic has a record. Raises TimeoutError."""
    async with asyncio.timeout(60):
        while not all((await asyncio.to_thread(scene.observer.ends_of, topic)).values()):
            await asyncio.sleep(0.5)


async def requests_anew(scene: Scene) -> None:
    """Delete the requests when all are answered, and make the topic again."""
    await scene.load.stop()
    await scene.lag_gone()
    scene.load.forget_places()
    await _make_again(scene, scene.stage.requests)
    scene.load.start()
    await asyncio.sleep(10)


async def results_anew(scene: Scene) -> None:
    """Delete the results when all requests are answered, and make the topic again."""
    await scene.load.stop()
    await scene.lag_gone()
    scene.former = await asyncio.to_thread(scene.observer.results, scene.stage.results)
    await _make_again(scene, scene.stage.results)
    scene.load.start()
    await asyncio.sleep(10)


async def _make_again(scene: Scene, topic: str) -> None:
    client = admin(scene)
    await asyncio.to_thread(client.delete_topics([topic])[topic].result)
    async with asyncio.timeout(30):
        while topic in (await asyncio.to_thread(client.list_topics, timeout=10)).topics:
            await asyncio.sleep(0.1)
    again = NewTopic(topic, scene.stage.partitions, 3)
    await asyncio.to_thread(client.create_topics([again])[topic].result)


async def retention(scene: Scene) -> None:
    """Keep requests for 5 s only, in segments of 2 s."""
    for name, value in (("segment.ms", "2000"), ("retention.ms", "5000")):
        await configure(scene, scene.stage.requests, name, value)
    await asyncio.sleep(20)
    await configure(scene, scene.stage.requests, "retention.ms", "-1")


async def delete_records(scene: Scene) -> None:
    """Delete what is already answered from the requests: the log now begins behind its beginning."""
    committed = await asyncio.to_thread(scene.observer.committed)
    places = [TopicPartition(scene.stage.requests, partition, offset) for partition, offset in committed.items()]
    client = admin(scene)
    for future in client.delete_records(places).values():
        await asyncio.to_thread(future.result)


async def delete_unread(scene: Scene) -> None:
    """Delete what came while no worker was there, past the commit."""
    for worker in scene.workers:
        await scene.end(worker)
    committed = await asyncio.to_thread(scene.observer.committed)
    await asyncio.sleep(3)
    client = admin(scene)
    places = [TopicPartition(scene.stage.requests, partition, offset)
              for partition, offset in (await asyncio.to_thread(scene.observer.ends)).items()]  # fmt: skip
    for place, future in client.delete_records(places).items():
        await asyncio.to_thread(future.result)
        scene.deleted[place.partition] = committed[place.partition], place.offset
    for _ in places[:2]:
        await scene.start()


def admin(scene: Scene) -> AdminClient:
    """Return a client for what is no load. It has to be kept until its futures are done: without it they fail."""
    return AdminClient({"bootstrap.servers": scene.cluster.servers, "log_level": 0})


async def configure(scene: Scene, topic: str, name: str, value: str) -> None:
    """Change a topic's configuration."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = admin(scene)
    await asyncio.to_thread(client.incremental_alter_configs([resource])[resource].result)


async def run(*command: str) -> str:
    """Run a command to its end; return what it printed."""
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


async def control(scene: Scene, *arguments: str) -> str:
    """Run Control.java to its end; return what it printed."""
    return await run("java", "-cp", f"{jars()}/*", str(CONTROL), scene.cluster.servers, *arguments)
