from __future__ import annotations

import asyncio
import errno
import json
import logging
import math
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from aiocache.base import BaseCache
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import MillraceError, SettingsError
from streams import log_pause
from streams.cache import file as files
from streams.cache import folder as folders
from streams.cache import threads
from streams.cache.file import COUNTED, FileCache
from streams.cache.folder import Folder
from streams.config.cache_url import FileTier
from tests.fakes import Clock

ROOT = Path(__file__).parents[3]
TIMEOUT = 3600.0
HEADER = 40


def key_of(number):
    """A key whose entry is in one of 256 folders."""
    return b"%08x-%016x-%040x" % (number, 7, number * 0x9E3779B97F4A7C15F39CC0605CEDC8341082276B % (1 << 160))


KEY, OTHER = key_of(1), key_of(2)


@pytest.fixture
def clock():
    return Clock(time.time())


@pytest.fixture
def tier(tmp_path):
    return FileTier(tmp_path / "cache", timeout=TIMEOUT)


@pytest.fixture
async def cache(tier, clock):
    async with FileCache(tier, clock=clock) as opened:
        await swept(opened)
        yield opened


async def swept(cache):
    """Wait for the sweep under way."""
    await asyncio.wait({cache._sweeper})


def entry_path(cache, key=KEY):
    """Where the layout puts an entry."""
    name = key.decode()
    return cache.tier.path / name[26:28] / f"{name}.entry"


def counted(cache):
    """What was counted at all."""
    return {name: count for name, count in cache.counts.items() if count}


def failing(number):
    """A call that fails as the system call would."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


class Hang:
    """A call that hangs until it is let go, and says how often it was made and how many threads hang in it."""

    def __init__(self, call):
        self.call, self.free, self.calls = call, threading.Event(), 0

    def __call__(self, *arguments):
        self.calls += 1
        self.free.wait(30)
        return self.call(*arguments)


@pytest.fixture
def hang(monkeypatch):
    """Make a method of the folder hang; all are let go at the end."""
    hangs = []

    def make(cache, name):
        hangs.append(Hang(getattr(cache._folder, name)))
        monkeypatch.setattr(cache._folder, name, hangs[-1])
        return hangs[-1]

    yield make
    for made in hangs:
        made.free.set()


async def until(condition):
    """Wait for what another thread brings about."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


# -- what is kept


async def test_an_entry_comes_back_as_it_was_set(cache):
    """A value is got under its key alone, replaced by the next set, and gone after delete."""
    assert isinstance(cache, BaseCache)
    assert await cache.get(KEY) is None
    assert await cache.set(KEY, b"one", ttl=60) is True
    assert await cache.set(KEY, b"two", ttl=60) is True
    assert (await cache.get(KEY), await cache.get(OTHER)) == (b"two", None)
    assert [await cache.delete(KEY), await cache.delete(KEY)] == [1, 0]
    assert await cache.get(KEY) is None
    assert counted(cache) == {"hits": 1, "misses": 3, "stores": 2}


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=20_000), st.integers(0, (1 << 64) - 1))
def test_any_bytes_come_back(value, number):
    """Whatever the value and key, what is read is what was written."""
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(FileTier(Path(path)), time.time)
        assert folder.write(key_of(number & 0xFFFFFFFF), value, time.time() + 60)
        assert folder.read(key_of(number & 0xFFFFFFFF)) == ("", value)


async def test_entries_lie_where_the_layout_says_and_are_ours_alone(cache):
    """`<path>/<two hex of the digest>/<key>.entry`, for nobody else to read, and no other file is left."""
    await cache.set(KEY, b"x", ttl=60)
    path = entry_path(cache)
    assert path.parent.name == KEY.decode().rpartition("-")[2][:2]
    assert [file for file in cache.tier.path.rglob("*") if file.is_file()] == [path]
    modes = [stat.S_IMODE(file.stat().st_mode) for file in (cache.tier.path, path.parent, path)]
    assert modes == [0o700, 0o700, 0o600]
    assert path.stat().st_size == HEADER + 1


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"x",
        KEY[:-1],
        KEY + b"0",
        KEY + b"\n",
        KEY.upper(),
        KEY.replace(b"-", b"/"),
        KEY.decode(),
        b"../" + KEY[3:],
    ],
)
async def test_another_form_of_key_is_not_kept(cache, key):
    """What is no key of ours touches no file: never there, never stored, nothing to delete."""
    assert await cache.set(key, b"x", ttl=60) is False
    assert await cache.get(key) is None
    assert await cache.delete(key) == 0
    assert list(cache.tier.path.iterdir()) == []
    assert counted(cache) == {"misses": 1, "skipped": 3}


