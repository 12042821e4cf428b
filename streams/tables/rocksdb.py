"""Rows on disk, in one RocksDB for the worker: `MILLRACE_STORE=rocksdb://PATH`.

Faust's own RocksDB store opens a database a partition, with 2 GiB of cache and 192 MiB of write buffers each, and keeps
one value a key whatever its partition. Here rows are written together with the changelog offset that they reach up to:
after any end, a kill included, recovery continues there. What is damaged is deleted at the next opening, as Kafka
Streams does: all of it is in Kafka.

    r table partition key           → row
    o table partition offset key    → nothing: the rows in the order of their last writing
    m table partition               → how far the changelog is read, how many rows there are
    d 0     partition               → nothing: the partition is dirty
    i                               → the group and results topic that the folder belongs to
    l                               → the ids of the changelogs that the rows are of
    z                               → nothing: rocksdict ends an iteration at a damaged block without a word, so each
                                      has to come past its own keys
"""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import MillraceError, SettingsError, StoreError
from streams.tables.store import Change, offset_of

if TYPE_CHECKING:
    from rocksdict import Rdict

logger = logging.getLogger(__name__)

CACHE_BYTES = 64 << 20
"""Memory for blocks that were read."""
WRITE_BUFFER_BYTES = 16 << 20
"""Memory of one write buffer."""
WRITE_BUFFERS = 3
"""Write buffers at most."""
OPEN_FILES = 256
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
LOG_FILES = 3
"""Of RocksDB's own logs, the latest that are kept."""

_PLACE = struct.Struct(">cBI")
_ORDER = struct.Struct(">Q")
_META = struct.Struct(">qQ")
_OWNER, _CHANGELOGS, _END = b"i", b"l", b"z"


