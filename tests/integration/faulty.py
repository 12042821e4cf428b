"""A worker with a fault of ours and a watchdog of short deadlines: `python -m tests.integration.faulty FAULT`."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from agents.answer.agent import Answerer
from agents.commands import run
from agents.entry import EntryPoint
from streams.config import settings
from streams.kafka import transport, watch
from streams.kafka.thread import ConsumerThread
from streams.telemetry import loop, watchdog


def commits_hang() -> None:
    """The consumer's commits never return, as if its connection to the coordinator had been forgotten."""

    async def commit(*_: Any) -> bool:
        await asyncio.Event().wait()
        return False

    ConsumerThread.commit_points = commit  # type: ignore[method-assign]


def forgets() -> None:
    """A request's answer is never delivered."""
    enrich = Answerer._enrich

    async def forget(self: Answerer, item: Any) -> bool:
        return b"forgotten" in item.record.value or await enrich(self, item)

    Answerer._enrich = forget  # type: ignore[method-assign]


def stalls() -> None:
    """The agent holds up the event loop."""

    async def hang(*_: Any) -> None:
        while True:
            time.sleep(0.1)  # noqa: ASYNC251  that is the fault

    Answerer.answer = hang  # type: ignore[method-assign]


def crashes() -> None:
    """The agent meets a fault of ours."""

    async def fail(*_: Any) -> None:
        raise LookupError("a bug")

    Answerer.answer = fail  # type: ignore[method-assign]


def full() -> None:
    """No fault: a partition is full after a few records."""
    settings.MAX_PENDING = 20


def unwatched() -> None:
    """A background task fails: the watchdog itself."""

    async def look(_: Any) -> None:
        raise LookupError("gone")

    watchdog.Watchdog.look = look  # type: ignore[method-assign]


FAULTS = {
    "full": full,
    "unwatched": unwatched,
    "commits-hang": commits_hang,
    "forgets": forgets,
    "stalls": stalls,
    "crashes": crashes,
    "none": lambda: None,
}

if __name__ == "__main__":
    parser = EntryPoint("tests.integration.faulty", __doc__)
    parser.add_argument("fault", choices=FAULTS, metavar="FAULT", help=", ".join(FAULTS))
    fault = parser.begin().fault
    watchdog.REPORT_AFTER, watchdog.COMMIT_DEADLINE, watchdog.GRACE, watchdog.ASK_AGAIN = 1.0, 5.0, 2.0, 1.0
    watchdog.UNFINISHED_DEADLINE = 5.0
    transport.COMMIT_TIMEOUT = watch.COORDINATOR_TIMEOUT = 2.0
    loop.STALLED, loop.HOPELESS = 1.0, 4.0
    FAULTS[fault]()
    sys.exit(run(["worker"]))