@pytest.mark.parametrize(("ttl", "lives"), [(5, 5), (TIMEOUT + 1, TIMEOUT), (None, TIMEOUT), (0.5, 0.5)])
async def test_an_entry_lives_for_its_time_to_live_and_at_most_the_tiers(cache, clock, ttl, lives):
    """Just before its time is over it is there; at that time it is a miss, and the file is gone."""
    await cache.set(KEY, b"x", ttl=ttl)
    clock.now += lives - 0.01
    assert await cache.get(KEY) == b"x"
    clock.now += 0.02
    assert await cache.get(KEY) is None
    assert not entry_path(cache).exists()
    assert counted(cache) == {"hits": 1, "misses": 1, "expired": 1, "stores": 1}


async def test_an_entry_from_the_future_is_over(cache, clock):
    """When the clock was wrong at the set, an entry does not live for years."""
    clock.now += folders.CLOCK_SLACK + 1
    await cache.set(KEY, b"x", ttl=TIMEOUT)
    clock.now -= folders.CLOCK_SLACK + 1
    assert await cache.get(KEY) is None
    assert cache.counts["expired"] == 1


@pytest.mark.parametrize("ttl", [0, -1, math.nan])
async def test_what_has_no_time_to_live_is_not_stored(cache, ttl):
    """Nothing is written that would be a miss."""
    assert await cache.set(KEY, b"x", ttl=ttl) is False
    assert list(cache.tier.path.iterdir()) == []
    assert counted(cache) == {"skipped": 1}


async def test_a_value_has_its_limit(cache, monkeypatch):
    """The largest value is stored and read; a byte more is neither stored nor, if it lies there, read."""
    for module in (files, folders):
        monkeypatch.setattr(module, "MAX_ENTRY_BYTES", 1000)
    assert await cache.set(KEY, b"x" * 1001, ttl=60) is False
    assert await cache.set(KEY, b"x" * 1000, ttl=60) is True
    assert await cache.get(KEY) == b"x" * 1000
    monkeypatch.setattr(folders, "MAX_ENTRY_BYTES", 999)
    assert await cache.get(KEY) is None
    assert counted(cache) == {"skipped": 1, "stores": 1, "hits": 1, "misses": 1, "torn": 1}
    assert files.MAX_WRITE_BYTES == 64 << 20


async def test_keys_purge_and_clear_walk_through_all_entries(cache):
    """All keys are listed; purge removes what matches and says how many; clear removes a namespace, or all."""
    keys = [key_of(number) for number in range(40)]
    for key in keys:
        await cache.set(key, b"x", ttl=60)
    assert sorted(await cache.keys()) == sorted(keys)
    assert await cache.purge(lambda key: int(key[:8], 16) % 4 == 0) == 10
    assert [await cache.get(key) for key in keys[:5]] == [None, b"x", b"x", b"x", None]
    assert await cache.purge(lambda _: False) == 0
    unfinished = entry_path(cache).with_suffix(".9-0123abcd-1.tmp")
    unfinished.write_bytes(b"")
    assert await cache.clear(namespace="00000001-") is True
    assert len(await cache.keys()) == 29
    assert await cache.clear() is True
    assert await cache.keys() == []
    assert cache.counts["purged"] == 40
    assert unfinished.exists()  # somebody may be writing it


async def test_figures_tell_of_folder_and_counts(cache):
    """What an operator is shown: where, how many, and every count by its name."""
    await cache.set(KEY, b"x", ttl=60)
    [figures] = await cache.stats()
    assert figures == {"tier": "file", "path": str(cache.tier.path), "entries": 1} | dict.fromkeys(COUNTED, 0) | {
        "stores": 1
    }


async def test_what_is_stored_outlives_the_cache(tier):
    """An entry is there when the folder is opened again, and not while it is closed."""
    cache = FileCache(tier)
    assert (await cache.set(KEY, b"x", ttl=60), await cache.get(KEY)) == (False, None)
    for _ in range(2):
        async with cache:
            assert await cache.get(KEY) in (None, b"x")
            await cache.set(KEY, b"x", ttl=60)
            assert await cache.get(KEY) == b"x"
        assert (await cache.get(KEY), await cache.keys()) == (None, [])
        with pytest.raises(MillraceError):
            await cache.purge(bool)
    assert (cache.counts["stores"], cache.counts["hits"]) == (2, 3)
    async with FileCache(tier) as again:
        assert await again.get(KEY) == b"x"


# -- what is damaged


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300), st.data())
def test_a_damaged_file_is_a_miss_and_removed(value, data):
    """Any byte changed, any end cut off, anything added: never a value, and the file is gone."""
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(FileTier(Path(path)), time.time)
        folder.write(KEY, value, time.time() + 60)
        file = Path(folder._path(KEY))
        whole = bytearray(file.read_bytes())
        match data.draw(st.sampled_from(["flip", "cut", "longer"])):
            case "flip":
                whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
            case "cut":
                del whole[data.draw(st.integers(0, len(whole) - 1)) :]
            case "longer":
                whole += data.draw(st.binary(min_size=1, max_size=100))
        file.write_bytes(whole)
        assert folder.read(KEY) == ("torn", None)
        assert not file.exists()


