"""The process pool: who runs what, and checks that misbehave for real."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time

import psutil
import pytest

from models import checks
from models.errors import SettingsError
from streams.pool import CheckPool
from streams.pool import pool as module
from streams.pool import quarantine as suspicion
from streams.pool import workers as crew
from streams.pool.costs import UNSEEN

pytestmark = pytest.mark.slow

PLUGIN = "tests.unit.streams.bad_checks"
DEADLINE = 1.0
GRACE = 1.0
"""Seconds after its deadline within which a check must have failed, on a machine where processes start at once."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A short deadline, and the plugin's checks known only to these tests."""
    monkeypatch.setattr(module, "CHECK_TIMEOUT", DEADLINE)
    monkeypatch.setattr(suspicion, "CHECK_TIMEOUT", DEADLINE)
    monkeypatch.setattr(checks.registry, "_REGISTRY", dict(checks.registry._REGISTRY))
    sys.modules.pop(PLUGIN, None)
    __import__(PLUGIN)


@pytest.fixture(params=[1, 2])
async def pool(request):
    began = time.monotonic()
    async with CheckPool(request.param, [PLUGIN]) as opened:
        opened.start_took = time.monotonic() - began
        yield opened


@pytest.fixture
async def two():
    async with CheckPool(2, [PLUGIN]) as opened:
        yield opened


