"""Makes the store that `MILLRACE_STORE` names."""

from __future__ import annotations

from streams.config.settings import Settings
from streams.tables.changelogs import TABLES
from streams.tables.rocksdb import RocksStore
from streams.tables.store import MemoryStore, Store


def make_store(settings: Settings) -> Store:
    """Return the store, not opened yet."""
    _, _, path = settings.store.partition("rocksdb://")
    if not path:
        return MemoryStore()
    return RocksStore(path, f"group {settings.group!r}, results {settings.results_topic!r}", TABLES)