def test_every_single_byte_of_a_file_counts(tmp_path):
    """With each bit of each byte flipped and at each length cut off, an entry is torn."""
    folder = Folder(FileTier(tmp_path), time.time)
    folder.write(KEY, b"value", time.time() + 60)
    file = Path(folder._path(KEY))
    whole = file.read_bytes()
    for place in range(len(whole)):
        for damaged in (whole[:place], *(flipped(whole, place, 1 << bit) for bit in range(8))):
            file.write_bytes(damaged)
            assert folder.read(KEY) == ("torn", None)
    file.write_bytes(whole)
    assert folder.read(KEY) == ("", b"value")


def flipped(whole, place, mask):
    """The same bytes, one changed."""
    return whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]


async def test_an_entry_under_another_name_is_a_miss(cache):
    """A whole file in another key's place is not that key's value."""
    await cache.set(KEY, b"x", ttl=60)
    entry_path(cache, OTHER).parent.mkdir(exist_ok=True)
    shutil.copy(entry_path(cache), entry_path(cache, OTHER))
    assert (await cache.get(OTHER), await cache.get(KEY)) == (None, b"x")
    assert counted(cache) == {"stores": 1, "misses": 1, "torn": 1, "hits": 1}
    assert not entry_path(cache, OTHER).exists()


def make_symlink(path):
    (path.parent / "target").write_bytes(b"target")
    path.symlink_to(path.parent / "target")


