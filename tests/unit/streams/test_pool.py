"""The process pool: batches, and checks that misbehave for real."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models import checks
from streams import pool as module
from streams.pool import CheckPool

PLUGIN = """
import os, sys, time
from models.checks import check

@check
def pool_pid(value): return os.getpid()
@check
def pool_spin(value):
    while True: pass
@check
def pool_exit(value): os._exit(3)
@check
def pool_raise(value): raise LookupError("no such thing")
@check
def pool_unpicklable(value): return lambda: None
@check
def pool_huge(value): return "x" * 10_000_000
@check
def pool_nan(value): return float("nan")
"""


@pytest.fixture
async def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CheckPool]:
    (tmp_path / "pool_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "CHECK_TIMEOUT", 1.0)
    before = dict(checks._REGISTRY)
    async with CheckPool(1, ["pool_plugin"]) as opened:
        yield opened
    checks._REGISTRY.clear()
    checks._REGISTRY.update(before)
    sys.modules.pop("pool_plugin", None)


async def test_checks_asked_for_together_travel_together(pool: CheckPool) -> None:
    """A hundred checks of one turn of the loop go out in two batches, and each gets its own verdict."""
    futures = [pool.submit("is_prime", number, {}) for number in range(100)]
    verdicts = await asyncio.gather(*futures)
    assert [n for n, verdict in enumerate(verdicts) if verdict.value][:5] == [2, 3, 5, 7, 11]
    assert pool.submissions == 2
    assert pool.queued == 0


async def test_checks_run_in_another_process(pool: CheckPool) -> None:
    """A check burns another process's CPU."""
    assert (await pool.submit("pool_pid", None, {})).value != os.getpid()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pool_spin", "longer than 1 s"),
        ("pool_exit", "ended with code 3"),
        ("pool_raise", "LookupError: no such thing"),
        ("pool_unpicklable", "TypeError"),
        ("pool_huge", "bytes of JSON"),
        ("pool_nan", "ValueError"),
        ("no_such_check", "KeyError"),
    ],
)
async def test_a_bad_check_fails_alone(pool: CheckPool, name: str, reason: str) -> None:
    """Whatever one check of a batch does, the others get their values and the pool goes on."""
    good, bad, other = (pool.submit(each, 7, {}) for each in ("is_prime", name, "sha256"))
    assert (await good).value is True
    assert (await other).error is None
    verdict = await bad
    assert verdict.error is not None
    assert reason in verdict.error
    assert (await pool.submit("is_prime", 8, {})).value is False


async def test_a_killed_child_costs_no_check(pool: CheckPool) -> None:
    """Kill -9 of the child in mid-batch: its checks run again in a new one."""
    child = (await pool.submit("pool_pid", None, {})).value
    spinning = pool.submit("pool_spin", None, {})
    others = [pool.submit("is_prime", number, {}) for number in range(30)]
    await asyncio.sleep(0)
    os.kill(child, signal.SIGKILL)
    assert all([(await other).error is None for other in others])
    assert (await spinning).error is not None


async def test_checks_of_requests_out_of_time_are_not_run(pool: CheckPool) -> None:
    """A check whose waiter has gone is dropped from the queue."""
    busy = pool.submit("pool_spin", None, {})
    await asyncio.sleep(0)
    dropped = pool.submit("is_prime", 7, {})
    dropped.cancel()
    kept = pool.submit("is_prime", 7, {})
    assert (await busy).error is not None
    assert (await kept).value is True
    assert pool.queued == 0


async def test_closing_cancels_what_waits(tmp_path: Path) -> None:
    """Whoever still waits for a check when the pool closes is told so."""
    async with CheckPool(1) as opened:
        waiting = opened.submit("is_prime", 7, {})
    with pytest.raises(asyncio.CancelledError):
        await waiting
