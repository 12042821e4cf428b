"""What a worker takes that has nothing to do: its share of a core, and how often it wakes up, which is where that goes.
`python -m bench.idle`.

Wake-ups are voluntary context switches of all its threads: a machine's load hardly changes their number.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from pathlib import Path

from agents.entry import EntryPoint
from agents.testing.broker import broker
from bench.stage import WORKERS, Stage, cpu_of

PARTITIONS, SETTLE, SECONDS = 16, 10.0, 30.0
WORKERS["millrace, all"] = [sys.executable, "-m", "millrace", "worker", "--role", "all"]
_SWITCHES = re.compile(r"^voluntary_ctxt_switches:\s+(\d+)", re.MULTILINE)


def wakeups_of(pid: int) -> int:
    """Return how often the threads of a process have waited so far."""
    found = [_SWITCHES.search((task / "status").read_text()) for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(each[1]) for each in found if each is not None)


async def idle(servers: str, partitions: int, seconds: float) -> tuple[float, float]:
    """Return the share of a core that an idle worker takes, and its wake-ups a second."""
    stage = Stage(servers, "millrace, all", partitions=partitions)
    async with stage.running() as [pid]:
        await stage._produce([b'{"url":"http://127.0.0.1:9/"}'])
        await stage._await_results(1)
        await asyncio.sleep(SETTLE)
        cpu, wakeups, began = cpu_of(pid), wakeups_of(pid), time.perf_counter()
        await asyncio.sleep(seconds)
        passed = time.perf_counter() - began
        return (cpu_of(pid) - cpu) / passed, (wakeups_of(pid) - wakeups) / passed


def report(servers: str, partitions: int = PARTITIONS, seconds: float = SECONDS) -> None:
    """Measure and print."""
    share, wakeups = asyncio.run(idle(servers, partitions, seconds))
    print(f"idle, role all, {partitions} partitions: {share:.2%} of a core, {wakeups:.0f} wake-ups/s "
          f"(load of the machine {os.getloadavg()[0]:.1f})", flush=True)  # fmt: skip


def main() -> None:
    """Parse the options, give a broker, run."""
    parser = EntryPoint("bench.idle", __doc__)
    parser.add_argument("--partitions", type=int, default=PARTITIONS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.begin()
    with broker() as found:
        report(found.servers, options.partitions, options.seconds)


if __name__ == "__main__":
    main()