FOREIGN = {
    "symlink": make_symlink,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "fifo": os.mkfifo,
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_what_is_no_file_is_a_miss_and_left_alone(cache, clock, kind):
    """A symlink, FIFO, socket or folder in an entry's place neither hangs nor leads anywhere, and stays."""
    path = entry_path(cache)
    path.parent.mkdir()
    FOREIGN[kind](path)
    assert await cache.get(KEY) is None
    assert counted(cache) == {"misses": 1, "foreign": 1}
    assert (await cache.delete(KEY), await cache.keys(), await cache.purge(bool)) == (0, [], 0)
    clock.now += 2 * TIMEOUT
    await cache._sweep()
    assert path.is_symlink() or path.exists()
    assert cache.counts["failures"] == 0


async def test_a_set_replaces_a_symlink_and_not_what_it_names(cache):
    """What a planted link names is not written to."""
    path = entry_path(cache)
    path.parent.mkdir()
    make_symlink(path)
    assert await cache.set(KEY, b"x", ttl=60) is True
    assert await cache.get(KEY) == b"x"
    assert (path.parent / "target").read_bytes() == b"target"


# -- sweeps


async def test_a_sweep_keeps_the_newest(cache, monkeypatch):
    """Of more than the threshold the oldest go, down to 90 %; as many as the threshold all stay, and being written."""
    monkeypatch.setattr(cache._folder, "_tier", FileTier(cache.tier.path, threshold=20))
    numbers = random.Random(1).sample(range(21), 21)
    for number in numbers[:20]:
        await cache.set(key_of(number), b"x", ttl=60)
        os.utime(entry_path(cache, key_of(number)), (1000 + number, 1000 + number))
    entry_path(cache, key_of(numbers[0])).with_suffix(".9-0123abcd-1.tmp").write_bytes(b"")
    await cache._sweep()
    assert len(await cache.keys()) == 20
    await cache.set(key_of(numbers[20]), b"x", ttl=60)
    os.utime(entry_path(cache, key_of(numbers[20])), (1000 + numbers[20], 1000 + numbers[20]))
    await cache._sweep()
    assert sorted(await cache.keys()) == sorted(key_of(number) for number in range(3, 21))
    assert cache.counts["pruned"] == 3


async def test_a_sweep_removes_what_is_over_and_nothing_foreign(cache, clock):
    """Expired entries, those of no known version and old temporary files go; all else in the folder stays."""
    for number, ttl in ((1, 10), (2, 50), (3, 50)):
        await cache.set(key_of(number), b"x", ttl=ttl)
    path, unread = entry_path(cache), entry_path(cache, key_of(3))
    unread.write_bytes(b"?" + unread.read_bytes()[1:])
    old, young = (path.with_suffix(f".9-0123abcd-{number}.tmp") for number in (1, 2))
    left = [young, entry_path(cache, OTHER), cache.tier.path / "README", path.parent / "notes.entry",
            path.with_suffix(".old"), path.with_suffix(".entry~"),
            cache.tier.path / "xy" / entry_path(cache, key_of(4)).name, cache.tier.path / "xy" / path.name,
            cache.tier.path / OTHER.decode()[26:28] / path.name]  # fmt: skip
    (cache.tier.path / "xy").mkdir()
    linked = entry_path(cache, key_of(4))
    linked.parent.symlink_to(cache.tier.path / "xy")
    (cache.tier.path / "fe").write_bytes(b"")
    for file in (old, *left[:1], *left[2:]):
        file.write_bytes(b"")
    clock.now += 20
    os.utime(old, (clock.now - folders.TEMPORARY_AGE - 1,) * 2)
    os.utime(young, (clock.now - folders.TEMPORARY_AGE + 1,) * 2)
    await cache._sweep()
    assert [file for file in left if not file.exists()] == []
    assert [file for file in (path, unread, old) if file.exists()] == []
    assert counted(cache) == {"stores": 3, "pruned": 3}


@pytest.mark.parametrize(("over", "left"), [(True, 0), (False, 18)])
async def test_a_full_disk_makes_room(cache, clock, monkeypatch, over, left):
    """What is over goes at once, however few files there are; where nothing is, a tenth of the oldest."""
    for number in range(20):
        await cache.set(key_of(number), b"x", ttl=50)
        os.utime(entry_path(cache, key_of(number)), (1000 + number, 1000 + number))
    if over:
        clock.now += 60
    monkeypatch.setattr(cache._folder, "write", failing(errno.ENOSPC))
    assert await cache.set(key_of(99), b"x", ttl=50) is False
    await swept(cache)
    assert sorted(await cache.keys()) == sorted(key_of(number) for number in range(20 - left, 20))
    await cache._sweep()
    assert len(await cache.keys()) == left, "with the next sweep nothing more goes"


async def test_opening_sweeps(tier, clock):
    """What is over when a worker starts is removed, without waiting for a get."""
    async with FileCache(tier, clock=clock) as first:
        assert await first.set(KEY, b"x", ttl=1)
    clock.now += 2
    async with FileCache(tier, clock=clock) as second:
        await swept(second)
        assert (await second.keys(), second.counts["pruned"]) == ([], 1)


@pytest.mark.parametrize(("threshold", "stores", "sweeps"), [(1, 3, 3), (10, 3, 3), (30, 8, 2), (30, 9, 3)])
async def test_every_tenth_of_the_threshold_a_sweep_follows(tmp_path, monkeypatch, threshold, stores, sweeps):
    """After so many stores, at least one, there is a sweep."""
    async with FileCache(FileTier(tmp_path, threshold=threshold)) as cache:
        await swept(cache)
        done, sweep = [], cache._folder.sweep
        monkeypatch.setattr(cache._folder, "sweep", lambda: done.append(1) or sweep())
        for number in range(stores):
            await cache.set(key_of(number), b"x", ttl=60)
            await swept(cache)
        assert len(done) == sweeps
        assert len(await cache.keys()) == min(stores, threshold)


async def test_one_sweep_at_a_time_and_never_in_the_way(tmp_path, hang):
    """While a sweep hangs, gets and sets go on and no second sweep begins; one follows it for what was missed."""
    async with FileCache(FileTier(tmp_path, threshold=10)) as cache:
        await swept(cache)
        hung = hang(cache, "sweep")
        for number in range(30):
            assert await cache.set(key_of(number), b"x", ttl=60)
            assert await cache.get(key_of(number)) == b"x"
        await until(lambda: hung.calls)
        assert hung.calls == 1
        hung.free.set()
        await swept(cache)
        assert hung.calls == 2
        assert len(await cache.keys()) == 9


async def test_a_folder_that_cannot_be_read_does_not_stop_a_walk(cache, monkeypatch):
    """One folder fails: it is counted, and the others are walked through."""
    for key in (KEY, OTHER):
        await cache.set(key, b"x", ttl=60)
    scan, closed = os.scandir, str(entry_path(cache).parent)
    monkeypatch.setattr(os, "scandir", lambda path: failing(errno.EACCES)() if path == closed else scan(path))
    assert await cache.keys() == [OTHER]
    with pytest.raises(MillraceError, match="1 entries were removed, others may be left"):
        await cache.purge(lambda _: True)
    assert cache.counts["failures"] == 2


@pytest.mark.parametrize("call", ["open", "unlink"])
async def test_a_file_that_fails_does_not_stop_a_sweep(cache, clock, monkeypatch, call):
    """One file cannot be looked at, or removed: it is counted, and the other expired one is removed."""
    for key in (KEY, OTHER):
        await cache.set(key, b"x", ttl=1)
    clock.now += 2
    real, bad = getattr(os, call), str(entry_path(cache))
    monkeypatch.setattr(os, call, lambda path, *rest: failing(errno.EIO)() if path == bad else real(path, *rest))
    await cache._sweep()
    assert await cache.keys() == [KEY]
    assert counted(cache) == {"stores": 2, "pruned": 1, "failures": 1}


@pytest.mark.parametrize("call", ["_sweep", "purge"])
async def test_files_may_vanish_under_a_walk(cache, monkeypatch, call):
    """What another worker removes between the listing and the look is no failure, and not counted as ours."""
    for number in range(5):
        await cache.set(key_of(number), b"x", ttl=60)
    walk = cache._folder._files

    def vanishing(errors):
        for found in list(walk(errors)):
            Path(found[0]).unlink()
            yield found

    monkeypatch.setattr(cache._folder, "_files", vanishing)
    assert await (cache._sweep() if call == "_sweep" else cache.purge(lambda _: True)) in (None, 0)
    assert counted(cache) == {"stores": 5}


# -- what a disk does


@pytest.mark.parametrize("call", ["open", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT, errno.ETIMEDOUT])
async def test_a_failing_write_leaves_what_was_there(cache, monkeypatch, call, number):
    """False and a count, the old value still whole, no temporary file left, and nothing written for a while."""
    await cache.set(KEY, b"old", ttl=60)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing(number))
        assert await cache.set(KEY, b"new", ttl=60) is False
    assert counted(cache) == {"stores": 1, "failures": 1}
    assert list(entry_path(cache).parent.iterdir()) == [entry_path(cache)]
    assert await cache.set(KEY, b"new", ttl=60) is False
    assert await cache.get(KEY) == b"old"
    assert cache.counts["skipped"] == 1
    assert 0 < cache._rests_until - time.monotonic() <= files.REST
    cache._rests_until = time.monotonic()
    assert await cache.set(KEY, b"new", ttl=60) is True
    assert await cache.get(KEY) == b"new"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
