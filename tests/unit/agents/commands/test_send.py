from __future__ import annotations

import subprocess
import sys

import pytest

from agents.commands.send import IN_FLIGHT, _arriving

pytestmark = pytest.mark.slow

WAITING = """
import argparse, asyncio
from agents.commands import send
lines = send._lines(argparse.Namespace(url=None, source=None, file=None))
async def first():
    arriving = send._arriving(lines)
    print(await anext(arriving), flush=True)
    await anext(arriving)
asyncio.run(asyncio.wait_for(first(), 0.2))
"""


def test_who_gives_up_waiting_for_stdin_ends():
    """A line comes as it is written, and nothing waits for the next once the command is over, as after Ctrl-C."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdin.write(b"one\n")
        process.stdin.flush()
        try:
            process.wait(20)
        finally:
            process.kill()
        assert process.stdout.read() == b"b'one'\n"
        assert process.stderr.read().rstrip().endswith(b"TimeoutError")


async def test_lines_come_in_order_and_so_does_a_fault():
    """More lines than are read ahead arrive whole and in order; what reading them ends with is raised after them."""

    def lines():
        yield from (b"%d" % number for number in range(3 * IN_FLIGHT))
        raise OSError("gone")

    arrived = []
    with pytest.raises(OSError, match="gone"):
        async for line in _arriving(lines()):
            arrived.append(line)  # noqa: PERF401  what came before the fault is looked at
    assert arrived == [b"%d" % number for number in range(3 * IN_FLIGHT)]
