"""Faults of workers: killed, stopped, frozen, scaled, starved."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from pathlib import Path

import psutil

from tests.faults.on_brokers import configure
from tests.faults.scene import NotHereError, Scene

FAKETIME = list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
"""Debian's library that sets the clock of a process, if it is here."""
PAST_A_SESSION = 14.0
"""Seconds: a session of a member ends after 10."""
LARGE_KEYS = 8
"""Keys of large documents: the tables keep the last answer of each, so that more would look as if workers grew."""


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
    """From two to four, to one, and back to two, five times."""
    for _ in range(5):
        await asyncio.gather(scene.start(), scene.start())
        for worker in scene.workers[:3]:
            await scene.end(worker)
        await scene.start()


async def rolling_restart(scene: Scene) -> None:
    """Each worker in turn: a new one first, then the old one ends."""
    await scene.roll()


async def no_files(scene: Scene) -> None:
    """A worker may open no more files for 10 s."""
    process = psutil.Process(scene.workers[0].process.pid)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds(), hard))
    await asyncio.sleep(10)
    process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


async def own_loop(scene: Scene) -> None:
    """Start workers that a signal blocks."""
    scene.command = "-m", "tests.faults.worker"


async def block_the_loop(scene: Scene) -> None:
    """The event loop of one does nothing for 20 s, while its consumer's thread lives."""
    scene.workers[0].process.send_signal(signal.SIGUSR1)
    await asyncio.sleep(24)


async def own_clock(scene: Scene) -> None:
    """Start workers whose clock a file sets, by libfaketime; the broker dates results, since these do it wrongly."""
    if not FAKETIME:
        msg = "needs Debian's faketime"
        raise NotHereError(msg)
    scene.kept = scene.folder() / "clock"
    scene.kept.write_text("+0")
    # Without a cache each look at the clock reads the file, which takes a worker more time than its work.
    scene.settings |= {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME_TIMESTAMP_FILE": str(scene.kept),
                       "FAKETIME_CACHE_DURATION": "1", "DONT_FAKE_MONOTONIC": "1"}  # fmt: skip
    await configure(scene, scene.stage.results, "message.timestamp.type", "LogAppendTime")


async def jump(scene: Scene) -> None:
    """The workers' clocks go two hours forward, back to where they were, and two hours further back."""
    for offset in ("+7200", "+0", "-7200"):
        scene.kept.write_text(offset)
        await asyncio.sleep(6)


async def no_memory(scene: Scene) -> None:
    """A worker gets 16 MiB of address space more and not a byte beyond, for 15 s."""
    process = psutil.Process(scene.workers[0].process.pid)
    soft, hard = process.rlimit(psutil.RLIMIT_AS)
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + (16 << 20), hard))
    for number in range(100):
        name = scene.load.name("large")
        value = {"id": name, "url": f"{scene.load.url}/doc/{number}?size=700000"}
        key = b"large-%d" % (number % LARGE_KEYS)
        scene.load.put(json.dumps(value).encode(), key, name)
        await asyncio.sleep(0.15)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.rlimit(psutil.RLIMIT_AS, (soft, hard))
