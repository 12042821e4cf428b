"""Faust's services, woken less: an idle worker's CPU goes into waking up, some 100 µs each time.

Private parts of Faust: see streams/kafka/transport.py.
"""

from __future__ import annotations

import asyncio
import contextlib

from faust.sensors import monitor
from mode import Seconds, Service, want_seconds


class Quiet(Service):
    """A service whose `sleep` takes no task: mode's takes one, and four turns of the loop where this takes two."""

    abstract = True

    async def sleep(self, n: Seconds) -> None:
        """Sleep for so long, or until the service stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(want_seconds(n)):
                await self._stopped.wait()


class Monitor(monitor.Monitor):
    """Samples nothing: nobody reads Faust's own statistics, since the worker's metrics are ours."""

    @Service.task
    async def _sampler(self) -> None:
        """End at once."""