async def test_a_failing_read_is_a_miss(cache, monkeypatch, number):
    """The value is not removed for it, and is there when the disk is."""
    await cache.set(KEY, b"x", ttl=60)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing(number))
        assert await cache.get(KEY) is None
    assert await cache.get(KEY) == b"x"
    assert counted(cache) == {"stores": 1, "misses": 1, "hits": 1, "failures": 1}
    assert await cache.set(KEY, b"y", ttl=60) is False


async def test_a_full_disk_is_no_error(cache, monkeypatch):
    """The system's own ENOSPC, of a write to /dev/full, for a value of any size."""
    opens = os.open
    for size in (1, 100_000):
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", lambda path, *_: opens("/dev/full" if path[-1] == "p" else path, os.O_WRONLY))
            (entry_path(cache).parent).mkdir(exist_ok=True)
            assert await cache.set(KEY, b"x" * size, ttl=60) is False
        cache._rests_until = 0.0
    assert counted(cache) == {"failures": 2}
    assert await cache.get(KEY) is None


LIMITED = """
import asyncio, json, resource, sys
from pathlib import Path
from streams.cache.file import FileCache
from streams.config.cache_url import FileTier
from tests.unit.streams.test_file import KEY, OTHER

async def main():
    async with FileCache(FileTier(Path(sys.argv[1]))) as cache:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        done = [await cache.set(KEY, b"x" * 1000, ttl=60), await cache.set(OTHER, b"x" * 100_000, ttl=60)]
        done += [await cache.get(KEY) == b"x" * 1000, await cache.get(OTHER) is None]
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        files = sum(file.is_file() for file in cache.tier.path.rglob("*"))
        print(json.dumps([done, files, cache.counts["failures"]]))

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_value_that_the_system_does_not_let_us_write_is_no_error(tmp_path):
    """A real process with a real limit of 5000 bytes a file: what fits is kept, what does not leaves nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == f"the cache in {tmp_path} fails: {os.strerror(errno.EFBIG)}\n"
    assert json.loads(done.stdout) == [[True, False, True, True], 1, 1]


async def test_a_deleted_folder_is_made_again(cache):
    """All files gone are misses and no failures; the next set makes the folders, for us alone."""
    await cache.set(KEY, b"x", ttl=60)
    shutil.rmtree(cache.tier.path)
    assert (await cache.get(KEY), await cache.keys(), await cache.delete(KEY)) == (None, [], 0)
    await cache._sweep()
    assert await cache.set(KEY, b"y", ttl=60) is True
    assert await cache.get(KEY) == b"y"
    assert stat.S_IMODE(cache.tier.path.stat().st_mode) == 0o700
    assert cache.counts["failures"] == 0


async def test_a_file_in_the_folders_place_is_no_error(cache):
    """When the folder turns into a file, every call ends as if nothing were there."""
    shutil.rmtree(cache.tier.path)
    cache.tier.path.write_bytes(b"")
    assert await cache.set(KEY, b"x", ttl=60) is False
    assert await cache.get(KEY) is None
    assert await cache.delete(KEY) == 0
    with pytest.raises(MillraceError, match="0 entries were removed"):
        await cache.purge(bool)
    assert (await cache.keys(), await cache.clear()) == ([], False)
    await cache._sweep()
    assert counted(cache) == {"misses": 1, "failures": 7}


async def test_a_failure_is_logged_once_a_minute_for_each_kind(cache, monkeypatch, caplog):
    """One line a kind, with the system's words and no traceback, until LOG_EVERY is over."""
    for number in (errno.EIO, errno.EIO, errno.EACCES, errno.EIO):
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", failing(number))
            await cache.get(KEY)
    lines = [f"the cache in {cache.tier.path} fails: {words}" for words in ("Input/output error", "Permission denied")]
    assert [record.getMessage() for record in caplog.records if record.name == files.__name__] == lines
    assert all(record.exc_info is None and record.levelno == logging.WARNING for record in caplog.records)
    assert 50 < cache._log_pause.until[errno.EIO] - time.monotonic() <= log_pause.LOG_EVERY == 60
    cache._log_pause.until[errno.EIO] = time.monotonic()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing(errno.EIO))
        await cache.get(KEY)
    assert caplog.messages[2:] == lines[:1]


