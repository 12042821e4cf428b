"""Faults of the network: between workers and brokers, and between workers and upstream."""

from __future__ import annotations

import asyncio
import shutil

import psutil

from tests.faults.fault import Act
from tests.faults.proxy import Weather
from tests.faults.scene import NotHereError, Scene, need_root

CLIENT_TIMEOUT = 40.0
"""Seconds that aiokafka waits for an answer."""
FORGOTTEN = 30.0
"""Seconds for which the packets are dropped: those of open connections are not sent again so soon afterwards."""


def network(weather: Weather, seconds: float) -> Act:
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


async def hang_connections(scene: Scene) -> None:
    """Nothing passes any more over connections to the brokers that are open, though the other side's kernel
    acknowledges every byte, as a proxy does whose server hangs; new ones work. aiokafka gives up one after the other.
    """
    for proxy in scene.proxies:
        proxy.hang()
    await asyncio.sleep(2 * CLIENT_TIMEOUT)


async def forget_connections(scene: Scene) -> None:
    """All packets of connections to the brokers that are open are dropped, as by a firewall that was restarted, or a
    machine that lost its power; new ones work.
    """
    need_root()
    if shutil.which("iptables") is None:
        msg = "needs iptables"
        raise NotHereError(msg)
    ports = {proxy.port for proxy in scene.proxies}
    pairs = [(each.laddr.port, each.raddr.port) for worker in scene.workers
             for each in psutil.Process(worker.process.pid).net_connections("tcp")
             if each.raddr and each.raddr.port in ports]  # fmt: skip
    rules = [("INPUT", "-i", "lo", "-p", "tcp", "--sport", str(one), "--dport", str(other), "-j", "DROP")
             for pair in pairs for one, other in (pair, reversed(pair))]  # fmt: skip
    try:
        for rule in rules:
            await _filter("-A", *rule)
        await asyncio.sleep(FORGOTTEN)
    finally:
        for rule in rules:
            await _filter("-D", *rule)


async def _filter(*arguments: str) -> None:
    """Add a rule to the machine's filter of packets, or delete one."""
    process = await asyncio.create_subprocess_exec("iptables", "--wait", *arguments)
    if await process.wait():
        msg = f"iptables {' '.join(arguments)} failed"
        raise NotHereError(msg)


async def cut_upstream(scene: Scene) -> None:
    """Cut all connections to the upstream, ten times."""
    for _ in range(10):
        scene.gate.reset()
        await asyncio.sleep(0.5)


def upstream(weather: Weather, seconds: float) -> Act:
    """Let the network between workers and upstream be like this for so long."""

    async def act(scene: Scene) -> None:
        scene.weather(weather, scene.gate)
        await asyncio.sleep(seconds)

    return act