async def until(condition, seconds=20):
    """Wait for what other processes bring about."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def at_full_strength(pool):
    await until(lambda: pool.stats()["alive"] == pool.stats()["processes"])


STRANGERS = set()
"""Processes of this one that were there before a test began: the broker of integration tests that ran before."""


@pytest.fixture(autouse=True)
def _strangers():
    STRANGERS.clear()
    STRANGERS.update(psutil.Process().children())


def children():
    """Return the processes that pools started, zombies too."""
    return [child for child in psutil.Process().children() if child not in STRANGERS]


BAD = [
    ("bad_spin", 7, "timeouts", "ran longer than 1 s"),
    ("bad_stop", 7, "timeouts", "ran longer than 1 s"),
    ("bad_exit", 7, "crashes", "ended its process: exit code 3"),
    ("bad_segfault", 7, "crashes", "ended its process: killed by SIGSEGV"),
    ("bad_close", 7, "crashes", "ended its process: exit code"),
    ("bad_garbage", 7, "crashes", "ended its process: wrote to the socket of the pool"),
    ("bad_eat", 7, "failed", "MemoryError"),
    ("bad_raise", "l", "failed", "LookupError: no such thing"),
    ("bad_raise", "s", "failed", "SystemExit: no such thing"),
    ("bad_raise", "k", "failed", "KeyboardInterrupt: no such thing"),
    ("bad_raise", "r", "failed", "RecursionError: no such thing"),
    ("bad_return", "lambda", "failed", "TypeError"),
    ("bad_return", "huge", "failed", "ValueError: returned more than 65536 bytes of JSON"),
    ("bad_return", "nan", "failed", "ValueError"),
    ("bad_return", "set", "failed", "TypeError"),
    ("bad_print", 7, "failed", "PermissionError: printed 'hello': a check returns its value"),
    ("bad_fork", "run", "failed", "PermissionError: subprocess.Popen"),
    ("bad_fork", "system", "failed", "PermissionError: os.system"),
    ("bad_fork", "fork", "failed", "PermissionError: os.fork"),
    ("bad_fork", "spawn", "failed", "PermissionError: os.posix_spawn"),
    ("bad_fork", "context", "failed", "PermissionError: os.fork"),
    ("bad_signal", "self", "failed", "PermissionError: os.kill"),
    ("bad_signal", "parent", "failed", "PermissionError: os.kill"),
]


@pytest.mark.parametrize(("name", "value", "counted", "reason"), BAD)
async def test_a_bad_check_fails_alone_and_in_time(pool, name, value, counted, reason):
    """Whatever one check does, it fails within its deadline and a second, saying why; all others get their values, the
    pool is back at full strength, and it was counted.
    """
    numbers = range(40)
    await asyncio.gather(*(pool.submit("is_prime", number, {}) for number in numbers))
    began = time.monotonic()
    before = [pool.submit("is_prime", number, {}) for number in numbers]
    bad = pool.submit(name, value, {})
    after = [pool.submit("is_prime", number, {}) for number in numbers]
    verdict = await bad
    restarts = suspicion.DIED_BEFORE_BLAMED * pool.start_took  # far below GRACE, unless the machine is busy
    assert time.monotonic() - began < DEADLINE + GRACE + restarts
    assert verdict.error.startswith(reason)
    assert verdict.value is None
    assert 0 <= verdict.elapsed < DEADLINE + GRACE + restarts
    for futures in (before, after):
        verdicts = await asyncio.gather(*futures)
        assert [number for number, each in zip(numbers, verdicts, strict=True) if each.value] == [
            2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37,
        ]  # fmt: skip
        assert not any(each.error for each in verdicts)
    await at_full_strength(pool)
    assert {kind: pool.counts[kind] for kind in ("timeouts", "crashes", "failed")} == dict.fromkeys(
        ("timeouts", "crashes", "failed"), 0
    ) | {counted: 1}


async def test_bad_checks_under_load_harm_no_other(two):
    """Hundreds of good checks among all kinds of bad ones, at random: every verdict is the right one."""
    asked = [("is_prime", number, None) for number in range(500)] + [(name, value, why) for name, value, _, why in BAD]
    random.Random(3).shuffle(asked)
    verdicts = await asyncio.gather(*(two.submit(name, value, {}) for name, value, _ in asked))
    for (name, value, reason), verdict in zip(asked, verdicts, strict=True):
        if reason is None:
            assert verdict.value is checks.is_prime(value), (name, value, verdict)
        else:
            assert verdict.error.startswith(reason), (name, value, verdict)
    await at_full_strength(two)


async def test_killed_children_cost_no_check(two):
    """Children are killed with -9 again and again while they work, but never so often at one check that this would be
    blamed: no verdict is lost or wrong.
    """
    futures = [two.submit("bad_burn", number, {}) for number in range(300)]
    killed = set()
    for done in range(20, 300, 20):
        await until(lambda done=done: sum(future.done() for future in futures) >= done, 60)
        for seat_ in two._workers:
            deaths = max((job.deaths for job in seat_.given.values()), default=0)
            if seat_.given and deaths < suspicion.KILLED_BEFORE_BLAMED - 1 and seat_.child.pid not in killed:
                seat_.child.kill()
                killed.add(seat_.child.pid)
                break
    verdicts = await asyncio.gather(*futures)
    assert len(killed) > 5
    assert [verdict.value for verdict in verdicts] == list(range(300))
    await at_full_strength(two)
    assert two.counts["ended"] == len(killed)


async def test_children_killed_before_they_come_to_work_cost_no_check(two):
    """Those that wait behind a check, or for a process to start, wait on however often processes are killed."""
    await asyncio.gather(*(two.submit("bad_burn", number, {"seconds": 0.0}) for number in range(50)))
    for _ in range(10):
        waiting = [two.submit("bad_burn", number, {"seconds": 0.0}) for number in range(20)]
        await asyncio.sleep(0)
        for child in children():
            child.kill()
        assert [verdict.value for verdict in await asyncio.gather(*waiting)] == list(range(20))
    await at_full_strength(two)
    assert two.counts["crashes"] == 0


async def test_a_check_whose_process_is_killed_each_time_is_blamed(two, monkeypatch):
    """What kills from outside may be the check's doing: so often, and no oftener, it is run again."""
    monkeypatch.setattr(suspicion, "KILLED_BEFORE_BLAMED", 3)
    monkeypatch.setattr(module, "LATE", 60.0)  # or a process slow to take it up leaves the check to a second one too
    for each in (module, suspicion):
        monkeypatch.setattr(each, "CHECK_TIMEOUT", 60.0)
    spinning = two.submit("bad_spin", 1, {})
    for _ in range(3):
        [seat_] = await _busy(two)
        os.kill(seat_.child.pid, signal.SIGKILL)
        await until(lambda seat_=seat_: seat_ not in two._workers.slots)
    assert (await spinning).error == "ended its process: killed by SIGKILL"
    assert two.counts["crashes"] == 1


async def _busy(pool):
    """Wait until a process runs something, and return those that do."""
    found = []

    def look():
        found[:] = [each for each in pool._workers if each.given and each.child.running()[0]]
        return bool(found)

    await until(look)
    return found


async def test_what_waits_behind_a_slow_check_is_given_to_others(two, monkeypatch):
    """Quick checks that travelled with one that spins are done while that still spins."""
    monkeypatch.setattr(module, "CHECK_TIMEOUT", 60.0)
    for _ in range(3):  # known to be quick, so that it travels with others
        await asyncio.gather(*(two.submit("bad_burn", n, {"seconds": 0.0}) for n in range(100)))
    asked = [two.submit("bad_burn", n, {"seconds": 60.0 if n == 3 else 0.0}) for n in range(128)]
    quick = [future for n, future in enumerate(asked) if n != 3]
    async with asyncio.timeout(20):
        assert [verdict.value for verdict in await asyncio.gather(*quick)] == [n for n in range(128) if n != 3]
    assert not asked[3].done()
    assert two.counts["repeated"] > 0