async def test_a_folder_that_vanishes_again_is_no_reason_to_rest(cache, monkeypatch):
    """Somebody who deletes folders as fast as we make them costs a set, not those of the next seconds."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing(errno.ENOENT))
        assert await cache.set(KEY, b"x", ttl=60) is False
    assert await cache.set(KEY, b"x", ttl=60) is True
    assert counted(cache) == {"failures": 1, "stores": 1}


async def test_fsync_comes_before_and_after_the_rename(tmp_path, monkeypatch):
    """The file is on the disk before it has its name, then the folder; without the option nothing is synced."""
    done, sync, replace = [], os.fsync, os.replace
    kinds = {True: "folder", False: "file"}
    monkeypatch.setattr(os, "fsync", lambda at: done.append((kinds[stat.S_ISDIR(os.fstat(at).st_mode)],
                                                             os.fstat(at).st_size)) or sync(at))  # fmt: skip
    monkeypatch.setattr(os, "replace", lambda *paths: done.append(("rename", 0)) or replace(*paths))
    for fsync in (False, True):
        async with FileCache(FileTier(tmp_path, fsync=fsync)) as cache:
            assert await cache.set(KEY, b"x" * 10, ttl=60) is True
    assert [what for what, _ in done] == ["rename", "file", "rename", "folder"]
    assert done[1] == ("file", HEADER + 10)


# -- opening


@pytest.mark.parametrize(
    ("below", "reason"),
    [("file", "Not a directory"), ("file/cache", "Not a directory"), ("nul\0", "embedded null "),
     ("x" * 300, "File name too long")],
)  # fmt: skip
async def test_a_folder_of_no_use_stops_the_start(tmp_path, below, reason):
    """The setting, the folder and the reason are named, and no thread is left working."""
    (tmp_path / "file").write_bytes(b"")
    cache = FileCache(FileTier(tmp_path / below))
    with pytest.raises(SettingsError) as caught:
        await cache.__aenter__()
    folder = str(tmp_path / below)
    said, _, why = str(caught.value).partition(" cannot be used: ")
    assert said == f"MILLRACE_CACHE: the folder {folder!r}"
    assert reason in why  # Python 3.13 names the call, too
    assert await cache.get(KEY) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
async def test_a_folder_that_cannot_be_written_to_stops_the_start(tier, monkeypatch, number):
    """A folder that is there is tried before it is trusted."""
    monkeypatch.setattr(os, "open", failing(number))
    with pytest.raises(SettingsError, match=f"MILLRACE_CACHE: .*{os.strerror(number)}"):
        await FileCache(tier).__aenter__()


async def test_a_full_disk_does_not_stop_the_start(tier, monkeypatch):
    """What is on a full disk can be read, so a worker starts."""
    async with FileCache(tier) as cache:
        await cache.set(KEY, b"x", ttl=60)
    opens = os.open
    monkeypatch.setattr(
        os, "open", lambda path, flags, *_: failing(errno.ENOSPC)() if flags & os.O_CREAT else opens(path, flags)
    )
    async with FileCache(tier) as cache:
        assert await cache.get(KEY) == b"x"


async def test_a_disk_that_hangs_at_the_start_stops_it(tier, monkeypatch, hang):
    """Opening has a deadline too."""
    monkeypatch.setattr(files, "OPEN_DEADLINE", 0.05)
    cache = FileCache(tier)
    hang(cache, "open")
    with pytest.raises(SettingsError, match="cannot be used: no answer in time"):
        await cache.__aenter__()


async def test_opening_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    """Folders above it are made as well, and a folder that is there is kept as it is."""
    path = tmp_path / "a" / "b"
    async with FileCache(FileTier(path)):
        assert list(path.iterdir()) == []
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o750)
    async with FileCache(FileTier(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o750


# -- a disk that hangs


async def test_a_hanging_read_is_a_miss_in_time_and_bounds_the_others(tier, monkeypatch, hang):
    """As many gets hang as there are threads, so many more wait as may, the rest are misses at once; then it heals."""
    monkeypatch.setattr(files, "READ_DEADLINE", 0.1)
    monkeypatch.setattr(files, "MAX_READS", files.READERS + 5)
    async with FileCache(tier) as cache:
        await cache.set(KEY, b"x", ttl=60)
        hung = hang(cache, "read")
        began = time.monotonic()
        assert await asyncio.gather(*(cache.get(KEY) for _ in range(50))) == [None] * 50
        assert time.monotonic() - began < 1
        assert hung.calls == files.READERS
        assert counted(cache) == {
            "stores": 1,
            "misses": 50,
            "failures": files.READERS + 5,
            "skipped": 45 - files.READERS,
        }
        assert len(cache._reads._calls) == files.READERS + 5
        monkeypatch.setattr(files, "READ_DEADLINE", 60)
        assert await cache.get(KEY) is None  # at once: no thread is free
        assert cache.counts["skipped"] == 46 - files.READERS
        hung.free.set()
        await until(lambda: not cache._reads._calls)
        assert hung.calls == files.READERS  # what was given up was not done late
        assert await cache.get(KEY) == b"x"


@pytest.mark.parametrize(("count", "found"), [(3, {0}), (2 * files.SHARE, {*range(2 * files.SHARE)} - {1})])
async def test_a_hanging_read_costs_as_few_other_keys_as_may_be(cache, monkeypatch, count, found):
    """One thread has found those before the one that hangs, and reads none behind it later; a second reads them all."""
    keys = [key_of(number) for number in range(count)]
    for key in keys:
        await cache.set(key, b"v", ttl=60)
    monkeypatch.setattr(files, "READ_DEADLINE", 0.1)
    read, asked, let_go = cache._folder.read, [], threading.Event()

    def hanging(key):
        asked.append(key)
        if key == keys[1]:
            let_go.wait()
        return read(key)

    monkeypatch.setattr(cache._folder, "read", hanging)
    try:
        assert [each is not None for each in await cache.multi_get(keys)] == [at in found for at in range(count)]
    finally:
        let_go.set()
    await cache.close()
    assert len(asked) == len(found) + 1


async def test_a_hanging_write_is_given_up_and_gets_go_on(tier, monkeypatch, hang):
    """A set ends False in time, no more is tried for a while, and what is stored is got meanwhile."""
    monkeypatch.setattr(files, "WRITE_DEADLINE", 0.05)
    async with FileCache(tier) as cache:
        await cache.set(KEY, b"x", ttl=60)
        hung = hang(cache, "write")
        waiting = [cache.set(key_of(number), b"y", ttl=60) for number in range(10)]
        assert await asyncio.gather(*waiting) == [False] * 10
        assert (hung.calls, cache.counts["failures"]) == (files.WRITERS, 10)
        assert await cache.set(KEY, b"z", ttl=60) is False
        assert cache.counts["skipped"] == 1
        cache._rests_until = 0.0
        assert await cache.set(KEY, b"z", ttl=60) is False  # both threads hang still
        assert (hung.calls, cache.counts["skipped"]) == (files.WRITERS, 2)
        assert await cache.get(KEY) == b"x"


async def test_values_that_wait_to_be_written_are_bounded_in_bytes(tier, monkeypatch, hang):
    """Beside the first, no more bytes wait than may: a disk that hangs does not fill the memory."""
    monkeypatch.setattr(files, "MAX_WRITE_BYTES", 100)
    async with FileCache(tier) as cache:
        hung = hang(cache, "write")
        sizes = [200, 1, 1]
        first = [
            asyncio.ensure_future(cache.set(key_of(place), b"x" * size, ttl=60)) for place, size in enumerate(sizes)
        ]
        await until(lambda: cache.counts["skipped"])
        hung.free.set()
        assert await asyncio.gather(*first) == [True, False, False]
        sets = (cache.set(key_of(place), b"x" * 50, ttl=60) for place in range(3))
        hung.free.clear()
        later = asyncio.gather(*sets)
        await until(lambda: cache.counts["skipped"] == 3)
        hung.free.set()
        assert await later == [True, True, False]


@pytest.mark.parametrize("call", ["keys", "purge"])
async def test_a_hanging_walk_is_given_up(cache, monkeypatch, hang, call):
    """Listing ends in time with nothing found; purging ends in time and says that it failed."""
    monkeypatch.setattr(files, "WALK_DEADLINE", 0.05)
    await cache.set(KEY, b"x", ttl=60)
    hang(cache, call)
    if call == "keys":
        assert await cache.keys() == []
    else:
        with pytest.raises(MillraceError):
            await cache.purge(lambda _: True)
    assert cache.counts["failures"] == 1
    assert cache.timeout is None  # aiocache's own would raise


async def test_closing_ends_a_walk_under_way(cache, monkeypatch):
    """A purge of very many files does not go on after the cache is closed."""
    monkeypatch.setattr(threads, "CLOSE_DEADLINE", 0.05)
    for number in range(10):
        await cache.set(key_of(number), b"x", ttl=60)
    asked, go = threading.Event(), threading.Event()
    purge = asyncio.ensure_future(cache.purge(lambda _: asked.set() or go.wait(30)))
    await until(asked.is_set)
    executor = cache._walks._executor
    await cache.close()
    go.set()
    executor.shutdown(wait=True)
    with pytest.raises(MillraceError):
        await purge
    async with FileCache(cache.tier) as again:
        assert len(await again.keys()) == 9


async def test_closing_waits_for_a_sweep_under_way(tier, hang):
    """A sweep does not go on in its thread once the cache is closed: the folder may be another's by then."""
    cache = FileCache(tier)
    await cache.__aenter__()
    await swept(cache)
    hung = hang(cache, "sweep")
    cache._sweeper = asyncio.create_task(cache._sweep())
    await until(lambda: hung.calls)
    closing = asyncio.ensure_future(cache.close())
    done, _ = await asyncio.wait({closing}, timeout=0.05)
    assert not done
    hung.free.set()
    await closing


