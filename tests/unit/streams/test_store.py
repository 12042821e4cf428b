"""Both stores keep the same rows, whatever happens to them."""

from __future__ import annotations

import contextlib
import errno
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.tables.app import make_store
from models.errors import SettingsError, StoreError
from streams.config.settings import Settings
from streams.tables.changelogs import TABLES
from streams.tables.rocksdb import RocksStore
from streams.tables.store import Mark, MemoryStore, mark, offset_of


def row(offset, text="x"):
    return b'{"offset":%d,"at":%d,"text":"%b"}' % (offset, offset * 10, text.encode())


@contextlib.contextmanager
def stores(path):
    rocks = RocksStore(str(path), "me", TABLES)
    rocks.open()
    try:
        yield MemoryStore(), rocks
    finally:
        rocks.close()


def seen(store, partitions=(0, 1, 255, 256)):
    return {
        (table, partition): (
            sorted(store.scan(table, partition)),
            [key for key, _ in store.oldest(table, partition, 3)],
            store.newest(table, partition),
            store.count(table, partition),
            store.reaches(table, partition),
        )
        for table in TABLES
        for partition in partitions
    }


keys = st.sampled_from([b"", b"a", b"ab", b"b", b"\xff", b"\xff\xff", b"\x00"])
steps = st.lists(
    st.tuples(
        st.sampled_from(["answers", "hosts"]),
        st.sampled_from([0, 1, 255]),
        st.lists(st.tuples(keys, st.booleans()), max_size=4),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_memory_and_disk_keep_the_same(tmp_path_factory, steps):
    """After any changes, rows, their order, their count and how far they reach are the same in both stores, and on
    disk also after opening it again.
    """
    path = tmp_path_factory.mktemp("store")
    offset = 0
    with stores(path) as both:
        for table, partition, made, dropped in steps:
            changes = []
            for key, there in made:
                offset += 1
                changes.append((key, row(offset) if there else None))
            for store in both:
                store.mark_dirty(partition) if made else store.mark_clean(partition)
                store.apply(table, partition, changes, offset)
                if dropped:
                    store.drop(partition)
        memory, disk = both
        assert seen(disk) == seen(memory)
        assert disk.partitions() == memory.partitions()
        assert disk.dirty == memory.dirty
        for table in TABLES:
            assert sorted(disk.scan(table, 0, b"a")) == sorted(memory.scan(table, 0, b"a"))
            assert disk.get(table, 0, b"a") == memory.get(table, 0, b"a")
    again = RocksStore(str(path), "me", TABLES)
    again.open()
    assert seen(again) == seen(memory)
    assert again.dirty == memory.dirty
    again.close()


@pytest.mark.slow
def test_a_killed_process_leaves_rows_and_reach_that_fit(tmp_path):
    """After kill -9 what the disk has reaches as far as it says."""
    code = f"""
import os, signal
from streams.tables.rocksdb import RocksStore
store = RocksStore({str(tmp_path)!r}, "me", ["answers"])
store.open()
for n in range(1000):
    store.apply("answers", 0, [(b"%d" % n, b'{{"offset":%d,"at":1}}' % n)], n + 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = RocksStore(str(tmp_path), "me", ["answers"])
    store.open()
    assert store.count("answers", 0) == store.reaches("answers", 0) == len(list(store.scan("answers", 0))) == 1000
    store.close()


def test_a_folder_belongs_to_one_worker(tmp_path):
    """A second worker on the same folder is refused, and told so."""
    code = f"from streams.tables.rocksdb import RocksStore\nRocksStore({str(tmp_path)!r}, 'me', ['answers']).open()"
    with stores(tmp_path):
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "SettingsError: MILLRACE_STORE" in done.stderr
    assert "is in use by another worker; each needs its own folder" in done.stderr


def test_a_folder_of_another_installation_is_refused(tmp_path):
    """The tables of another group are not taken for ours; the lock is given back."""
    with stores(tmp_path):
        pass
    other = RocksStore(str(tmp_path), "someone else", TABLES)
    with pytest.raises(SettingsError, match="holds the tables of me"):
        other.open()
    with stores(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    """A path below a file is no folder: the setting is named."""
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"MILLRACE_STORE: .*cannot be opened"):
        RocksStore(str(tmp_path / "file" / "store"), "me", TABLES).open()


def filled(path, failed=lambda _: None):
    """Return an open store of 3,000 rows, in a file of RocksDB's with many blocks."""
    store = RocksStore(str(path), "me", TABLES, failed)
    store.open()
    store.apply("answers", 0, [(b"%05d" % n, row(n) + random.randbytes(100)) for n in range(3000)], 3000)
    store.close()
    store.open()  # what was in memory is a file now
    return store


def overwrite(path, pattern, part=slice(None)):
    """Overwrite a part of what these files hold with zeros."""
    for file in path.glob(pattern):
        held = bytearray(file.read_bytes())
        held[part] = bytes(len(held[part]))
        file.write_bytes(held)


@pytest.mark.parametrize("files", ["*.sst", "CURRENT", "MANIFEST-*"])
def test_a_damaged_folder_is_begun_anew(tmp_path, files, caplog):
    """What RocksDB cannot make sense of is deleted, and said: the rows are in Kafka, too."""
    filled(tmp_path).close()
    overwrite(tmp_path, files)
    store = RocksStore(str(tmp_path), "me", TABLES)
    store.open()
    assert (store.partitions(), store.reaches("answers", 0), list(store.scan("answers", 0))) == (set(), None, [])
    store.apply("answers", 0, [(b"k", row(1))], 1)
    store.close()
    assert "is damaged: it is deleted, and the tables are read from Kafka again" in caplog.text


@pytest.mark.parametrize("owner", ["someone else", None])
def test_what_is_damaged_is_deleted_only_if_it_is_ours(tmp_path, owner):
    """A setting that names another's folder deletes nothing there, nor in one of an older release, without an owner."""
    store = RocksStore(str(tmp_path), owner or "me", TABLES)
    store.open()
    store.close()
    if owner is None:
        (tmp_path / "OWNER").unlink()
    overwrite(tmp_path, "CURRENT")
    there = {path.name for path in tmp_path.iterdir() if path.suffix == ".sst" or path.name == "CURRENT"}
    with pytest.raises(SettingsError, match="is damaged: delete it, the tables are read from Kafka again"):
        RocksStore(str(tmp_path), "me", TABLES).open()
    assert there <= {path.name for path in tmp_path.iterdir()}


def test_a_disk_without_room_for_the_folder_is_a_full_disk(tmp_path, monkeypatch):
    """It may have some later: no setting is wrong."""

    def mkdir(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(StoreError, match="see that its disk works and has room"):
        RocksStore(str(tmp_path / "new"), "me", TABLES).open()


def test_rows_behind_a_damaged_block_are_missed(tmp_path):
    """A block that turns out as damaged while rows are read is an error, where rocksdict ends the iteration without a
    word; whoever reads learns of it, and the next opening begins anew.
    """
    told = []
    filled(tmp_path).close()
    overwrite(tmp_path, "*.sst", slice(150_000, 150_064))
    store = RocksStore(str(tmp_path), "me", TABLES, told.append)
    store.open()
    with pytest.raises(StoreError, match="is damaged; the next start deletes it"):
        list(store.scan("answers", 0))
    with pytest.raises(StoreError, match="is damaged"):
        [store.get("answers", 0, b"%05d" % n) for n in range(3000)]
    assert [type(exc) for exc in told] == [StoreError, StoreError]
    store.close()
    store.open()
    assert store.partitions() == set()
    store.close()


def test_a_store_that_a_reader_still_holds_is_opened_when_it_has_ended(tmp_path):
    """Closed after a failure while a page is being read: the next opening waits for it, and blames no other worker."""
    store = filled(tmp_path)
    reader = store.scan("answers", 0)
    next(reader)
    store.close()
    with pytest.raises(StoreError):
        store.open()
    reader.close()
    store.open()
    assert store.count("answers", 0) == 3000
    store.close()


def test_a_disk_that_is_full_is_said(tmp_path):
    """A write that the system refuses is a StoreError, at a start and later; nothing is deleted for it."""
    code = f"""
import resource
from models.errors import StoreError
from streams.tables.rocksdb import RocksStore
store = RocksStore({str(tmp_path)!r}, "me", ["answers"], lambda exc: print("told", exc))
store.open()
store.apply("answers", 0, [(b"k", b'{{"offset":1,"at":1}}')], 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    for n in range(1000):
        store.apply("answers", 0, [(b"%d" % n, b'{{"offset":1,"at":1}}' + bytes(1000))], n)
except StoreError as exc:
    print(exc)
store.close()
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 40_000))
try:
    store.open()
except StoreError as exc:
    print("again", exc)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
store.open()
print(store.get("answers", 0, b"k"))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    told, said, again, kept = done.stdout.splitlines()
    assert told == f"told {said}"
    assert said.startswith(f"the tables' store {tmp_path} fails; see that its disk works and has room: IO error: ")
    assert again.startswith("again the tables' store")
    assert kept == repr(b'{"offset":1,"at":1}')


def test_without_rocksdict_the_extra_is_named(tmp_path, monkeypatch):
    """Where the package is missing, the message says what to install."""
    monkeypatch.setitem(sys.modules, "rocksdict", None)
    with pytest.raises(SettingsError, match=r"install millrace-kafka\[rocksdb\]"):
        RocksStore(str(tmp_path), "me", TABLES).open()


def test_the_setting_chooses_the_store(tmp_path):
    """memory:// and rocksdb://PATH make the store they name."""
    assert isinstance(make_store(Settings()), MemoryStore)
    assert isinstance(make_store(Settings(store=f"rocksdb://{tmp_path}")), RocksStore)


def test_a_scan_survives_changes(tmp_path):
    """Rows that come and go while a scan goes on do not disturb it."""
    with stores(tmp_path) as both:
        for store in both:
            store.apply("answers", 0, [(b"%d" % n, row(n)) for n in range(100)], 100)
            scan = store.scan("answers", 0)
            first, _ = next(scan)
            store.apply("answers", 0, [(b"%d" % n, None) for n in range(50, 99)] + [(b"new", row(200))], 200)
            assert {first, *(key for key, _ in scan)} >= {b"%d" % n for n in range(50)} | {b"99"}


@pytest.mark.parametrize(
    "nonsense", [b"", b"{}", b'{"offset":-1,"at":2}', b'{"offset":1}', b'{"at":1,"offset":2,', b"\xff"]
)
def test_what_is_no_row_has_no_mark(nonsense):
    """Bytes that do not begin as a row are recognised."""
    assert mark(nonsense) is None


def test_a_row_tells_its_offset():
    """The offset is read from the row's beginning."""
    assert mark(row(7)) == Mark(7, 70)
    assert offset_of(row(7)) == 7


def test_the_oldest_rows_are_read_one_after_the_other(tmp_path, monkeypatch):
    """Pruning looks at thousands, of up to a megabyte each: it has one of them at a time."""
    with stores(tmp_path / "rocks") as (_, rocks):
        rocks.apply("answers", 0, [(b"k%d" % offset, row(offset)) for offset in range(5)], 5)
        read, get = [], rocks.get
        monkeypatch.setattr(rocks, "get", lambda *place: read.append(place[-1]) or get(*place))
        oldest = rocks.oldest("answers", 0, 5)
        assert next(oldest) == (b"k0", row(0))
        assert read == [b"k0"]
        assert [key for key, _ in oldest] == [b"k1", b"k2", b"k3", b"k4"]
