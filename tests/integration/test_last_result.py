"""A dead letter's last result, as a worker on a real broker shows it: by its tables, from the topic, or why not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from agents.testing.broker import Broker
from tests.integration.stage import PATIENCE, Stage, Upstream, Worker, asked

pytestmark = pytest.mark.kafka
TOKEN = "t"


async def post(worker: Worker, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = worker.url + path
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        found: dict[str, Any] = await response.json(content_type=None)
        return found


async def shown(worker: Worker, letter: dict[str, Any], *, latest: bool) -> dict[str, Any]:
    """Return the result that comes with a letter, once it is the latest by the tables, or no longer is."""
    async with asyncio.timeout(PATIENCE):
        while True:
            whole = await post(worker, "/api/letter", {name: letter[name] for name in ("partition", "offset")})
            if whole.get("last_result", {}).get("latest") is latest:
                last: dict[str, Any] = whole["last_result"]
                return {**last, "value": json.loads(last["value"])}
            await asyncio.sleep(0.05)


async def letters(worker: Worker) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(worker.url + "/api/errors") as response:
        found: list[dict[str, Any]] = (await response.json())["errors"]
        return found


async def test_a_letter_shows_what_became_of_its_request(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """Its latest result; when its key has a later request's, the one that was published with it; then that Kafka has
    deleted that.
    """
    worker = await stage.start(MILLRACE_ROLE="all", MILLRACE_WEB_TOKEN=TOKEN)
    await stage.send([asked(f"{upstream.url}/doc/1?status=404", 1)], key=lambda _: b"k")
    [failed] = await stage.results_of({"r1"})
    [letter] = await letters(worker)
    last = await shown(worker, letter, latest=True)
    assert (last["partition"], last["value"]) == (failed.partition, failed.result)

    await stage.send([asked(f"{upstream.url}/doc/2", 2)], key=lambda _: b"k")
    await stage.results_of({"r2"})
    published = await shown(worker, letter, latest=False)
    assert published == last | {"latest": False}

    admin = AIOKafkaAdminClient(bootstrap_servers=stage.servers)
    await admin.start()
    place = TopicPartition(stage.results, last["partition"])
    await admin.delete_records({place: RecordsToDelete(before_offset=last["offset"] + 1)})
    await admin.close()
    whole = await post(worker, "/api/letter", {name: letter[name] for name in ("partition", "offset")})
    assert "last_result" not in whole
    assert "Kafka has deleted what was before" in whole["no_result"]


async def test_a_worker_without_tables_finds_the_result_in_the_topic(
    kafka: Broker, stage: Stage, upstream: Upstream
) -> None:
    """Among those of others in its partition."""
    worker = await stage.start(MILLRACE_WEB_TOKEN=TOKEN)
    await stage.send([asked(f"{upstream.url}/doc/{n}?status=404", n) for n in range(40)], key=lambda _: b"k")
    seen = {each.result["id"]: each.result for each in await stage.results_of({f"r{n}" for n in range(40)})}
    for letter in (await letters(worker))[::10]:
        last = await shown(worker, letter, latest=False)
        assert last["value"] == seen[letter["id"]]