async def test_closing_does_not_wait_for_a_disk_that_hangs(tier, monkeypatch, hang):
    """Closing ends in time, and who waits for the disk then gets a miss."""
    monkeypatch.setattr(threads, "CLOSE_DEADLINE", 0.05)
    for name in ("READ_DEADLINE", "WRITE_DEADLINE"):
        monkeypatch.setattr(files, name, 60)
    cache = FileCache(tier)
    await cache.__aenter__()
    hung = [hang(cache, name) for name in ("read", "write", "sweep")]
    waiting = asyncio.gather(*(cache.get(KEY) for _ in range(9)), *(cache.set(KEY, b"x", ttl=60) for _ in range(9)))
    await until(lambda: hung[0].calls == files.READERS and hung[1].calls == files.WRITERS)
    async with asyncio.timeout(1):
        await cache.close()
        assert await waiting == [None] * 9 + [False] * 9
    assert counted(cache) == {"misses": 9, "skipped": 19}  # the sweep is given up as well


async def test_closing_lets_writes_under_way_end(tier):
    """What was being stored when a worker stops is stored."""
    cache = FileCache(tier)
    await cache.__aenter__()
    waiting = [asyncio.ensure_future(cache.set(key_of(number), b"x" * 10_000, ttl=60)) for number in range(50)]
    await asyncio.sleep(0)
    await cache.close()
    assert await asyncio.gather(*waiting) == [True] * 50


