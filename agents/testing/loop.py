"""An event loop without sockets, even the pair by which others wake themselves: tests often forbid all of them."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Mapping
from typing import Any, NoReturn


class _Selector(selectors.BaseSelector):
    """Waits for threads and timers alone."""

    def __init__(self) -> None:
        self.woken = threading.Event()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait until there is something to do."""
        if timeout is None or timeout > 0:
            self.woken.wait(timeout)
        self.woken.clear()
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> NoReturn:  # noqa: ARG002
        """Raise RuntimeError: whatever would connect does so behind the upstream's back."""
        msg = "a test's worker opens no connections: what it asks for is the upstream's to answer"
        raise RuntimeError(msg)

    def unregister(self, fileobj: Any) -> NoReturn:
        """Raise KeyError: nothing was registered."""
        raise KeyError(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return nothing: nothing was registered."""
        return {}


class Loop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._idle = _Selector()
        super().__init__(self._idle)

    def _make_self_pipe(self) -> None:
        """Make none: threads wake the selector."""

    def _close_self_pipe(self) -> None:
        """There is none."""

    def _write_to_self(self) -> None:
        self._idle.woken.set()