class RocksStore:
    """See the module. `owner` names the rows' group and topic; a folder of another owner is refused.

    `failed` is called with the StoreError that a read or a write raises.
    """

    def __init__(
        self, path: str, owner: str, tables: Iterable[str], failed: Callable[[StoreError], None] = lambda _: None
    ) -> None:
        self._path = Path(path)
        self._damaged = self._path / "DAMAGED"
        self._owned_by = self._path / "OWNER"  # for a database that cannot be read any more
        self._failed = failed
        self._owner = owner.encode()
        self._numbers = {table: number for number, table in enumerate(tables)}
        self._db: Rdict | None = None
        self._meta: dict[tuple[str, int], tuple[int, int]] = {}
        self.dirty: set[int] = set()
        self.changelog_ids = ""

    def open(self) -> None:
        """Open the database, unless it is open. Raises SettingsError if the folder is not for this worker, StoreError
        if it may be later: of a full disk.
        """
        if self._db is not None:
            return
        try:
            import rocksdict  # noqa: PLC0415  an extra
        except ImportError:
            msg = "MILLRACE_STORE: rocksdb:// needs the package rocksdict: install millrace-kafka[rocksdb]"
            raise SettingsError(msg) from None
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._db = self._open(rocksdict)
            self._require_ours(self._db.get(_OWNER))
            self._db.put(_OWNER, self._owner)
            self._owned_by.write_bytes(self._owner)
            self._db.put(_END, b"")
            self.changelog_ids = (self._db.get(_CHANGELOGS) or b"").decode()
            self._meta = dict(self._read_meta())
            self.dirty = {_PLACE.unpack(key)[2] for key, _ in self._from(b"d")}
        except OSError as exc:
            self.close()
            if exc.errno in _PASSING:
                raise self._error(exc) from exc
            msg = f"MILLRACE_STORE: {self._path} cannot be opened: {exc}"
            raise SettingsError(msg) from exc
        except MillraceError:
            self.close()
            raise
        except Exception as exc:
            self.close()
            # a reader in the middle of its rows keeps a store that was closed under it, and soon no more
            if "current process" not in str(exc) and ("lock hold" in str(exc) or "LOCK" in str(exc)):
                msg = f"MILLRACE_STORE: {self._path} is in use by another worker; each needs its own folder"
                raise SettingsError(msg) from exc
            raise self._error(exc) from exc

    def _require_ours(self, owner: bytes | None) -> None:
        if owner not in (None, self._owner):
            whose = (owner or b"").decode(errors="replace")
            msg = f"MILLRACE_STORE: {self._path} holds the tables of {whose}; use another folder"
            raise SettingsError(msg)

    def _open(self, rocksdict: Any) -> Rdict:
        options = _options(rocksdict)
        try:
            if not self._damaged.exists():
                return rocksdict.Rdict(str(self._path), options)
            reason = "an earlier worker met this"
        except Exception as exc:
            if not _is_damage(reason := str(exc)):
                raise
        if not self._owned_by.exists() or self._owned_by.read_bytes() != self._owner:
            msg = f"MILLRACE_STORE: {self._path} is damaged: delete it, the tables are read from Kafka again ({reason})"
            raise SettingsError(msg)
        logger.warning("the tables' store %s is damaged: it is deleted, and the tables are read from Kafka again; "
                       "no action is needed: %s", self._path, reason)  # fmt: skip
        rocksdict.Rdict.destroy(str(self._path), options)  # deletes what is RocksDB's, and raises if it is in use
        self._damaged.unlink(missing_ok=True)
        return rocksdict.Rdict(str(self._path), options)

    def close(self) -> None:
        """Write what is in memory, and close the database. What cannot be written is read from Kafka again."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(Exception):  # rocksdict knows no other class
                db.close()

    def partitions(self) -> set[int]:
        """Return the partitions of which anything is kept."""
        return {partition for _, partition in self._meta}

    def reaches(self, table: str, partition: int) -> int | None:
        """Return the changelog offset to read on from."""
        reaches, _ = self._meta.get((table, partition), (-1, 0))
        return reaches if reaches >= 0 else None

    def get(self, table: str, partition: int, key: bytes) -> bytes | None:
        """Return one row."""
        assert self._db is not None, "opened before it is used"
        try:  # as `_watched` does, without the cost of a context manager for each row
            row: bytes | None = self._db.get(self._place(b"r", table, partition) + key)
        except Exception as exc:
            raise self._told(exc) from exc
        return row

    def scan(self, table: str, partition: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield rows as they were when it began."""
        place = self._place(b"r", table, partition)
        for key, row in self._from(place + prefix):
            yield key[len(place) :], row

    def oldest(self, table: str, partition: int, most: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows written the longest ago, one after the other: thousands of answers may be a gigabyte."""
        start = len(self._place(b"o", table, partition)) + _ORDER.size
        for place, _ in islice(self._from(self._place(b"o", table, partition)), most):
            if (row := self.get(table, partition, place[start:])) is not None:
                yield place[start:], row

    def newest(self, table: str, partition: int) -> bytes | None:
        """Return the row that was written last."""
        place = self._place(b"o", table, partition)
        after = self._place(b"o", table, partition + 1)  # no row has this very key: an offset would follow
        with self._watched() as db:
            key = next(iter(db.keys(backwards=True, from_key=after)), None)
            if key is None:  # the folder's owner stands before all rows
                raise _early_end()
        return self.get(table, partition, key[len(place) + _ORDER.size :]) if key.startswith(place) else None

    def count(self, table: str, partition: int) -> int:
        """Return how many rows there are."""
        return self._meta.get((table, partition), (-1, 0))[1]

    def apply(self, table: str, partition: int, changes: Iterable[Change], reaches: int | None) -> None:
        """Make changes and note how far they reach, in one write."""
        from rocksdict import WriteBatch  # noqa: PLC0415  an extra, imported by open()

        batch = WriteBatch(raw_mode=True)
        before, count = self._meta.get((table, partition), (-1, 0))
        rows, order = self._place(b"r", table, partition), self._place(b"o", table, partition)
        written: dict[bytes, bytes | None] = {}  # a batch cannot be read before it is written
        for key, row in changes:
            there = written[key] if key in written else self.get(table, partition, key)
            if there is not None:
                batch.delete(order + _ORDER.pack(offset_of(there)) + key)
                count -= 1
            if row is None:
                batch.delete(rows + key)
            else:
                batch.put(rows + key, row)
                batch.put(order + _ORDER.pack(offset_of(row)) + key, b"")
                count += 1
            written[key] = row
        meta = before if reaches is None else reaches, count
        batch.put(self._place(b"m", table, partition), _META.pack(*meta))
        with self._watched() as db:
            db.write(batch)
        self._meta[table, partition] = meta

    def belong_to(self, changelog_ids: str) -> None:
        """Note which changelogs the rows are of, also for the next process."""
        with self._watched() as db:
            db.put(_CHANGELOGS, changelog_ids.encode())
        self.changelog_ids = changelog_ids

    def mark_dirty(self, partition: int) -> None:
        """Mark a partition as dirty, also for the next process."""
        if partition not in self.dirty:
            with self._watched() as db:
                db.put(_PLACE.pack(b"d", 0, partition), b"")
            self.dirty.add(partition)

    def mark_clean(self, partition: int) -> None:
        """Mark a partition as clean."""
        if partition in self.dirty:
            with self._watched() as db:
                db.delete(_PLACE.pack(b"d", 0, partition))
            self.dirty.discard(partition)

    def drop(self, partition: int) -> None:
        """Forget a partition, and that it was dirty."""
        from rocksdict import WriteBatch  # noqa: PLC0415  an extra, imported by open()

        batch = WriteBatch(raw_mode=True)
        for table in self._numbers:
            for kind in (b"r", b"o"):
                place = self._place(kind, table, partition)
                batch.delete_range(place, self._place(kind, table, partition + 1))
            batch.delete(self._place(b"m", table, partition))
            self._meta.pop((table, partition), None)
        batch.delete(_PLACE.pack(b"d", 0, partition))
        with self._watched() as db:
            db.write(batch)
        self.dirty.discard(partition)

    def _from(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._watched() as db:
            for key, value in db.items(from_key=prefix):
                if not key.startswith(prefix):
                    return
                yield key, value
            raise _early_end()

    def _read_meta(self) -> Iterator[tuple[tuple[str, int], tuple[int, int]]]:
        tables = {number: table for table, number in self._numbers.items()}
        for key, value in self._from(b"m"):
            _, number, partition = _PLACE.unpack(key)
            yield (tables[number], partition), _META.unpack(value)

    def _place(self, kind: bytes, table: str, partition: int) -> bytes:
        return _PLACE.pack(kind, self._numbers[table], partition)

    @contextmanager
    def _watched(self) -> Iterator[Any]:
        """Give the database; what it raises becomes a StoreError, which `failed` learns of."""
        assert self._db is not None, "opened before it is used"
        try:
            yield self._db
        except Exception as exc:
            raise self._told(exc) from exc

    def _told(self, exc: Exception) -> StoreError:
        """Return the error that a read or a write ends in, once `failed` was called with it."""
        error = self._error(exc)
        self._failed(error)
        return error

    def _error(self, exc: Exception) -> StoreError:
        if not _is_damage(str(exc)):
            return StoreError(f"the tables' store {self._path} fails; see that its disk works and has room: {exc}")
        with suppress(OSError):  # the next one who reads there finds the same
            self._damaged.touch()
        todo = "the next start deletes it and reads the tables from Kafka again"
        return StoreError(f"the tables' store {self._path} is damaged; {todo}: {exc}")


def _is_damage(text: str) -> bool:
    return "Corruption" in text or ("MANIFEST" in text and "No such file" in text)


def _early_end() -> Exception:
    return Exception("Corruption: rows are missing, the iteration ended early")


def _options(rocksdict: Any) -> Any:
    """Return options with bounded memory, whatever the number of partitions."""
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(rocksdict.Cache(CACHE_BYTES))
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_bloom_filter(10, False)  # noqa: FBT003
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)  # noqa: FBT003
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(WRITE_BUFFERS)
    options.set_max_total_wal_size(WRITE_BUFFERS * WRITE_BUFFER_BYTES)
    options.set_max_open_files(OPEN_FILES)
    options.set_keep_log_file_num(LOG_FILES)
    return options
