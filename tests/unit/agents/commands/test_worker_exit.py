"""A worker that has stopped ends as a process, too."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import argparse, asyncio
import streams.app
from agents.commands import worker

worker.EXIT_GRACE = 0.1

async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def run(apps, open_):
    streams.app.left = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    END

streams.app.run = run
"""


def run(end: str, prepare: str = "") -> subprocess.CompletedProcess[str]:
    """Run a worker whose applications end like that."""
    script = SCRIPT.replace("END", end) + prepare + "worker.run(argparse.Namespace(role=None))\n"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


def test_a_task_that_outlives_its_cancellation_does_not_keep_the_process():
    """Faust's supervisor may restart an agent while the worker stops; asyncio waits for it for ever."""
    ended = run("return 0")
    assert ended.returncode == 0, ended.stderr
    assert "after the stop: none, but tasks; exiting anyway" in ended.stderr


def test_nor_does_it_after_a_fault_that_stopped_nothing():
    """Memory that runs out may end the applications in the middle of anything; the process ends with 1 all the same."""
    ended = run("raise MemoryError")
    assert ended.returncode == 1, ended.stderr
    assert "after the stop: none, but tasks; exiting anyway" in ended.stderr


def test_nor_does_it_where_no_thread_can_be_had_to_end_it():
    """The process ends at once then."""
    none = "import threading\ndef start(self): raise RuntimeError\nthreading.Timer.start = start\n"
    ended = run("return 0", none)
    assert ended.returncode == 0, ended.stderr
    assert "exiting anyway" in ended.stderr