async def test_quick_checks_travel_together_and_slow_or_unknown_ones_alone(two, monkeypatch):
    """A thousand known quick checks go out in some tens of batches; checks nobody knows, or slow ones, one by one."""
    expected = {"bad_burn": 1e-5}
    monkeypatch.setattr(two.costs, "expected", lambda name: expected.get(name, UNSEEN))
    for name, value, count, least, most in (
        ("bad_burn", {"seconds": 0.0}, 1_000, 1, 100),
        ("bad_size", {}, 4, 4, 4),
        ("bad_burn", {"seconds": 0.02}, 10, 10, 10),
    ):
        before = two.counts["batches"]
        await asyncio.gather(*(two.submit(name, "x", value) for _ in range(count)))
        assert least <= two.counts["batches"] - before <= most
        expected["bad_burn"] = 0.02


async def test_values_come_back_as_they_were(two):
    """Small numbers take a short cut; they, and all else that JSON has, come back the same, type and all."""
    values = [0, 7, -1, 10**18, 10**19 - 1, 10**19, (1 << 63) - 1, 1 << 63, -(1 << 63), 10**100, True, False, None,
              0.0, 1.0, -1.5e300, "", "7", "ä", "true", [], [1, [None]], {}, {"a": {"b": 1.0}}]  # fmt: skip
    verdicts = await asyncio.gather(*(two.submit("bad_burn", value, {"seconds": 0.0}) for value in values))
    assert [(type(each.value), each.value, each.error) for each in verdicts] == [
        (type(value), value, None) for value in values
    ]


async def test_large_values_do_not_pile_up_in_one_batch(two):
    """What travels together is bounded in bytes as well, and arrives whole."""
    await asyncio.gather(*(two.submit("bad_size", "x", {}) for _ in range(50)))
    before = two.counts["batches"]
    verdicts = await asyncio.gather(*(two.submit("bad_size", "x" * 900_000, {}) for _ in range(20)))
    assert [verdict.value for verdict in verdicts] == [900_000] * 20
    assert two.counts["batches"] - before >= 10


async def test_a_value_that_cannot_travel_fails_alone(two):
    """What a plugin's schema made may be no plain value: its check is told, its neighbours run."""
    bad, good = two.submit("sha256", lambda: None, {}), two.submit("bad_size", "xy", {})
    assert "cannot be pickled" in (await bad).error
    assert (await good).value == 2


async def test_children_are_small_new_interpreters(two):
    """A child has imported models and the plugins, and nothing of the service."""
    began = time.monotonic()
    async with CheckPool(1, [PLUGIN]) as one:
        assert time.monotonic() - began < 5
        modules = set((await one.submit("bad_modules", None, {})).value)
    assert {"models.checks", PLUGIN} <= modules
    assert not modules & {"agents", "streams", "aiohttp", "faust", "asyncio", "pytest"}
    assert (await two.submit("bad_pid", None, {})).value != os.getpid()


async def test_checks_of_requests_out_of_time_are_not_run(pool):
    """A check whose waiter has gone is dropped from the queue."""
    busy = [pool.submit("bad_burn", n, {"seconds": 0.3}) for n in range(3)]
    await asyncio.sleep(0)
    dropped = pool.submit("bad_pid", 7, {})
    dropped.cancel()
    await asyncio.gather(*busy)
    assert (await pool.submit("is_prime", 7, {})).value is True
    assert pool.queued == 0
    assert not pool.costs.seen("bad_pid")


async def test_closing_cancels_what_waits_and_leaves_no_process(monkeypatch):
    """Whoever still waits for a check when the pool closes is told so; busy processes end at once, no zombie stays."""
    monkeypatch.setattr(module, "CHECK_TIMEOUT", 60.0)
    async with asyncio.timeout(30), CheckPool(2, [PLUGIN]) as opened:
        waiting = [opened.submit("bad_spin", 7, {}) for _ in range(3)]
        await _busy(opened)
        pids = [each.child.pid for each in opened._workers]
    for future in waiting:
        with pytest.raises(asyncio.CancelledError):
            await future
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4, 6, 20])
async def test_closing_while_a_process_starts_leaves_none(turns):
    """However far its start has got, it is ended and waited for: no process, no zombie, no open file is left."""
    before = psutil.Process().num_fds()
    async with CheckPool(1, [PLUGIN]) as opened:
        [seat_] = opened._workers.slots
        seat_.child.kill()
        while seat_ in opened._workers.slots:  # each turn of the loop counts here
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
    assert children() == []
    assert psutil.Process().num_fds() <= before


async def test_restarts_leak_nothing(two):
    """After ten processes that ended, as many file descriptors are open as after one."""
    await two.submit("bad_exit", 7, {})
    await at_full_strength(two)
    before = psutil.Process().num_fds()
    for _ in range(10):
        await two.submit("bad_exit", 7, {})
    await at_full_strength(two)
    assert psutil.Process().num_fds() <= before
    assert len(children()) == 2


