"""An upgrade without loss: workers replaced one after the other while requests flow."""

from __future__ import annotations

import asyncio

import pytest

from agents.testing.broker import Broker
from tests.integration.stage import Stage, Upstream, asked, repeats

pytestmark = pytest.mark.kafka
PAUSE = 0.01
"""Seconds between two requests: some 100 a second, all through."""


async def test_a_rolling_restart_loses_and_repeats_nothing(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """Two workers, each told to stop and replaced in turn under load: 0 lost, 0 repeated, each one ends with 0."""
    sent, over = 0, asyncio.Event()

    async def flow() -> None:
        nonlocal sent
        while not over.is_set():
            await stage.send([asked(f"{upstream.url}/doc/{sent}?delay={sent % 40 / 1000}", sent)], key=_key(sent))
            sent += 1
            await asyncio.sleep(PAUSE)

    running = [await stage.start(), await stage.start()]
    sending = asyncio.create_task(flow())
    for worker in running:
        answered = await stage.count(stage.results)
        await stage.until_results(answered + 50)
        worker.terminate()
        assert await worker.ended() == 0
        await stage.start()
    await stage.until_results(await stage.count(stage.results) + 50)
    over.set()
    await sending
    seen = await stage.results_of({f"r{number}" for number in range(sent)})
    print(f"\nrolling restart: {sent} requests, 0 lost, {repeats(seen)} repeats")
    assert repeats(seen) == 0


def _key(number: int):
    return lambda _: b"%d" % number