async def test_a_get_may_be_cancelled(cache, hang):
    """Whoever asks may give up: that is no failure of the disk."""
    hung = hang(cache, "read")
    asked = asyncio.ensure_future(cache.get(KEY))
    await until(lambda: hung.calls)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    hung.free.set()
    await until(lambda: not cache._reads._calls)
    assert counted(cache) == {}


# -- several workers


def value_of(key, number):
    """A value that tells whose it is and whether it is whole."""
    return key + bytes([number % 256]) * (number * 977 % 60_000) + key


def is_value_of(key, value):
    return value.startswith(key) and value.endswith(key) and len(set(value[len(key) : -len(key)])) <= 1


@pytest.mark.slow
async def test_two_caches_share_a_folder(tmp_path):
    """Sets, gets, purges and sweeps of both at once: what is got is always whole and the key's own, nothing fails."""
    tier = FileTier(tmp_path, threshold=20)

    async def work(cache, seed):
        chance, hits = random.Random(seed), 0
        for number in range(300):
            key = key_of(chance.randrange(30))
            match chance.randrange(8):
                case 0:
                    await cache.delete(key)
                case 1:
                    await cache.purge(lambda found, number=number: found[0:8] == b"%08x" % (number % 30))
                case 2 | 3 | 4:
                    assert await cache.set(key, value_of(key, number), ttl=60) is True
                case _:
                    found = await cache.get(key)
                    assert found is None or is_value_of(key, found)
                    hits += found is not None
        return hits

    async with FileCache(tier) as one, FileCache(tier) as two:
        hits = await asyncio.gather(*(work(cache, seed) for seed, cache in enumerate((one, two) * 3)))
        assert min(hits) > 0
        for cache in (one, two):
            await swept(cache)
            assert not {"torn", "foreign", "failures", "skipped"} & counted(cache).keys()
        await one._sweep()
        assert len(await two.keys()) <= 20
        assert list(tmp_path.rglob("*.tmp")) == []


WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from streams.cache.file import FileCache
from streams.config.cache_url import FileTier
from tests.unit.streams.test_file import key_of, value_of

async def main():
    async with FileCache(FileTier(Path(sys.argv[1]))) as cache:
        for turn in itertools.count(int(sys.argv[2])):
            keys = [key_of(number) for number in range(16)]
            await asyncio.gather(*(cache.set(key, value_of(key, turn + at), ttl=600) for at, key in enumerate(keys)))
            if turn == int(sys.argv[2]) + 3:
                print("writing", flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_kill_leaves_only_whole_entries(tmp_path):
    """Whenever a writing process is killed, each entry is there afterwards, whole and its key's own."""
    for turn in range(5):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, tmp_path, str(turn * 1000), cwd=ROOT, stdout=subprocess.PIPE
        )
        assert await writer.stdout.readline() == b"writing\n"
        await asyncio.sleep(0.02 * random.Random(turn).random())  # to be killed at any point
        writer.kill()
        assert await writer.wait() == -9
        async with FileCache(FileTier(tmp_path)) as cache:
            await swept(cache)
            keys = await cache.keys()
            assert sorted(keys) == sorted(key_of(number) for number in range(16))
            for key in keys:
                assert is_value_of(key, await cache.get(key))
            assert counted(cache) == {"hits": 16}
