"""Faults of what keeps entries and rows: memcached, the files of the cache, the store of the tables."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
from pathlib import Path
from random import Random

from tests.faults.on_brokers import run
from tests.faults.scene import Scene, need_root

ROOM = "2m"
"""The file system of a cache that runs full."""


async def kill_memcached(scene: Scene) -> None:
    """Kill it, and start it again after 8 s, empty."""
    await scene.memcached.kill()
    await asyncio.sleep(8)
    await scene.memcached.start()


async def freeze_memcached(scene: Scene) -> None:
    """SIGSTOP for 10 s."""
    scene.memcached.hang()
    await asyncio.sleep(10)
    scene.memcached.go_on()


async def empty_memcached(scene: Scene) -> None:
    """Start it anew five times."""
    for _ in range(5):
        await scene.memcached.kill()
        await scene.memcached.start()
        await asyncio.sleep(1)


async def files(scene: Scene) -> None:
    """Keep entries in files; memory has few."""
    scene.kept = scene.folder()
    scene.settings["MILLRACE_CACHE"] = f"memory://?entries=5 file://{scene.kept}"


async def small_disk(scene: Scene) -> None:
    """Keep entries in files, on a file system with little room."""
    need_root()
    await files(scene)
    await run("mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(scene.kept))
    scene.after(run, "umount", "--lazy", str(scene.kept))


async def fill_disk(scene: Scene) -> None:
    """Leave no byte for 10 s: ENOSPC."""
    filler = scene.kept / "filler"
    until = asyncio.get_running_loop().time() + 10
    with filler.open("ab", buffering=0) as file:
        while asyncio.get_running_loop().time() < until:
            try:
                file.write(bytes(512))
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
                await asyncio.sleep(0.01)
    filler.unlink()


async def tear_files(scene: Scene) -> None:
    """Cut and overwrite the files of entries, for 10 s."""
    for _ in range(20):
        for path in scene.kept.rglob("*"):
            with contextlib.suppress(OSError):
                _damage(path, scene.draw)
        await asyncio.sleep(0.5)


def _damage(path: Path, draw: Random) -> None:
    if not path.is_file():
        return
    size = path.stat().st_size
    if draw.random() < 0.5:
        with path.open("r+b") as file:
            file.truncate(draw.randrange(size + 1))
    else:
        with path.open("r+b") as file:
            file.seek(draw.randrange(size + 1))
            file.write(draw.randbytes(16))


async def rows_on_disk(scene: Scene) -> None:
    """Keep the tables in a RocksDB each."""
    scene.kept = scene.folder()
    scene.stores = True


async def delete_store(scene: Scene) -> None:
    """Kill a worker, and start it again without its store."""
    worker = scene.workers[0]
    await scene.end(worker, kill=True)
    await asyncio.to_thread(shutil.rmtree, scene.store_of(worker))
    await scene.start(store=scene.store_of(worker))


async def damage_store(scene: Scene) -> None:
    """Stop a worker, and start it again with a store of which every file was cut or overwritten; kill the next, too."""
    for kill in (False, True):
        worker = scene.workers[0]
        store = scene.store_of(worker)
        await scene.end(worker, kill=kill)
        for path in store.rglob("*"):
            _damage(path, scene.draw)
        await scene.start(store=store)
