"""The watchdog on real workers: what is a fault of ours ends one, what is the broker's does not."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import pytest

from agents.testing.broker import Apache, Broker
from tests.integration.stage import PATIENCE, Stage, Upstream, Worker, asked

FAULTY = "-m", "tests.integration.faulty"


async def until_unready(worker: Worker, part: str) -> None:
    """Wait until /readyz says that a part is not as it must be."""
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
        while True:
            async with session.get(worker.url + "/readyz?verbose") as response:
                text = await response.text()
            if response.status == 503 and any(line.startswith(part + ":") and not line.endswith("ok")
                                              for line in text.splitlines()):  # fmt: skip
                return
            await asyncio.sleep(0.1)


async def test_a_worker_whose_commits_hang_ends_and_another_goes_on(kafka: Broker, stage: Stage) -> None:
    """The broker is there and requests are answered, but the consumer's commits never return: readiness says so, then
    the worker ends with 1 and a critical line, and the next one has nothing lost and commits.
    """
    async with Upstream() as upstream:
        broken = await stage.start(*FAULTY, "commits-hang")
        await stage.send(asked(f"{upstream.url}/doc/{number}", number) for number in range(40))
        await stage.results_of({f"r{number}" for number in range(40)})
        await until_unready(broken, "committing")
        assert await broken.ended() == 1
        critical = await broken.logged("CRITICAL.*no progress")
        assert "nothing could be committed for" in critical.string
        assert "the broker answers" in critical.string
        assert await stage.commits() == {}
        await stage.start()
        await stage.send([asked(f"{upstream.url}/doc/1", 100)])
        await stage.results_of({f"r{number}" for number in range(40)} | {"r100"})
        async with asyncio.timeout(PATIENCE):
            while sum(offset for offset, _ in (await stage.commits()).values()) < 41:
                await asyncio.sleep(0.1)


async def test_a_request_that_never_ends_ends_the_worker(kafka: Broker, stage: Stage) -> None:
    """One request's answer is forgotten by a fault of ours, later ones are answered: the worker sees that and ends."""
    async with Upstream() as upstream:
        broken = await stage.start(*FAULTY, "forgets")
        await stage.send([asked(f"{upstream.url}/doc/1?forgotten", 0)], key=lambda _: b"k")
        await stage.send((asked(f"{upstream.url}/doc/2", number) for number in range(1, 20)), key=lambda _: b"k")
        await stage.results_of({f"r{number}" for number in range(1, 20)})
        assert await broken.ended() == 1
        critical = await broken.logged("CRITICAL.*no progress")
        assert "offset 0 unfinished" in critical.string


async def test_a_crash_is_told_of_once(kafka: Broker, stage: Stage) -> None:
    """A fault of ours ends the worker with 1, and its log has the reason, not what breaks because of that."""
    broken = await stage.start(*FAULTY, "crashes")
    await stage.send([asked("http://127.0.0.1/", 0)])
    assert await broken.ended() == 1
    await broken.logged("ERROR.*crashed: LookupError")
    for noise in ("Event loop is closed", "<Lease", "overlapping", "never retrieved"):
        assert not any(noise in line for line in broken.log), noise


async def test_a_stalled_event_loop_is_told_of_and_ended(kafka: Broker, stage: Stage) -> None:
    """A handler that never returns to the loop: the log has its stack, and the process ends with 1."""
    broken = await stage.start(*FAULTY, "stalls")
    await stage.send([asked("http://127.0.0.1/", 0)])
    assert await broken.ended() == 1
    await broken.logged("CRITICAL.*the event loop has been blocked")
    await broken.logged("in hang")  # the stack


async def test_a_broker_that_stands_still_ends_no_worker(kafka: Broker) -> None:
    """A broker that is stopped for longer than the deadline (SIGSTOP) is waited for; once it goes on, all is answered
    and committed by the same process.
    """
    if kafka.apache is None:
        pytest.skip("needs a broker of the test's own")
    with Apache() as apache:
        async with Stage(apache.servers) as stage, Upstream() as upstream:
            await stage.create_topics()
            worker = await stage.start(*FAULTY, "none")
            await stage.send(asked(f"{upstream.url}/doc/{number}", number) for number in range(20))
            await stage.results_of({f"r{number}" for number in range(20)})
            await stage.send(asked(f"{upstream.url}/doc/{number}?delay=2", number) for number in range(20, 30))
            apache._process.send_signal(signal.SIGSTOP)
            try:
                await worker.logged("does not answer over a new connection either")
            finally:
                apache._process.send_signal(signal.SIGCONT)
            await stage.results_of({f"r{number}" for number in range(30)})
            async with asyncio.timeout(PATIENCE):
                while sum(offset for offset, _ in (await stage.commits()).values()) < 30:
                    await asyncio.sleep(0.1)
            assert worker.process.returncode is None
            assert not any("CRITICAL" in line for line in worker.log)


async def test_a_background_task_that_fails_ends_the_worker(kafka: Broker, stage: Stage) -> None:
    """One line says what has ended and what that means; the worker stops in order, with 1."""
    broken = await stage.start(*FAULTY, "unwatched", ready=False)
    assert await broken.ended() == 1
    critical = await broken.logged("CRITICAL.*the watchdog has ended")
    assert "LookupError: gone; without it a stuck worker is not noticed; the worker ends" in critical.string
    assert any(line.startswith("millrace: the watchdog has ended: LookupError: gone") for line in broken.log)
    assert any("INFO" in line and line.endswith("stopping") for line in broken.log)
