"""The process gives back what it does not use any more."""

import subprocess
import sys

import pytest

from models import large
from streams import memory

GARBAGE = """
import asyncio, gc
from streams import memory

class Each:
    def __init__(self):
        self.me = self                       # a cycle: the collector alone can free it
        self.text = bytearray(1500)

async def main():
    memory.settle()
    looks = asyncio.Queue()
    async def pause(seconds):
        assert seconds == memory.LOOK_EVERY
        looked.set()
        await looks.get()
    looked = asyncio.Event()
    task = asyncio.create_task(memory.keep_level(pause))
    await looked.wait()
    before = memory.resident()
    each = [Each() for _ in range(80_000)]
    used = each[::400]                       # what stays is spread over all pages
    gc.collect(), gc.collect(), gc.collect() # they are old now
    del each
    full = memory.resident()
    looked.clear()
    looks.put_nowait(None)
    await looked.wait()
    print(before >> 20, full >> 20, memory.resident() >> 20)
    task.cancel()

asyncio.run(main())
"""


@pytest.mark.skipif(large._malloc_trim is None, reason="this C library gives nothing back")
def test_a_process_that_has_grown_gives_back_what_is_free():
    """Old cycles of 120 MiB, with a few objects between them that are used, are gone after the next look."""
    ran = subprocess.run([sys.executable, "-c", GARBAGE], capture_output=True, text=True, check=True)
    before, full, after = map(int, ran.stdout.split())
    assert full > before + 100
    assert after < before + 30


async def test_a_process_that_has_not_grown_is_left_alone(monkeypatch):
    """Garbage is collected after growth by a quarter and 32 MiB, less than either is left; a fall is the new level."""
    assert await _looks(monkeypatch, "100", "131") == ""
    assert await _looks(monkeypatch, "100", "133>100") == "133 collected"
    assert await _looks(monkeypatch, "400", "450", "499") == "450 trimmed, 499 trimmed"
    assert await _looks(monkeypatch, "400", "501>400") == "501 collected"
    assert await _looks(monkeypatch, "100", "120", "133>100") == "133 collected"
    assert await _looks(monkeypatch, "400", "300", "390>300") == "390 collected"


async def test_what_a_cache_has_dropped_is_given_back_without_growth(monkeypatch):
    """Pages go back at every look while the process is larger than it has been."""
    assert await _looks(monkeypatch, "400", "300", "340") == "340 trimmed"
    looks = await _looks(monkeypatch, "100", "200", "200>110", "110", "141>120")
    assert looks == "200 collected, 200 trimmed, 141 trimmed"


async def test_what_gives_nothing_back_is_asked_less_often(monkeypatch):
    """After a collection that brought nothing, twice the growth is needed, and once again after one that did."""
    looks = await _looks(monkeypatch, "100", "140", "180", "211>140", "176>140")
    assert looks == "140 collected, 180 trimmed, 211 collected, 176 collected"


async def _looks(monkeypatch, first, *looks):
    """Return what was done at which size in MiB. `200>110` is a process that has 110 MiB once pages were given back."""
    sizes, done = [int(first)], []
    for look in looks:
        before, _, after = look.partition(">")
        sizes += [int(before), int(after or before)]
    at = iter(sizes)

    def resident():
        done.append([next(at)])
        return done[-1][0] << 20

    monkeypatch.setattr(memory, "resident", resident)
    monkeypatch.setattr(memory, "trim", lambda: done[-1].append("trimmed"))
    monkeypatch.setattr(memory.gc, "collect", lambda: done[-1].append("collected"))
    with pytest.raises(RuntimeError, match="StopIteration"):
        await memory.keep_level(_nothing)
    return ", ".join(f"{size} {what[0]}" for size, *what in done if what)


async def _nothing(_seconds):
    pass
