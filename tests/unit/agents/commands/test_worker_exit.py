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
    return 0

streams.app.run = run
worker.run(argparse.Namespace(role=None))
"""


def test_a_task_that_outlives_its_cancellation_does_not_keep_the_process():
    """Faust's supervisor may restart an agent while the worker stops; asyncio waits for it for ever."""
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "after the stop: none, but tasks; exiting anyway" in ended.stderr
