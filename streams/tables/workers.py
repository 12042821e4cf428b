"""The latest record of every worker, read from the compacted topic to which each writes one once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

from streams.settings import Settings

FORGET_AFTER = 600.0
"""Seconds of silence after which a worker is no longer told of."""
SILENT_AFTER = 5.0
"""Seconds of silence after which a worker counts as not answering."""


class Workers:
    """Opened with `async with`; a topic that cannot be read costs the others' records, nothing else."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.me = settings.worker_id
        self._settings = settings
        self._clock = clock
        self._heard: dict[str, tuple[float, dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop reading."""

    def all(self) -> list[dict[str, Any]]:
        """Return each worker's latest record with `silent_s`, the seconds since it was heard, by id."""
        now = self._clock()
        return [
            record | {"silent_s": round(max(0.0, now - heard), 1)}
            for _, (heard, record) in sorted(self._heard.items())
            if now - heard < FORGET_AFTER
        ]