async def test_a_process_is_recycled(two, monkeypatch):
    """After so many batches, another process takes its place, and no check notices."""
    monkeypatch.setattr(crew, "RECYCLE_AFTER", 5)
    monkeypatch.setattr(crew, "RECYCLE_AGE", 0.0)
    first = {each.child.pid for each in two._workers}
    for number in range(40):
        assert (await two.submit("bad_burn", number, {"seconds": 0.0})).value == number
    await at_full_strength(two)
    assert two.counts["recycled"] > 1
    assert not first & {each.child.pid for each in two._workers}
    assert two.counts["ended"] == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os; os._exit(1)", "its process ended at once"),
        ("import time; time.sleep(600)", "it was not ready within 1 s"),
        ("1 +", "SyntaxError"),
    ],
)
async def test_a_plugin_that_children_cannot_import_stops_the_start(tmp_path, monkeypatch, text, reason):
    """The worker does not start without its checks, and says why."""
    if "not ready" in reason:
        monkeypatch.setattr(crew, "START_TIMEOUT", 1)
    (tmp_path / "bad_plugin_for_pool.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match="the processes that run checks do not start: ") as caught:
        await CheckPool(1, ["bad_plugin_for_pool"]).__aenter__()
    assert reason in str(caught.value)
    await until(lambda: not children())


async def test_when_no_process_starts_any_more_checks_fail_and_come_back(tmp_path, monkeypatch):
    """With no process at all checks end with the reason, health tells it, and all is well once one starts again."""
    for name in ("START_PAUSE", "LONGEST_START_PAUSE", "GIVE_UP_AFTER"):
        monkeypatch.setattr(crew, name, 0.05)
    plugin = tmp_path / "sometimes_bad_plugin.py"
    plugin.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    async with CheckPool(1, ["sometimes_bad_plugin"]) as opened:
        plugin.write_text("raise OSError('the disk is gone')")
        os.kill(opened._workers.slots[0].child.pid, signal.SIGKILL)
        await until(lambda: opened.health() != "ok")
        assert "the disk is gone" in opened.health()
        assert "the disk is gone" in (await opened.submit("is_prime", 7, {})).error
        plugin.write_text("")
        await until(lambda: opened.health() == "ok")
        assert (await opened.submit("is_prime", 7, {})).value is True


async def test_children_die_with_their_parent(tmp_path):
    """A worker that is killed with -9 leaves no child behind, also not one in an endless loop."""
    script = f"""
import asyncio
from streams.pool import CheckPool
import {PLUGIN}

async def main():
    async with CheckPool(2, [{PLUGIN!r}]) as pool:
        waiting = [pool.submit("bad_spin", 1, {{}}) for _ in range(2)]
        while not all(each.given and each.child.running()[0] for each in pool._workers):
            await asyncio.sleep(0.01)
        print(*[each.child.pid for each in pool._workers], flush=True)
        await asyncio.gather(*waiting)

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    pids = [int(pid) for pid in (await parent.stdout.readline()).split()]
    assert len(pids) == 2
    parent.kill()
    await parent.wait()
    await until(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_suspects_leave_a_process_for_the_rest(two, monkeypatch):
    """While checks that spin have a process, and others of the kind wait for it, the rest are answered."""
    assert (await two.submit("bad_spin", 0, {})).error
    monkeypatch.setattr(module, "CHECK_TIMEOUT", 600.0)
    spinning = [two.submit("bad_spin", n, {}) for n in range(3)]
    async with asyncio.timeout(120):
        for number in range(20):
            assert (await two.submit("is_prime", number, {})).error is None
    assert not any(future.done() for future in spinning)


async def test_cheap_built_in_checks_come_to_run_in_the_worker(two, monkeypatch):
    """First in the pool; once measured often enough to be cheaper than handing it over, here; dearer again, there."""
    monkeypatch.setattr(type(two.costs), "hand_over", 1.0)
    for number in range(40):
        assert (await two.submit("range", number, {"low": 20})).value is (number >= 20)
    inline = two.counts["inline"]
    assert 20 <= inline <= 24 + two.counts["repeated"]  # what was given to a second process is measured twice
    monkeypatch.setattr(type(two.costs), "hand_over", 0.0)
    assert (await two.submit("range", 7, {"low": 20})).value is False
    assert two.counts["inline"] == inline


async def test_a_plugins_check_never_runs_in_the_worker_unless_it_says_so(two, monkeypatch):
    """However cheap it is: it may end its process."""
    monkeypatch.setattr(type(two.costs), "hand_over", 1.0)
    pids = [(await two.submit("bad_pid", 1, {})).value for _ in range(40)]
    assert os.getpid() not in pids
    assert two.counts["inline"] == 0
