"""How a task is ended: told to, again if it lost that, and waited for."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

logger = logging.getLogger(__name__)

CANCEL_AGAIN = 2.0
"""Seconds until a task that has not ended is told again: what it closes may take a moment."""


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended. What one of them failed with is logged, not raised.

    Python 3.11's `wait_for` loses a cancellation that comes as what it waits for is done: its task would go on for
    ever, and with it whoever waits for its end.
    """
    ending = {task for task in tasks if task is not None}
    left = ending
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN)
    for task in ending:
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.error("%s had failed: %r", task.get_name(), exc)
