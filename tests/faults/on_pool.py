"""Faults of the processes that run checks: killed, and with checks that spin or eat all memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import psutil

from tests.faults.fault import Act
from tests.faults.scene import Scene

PLUGIN = """
from millrace import check

@check
def spins(value):
    while True: pass

@check
def eats(value): return len([bytearray(1 << 20) for _ in range(1 << 20)])

@check
def burns(value): return sum(range(100_000)) > 0
"""


async def bad_checks(scene: Scene) -> None:
    """Give workers checks that do not end, and that need more memory than there is."""
    folder = scene.folder()
    (folder / "bad_checks.py").write_text(PLUGIN)
    scene.settings |= {"MILLRACE_PLUGINS": "bad_checks", "PYTHONPATH": f"{folder}:{Path.cwd()}"}


def check(name: str) -> Act:
    """Ask for a bad check six times, and between these for a good one; all get their results."""

    async def act(scene: Scene) -> None:
        for number in range(200):
            chosen = name if number % 33 == 1 else "burns"
            request_id = scene.load.name(chosen)
            value = {"id": request_id, "url": f"{scene.load.url}/doc/{number}?of={name}",
                     "checks": [{"name": chosen, "field": "n"}]}  # fmt: skip
            scene.load.put(json.dumps(value).encode(), request_id.encode(), request_id)
            await asyncio.sleep(0.05)

    return act


async def kill_pool(scene: Scene) -> None:
    """Kill each worker's children, five times, while they have checks to run."""
    asking = asyncio.create_task(check("burns")(scene))
    for _ in range(5):
        await asyncio.sleep(1)
        for worker in scene.workers:
            for child in psutil.Process(worker.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
    await asking
