"""Metrics of a real worker, as Prometheus reads them: against what was sent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from agents import metrics
from agents.testing.broker import Broker
from models.errors import OUTCOMES
from models.histogram import BOUNDS
from models.result import CACHE_STATES
from tests.integration.stage import PATIENCE, Stage, Upstream, Worker, asked

OPEN = "application/openmetrics-text; version=1.0.0"


class Scrape(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Samples by name and labels."""

    def __init__(self, text: str, *, open_metrics: bool = False) -> None:
        self.text = text
        families = list((parse_open if open_metrics else parse)(text))
        self.families = {family.name for family in families}
        super().__init__({(sample.name, frozenset(sample.labels.items())): sample.value
                          for family in families for sample in family.samples})  # fmt: skip

    def of(self, name: str, **labels: str) -> float:
        """Return the sum over all series that have these labels."""
        return sum(value for (each, found), value in self.items() if each == name and labels.items() <= found)

    def values(self, label: str) -> set[str]:
        """Return every value that a label has anywhere."""
        return {value for _, labels in self for name, value in labels if name == label}


async def scrape(worker: Worker, accept: str = "") -> Scrape:
    """Read a worker's metrics."""
    url, headers = worker.url + "/metrics", {"Accept": accept}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        assert response.status == 200
        return Scrape(await response.text(), open_metrics="openmetrics" in response.headers["Content-Type"])


async def until_committed(worker: Worker) -> Scrape:
    """Scrape until everything is committed: with that, all has been counted."""
    async with asyncio.timeout(PATIENCE):
        while (found := await scrape(worker)).of("millrace_committed_offset") < 2 * 26 or found.of("millrace_lag"):
            await asyncio.sleep(0.1)
    return found


def assert_at_rest(found: Scrape, partitions: int) -> None:
    """All is answered and committed, and nothing is wrong."""
    assert found.of("millrace_assigned_partitions") == 2 * partitions
    assert found.of("millrace_oldest_unfinished_seconds") == found.of("millrace_unfinished") == 0
    assert found.of("millrace_commits_total") >= 1
    assert found.of("millrace_rebalances_total") >= 1
    assert found.of("millrace_cache_entries", tier="memory") >= 3
    assert found.of("millrace_hosts", breaker="closed") == 1
    assert found.of("millrace_source_breaker", source="docs", state="closed") == 1
    assert found.of("millrace_pool_processes") == 1
    assert found.of("millrace_ready") == len(found.values("part"))
    assert found.of("millrace_event_loop_lag_seconds_count") > 5
    assert 5 < found.of("millrace_event_loop_tasks") < 500
    assert found.of("process_resident_memory_bytes") > 10 << 20


def assert_whole_and_bounded(found: Scrape) -> None:
    """Every name of the catalogue is there with its help, and no label holds what there is no end of."""
    assert {kind.name for kind in metrics.CATALOGUE} | {f"process_{name}" for name in (
        "cpu_seconds", "max_fds", "open_fds", "resident_memory_bytes", "start_time_seconds", "virtual_memory_bytes",
    )} == found.families  # fmt: skip
    for kind in metrics.CATALOGUE:
        assert f"# HELP {kind.exposed_name} {kind.help}" in found.text
    assert found.values("outcome") <= set(OUTCOMES)
    assert found.values("cache") <= {*CACHE_STATES, "none"}
    assert found.values("source") == {"docs", "url"}
    samples = "".join(line for line in found.text.splitlines(keepends=True) if not line.startswith("#"))
    for never in ("127.0.0.1", "10.0.0.1", "http", "secret-path", "key-", "nowhere"):
        assert never not in samples


async def test_metrics_are_true(stage: Stage, upstream: Upstream, tmp_path: Path) -> None:
    """What was sent is what is counted: answers by outcome and cache state, upstream requests by source and status,
    batches, commits, lag, cache and pool; every name of the catalogue is there, and no label holds a URL, host or key.
    """
    sources = tmp_path / "sources.toml"
    sources.write_text(f'[sources.docs]\nurl = "{upstream.url}/doc/{{n}}"\n')
    worker = await stage.start(MILLRACE_SOURCES=str(sources), MILLRACE_ROLE="all")
    url = f"{upstream.url}/doc/7?secret-path"
    checks = [{"name": "sha256", "field": "pad"}]
    first = [
        {"id": "a", "url": url},
        {"id": "b", "source": "docs", "params": {"n": "3"}},
        {"id": "c", "url": f"{upstream.url}/nowhere"},
        {"id": "d", "url": "http://10.0.0.1/"},
        {"id": "e", "url": f"{upstream.url}/doc/8?size=5", "checks": checks},
    ]
    await stage.send(
        [json.dumps(each).encode() for each in first] + [b"no json"], key=lambda number: b"key-%d" % number
    )
    await stage.until_results(6)
    await stage.send([json.dumps({"id": f"h{number}", "url": url}).encode() for number in range(20)])
    await stage.until_results(26)
    found = await until_committed(worker)

    assert found.of("millrace_answers_total") == 26
    assert found.of("millrace_answers_total", outcome="ok", cache="hit") == 20
    assert found.of("millrace_answers_total", outcome="ok", cache="miss") == 3
    for outcome, cache in (("upstream_error", "miss"), ("denied", "miss"), ("invalid_request", "none")):
        assert found.of("millrace_answers_total", outcome=outcome, cache=cache) == 1
    assert found.of("millrace_upstream_requests_total", source="docs", result="2xx") == 1
    assert found.of("millrace_upstream_requests_total", source="url", result="2xx") == 2
    assert found.of("millrace_upstream_requests_total", source="url", result="4xx") == 1
    assert found.of("millrace_stage_seconds_count", stage="whole") == 26
    assert found.of("millrace_stage_seconds_bucket", stage="whole", le="+Inf") == 26
    assert found.of("millrace_stage_seconds_count", stage="checks") == 1
    assert 0 < found.of("millrace_stage_seconds_sum", stage="whole") < 26 * BOUNDS[-1]
    group = stage.group
    assert found.of("millrace_publish_records_total", group=group) == 26 + 3  # and three dead letters
    batches = found.of("millrace_publish_batches_total", group=group)
    assert 1 <= batches == found.of("millrace_stage_seconds_count", stage="publish")
    assert found.of("millrace_committed_offset", topic=stage.requests) == 26
    assert found.of("millrace_committed_offset", topic=stage.results) == 26
    assert found.of("millrace_table_rows", table="answers") == 26
    assert_at_rest(found, stage.partitions)
    assert_whole_and_bounded(found)
    again = await scrape(worker, OPEN)
    assert again.of("millrace_answers_total") == 26
    assert again.text.endswith("# EOF\n")
    assert again.of("millrace_web_requests_total", route="/metrics", method="GET", status="2xx") >= 1
    async with aiohttp.ClientSession() as session, session.get(worker.url + "/no/such/page"):
        pass
    assert (await scrape(worker)).of("millrace_web_requests_total", route="unknown", status="4xx") == 1


async def test_a_worker_of_one_role_tells_what_it_has(kafka: Broker, stage: Stage) -> None:
    """A worker that keeps tables alone names all metrics and has samples of its own part only."""
    worker = await stage.start(MILLRACE_ROLE="tables")
    found = await scrape(worker)
    assert {kind.name for kind in metrics.CATALOGUE} <= found.families
    assert found.values("group") == {f"{stage.group}-tables"}
    assert found.values("part") == {"tables"}
    assert found.values("table") >= {"answers", "hosts", "outcomes", "checks"}
    assert found.of("millrace_info", role="tables") == 1
    assert not found.values("stage")


async def test_lag_is_true_also_when_nothing_more_is_taken(kafka: Broker, stage: Stage, upstream: Upstream) -> None:
    """A partition that is full is not polled, but its lag is told all the same: that is when it matters."""
    worker = await stage.start("-m", "tests.integration.faulty", "full")
    await stage.send((asked(f"{upstream.url}/doc/1?delay=60", n) for n in range(20)), key=lambda _: b"k")
    async with asyncio.timeout(PATIENCE):
        while (await scrape(worker)).of("millrace_unfinished") < 10:
            await asyncio.sleep(0.1)
    await stage.send((asked(f"{upstream.url}/doc/1?delay=60", n) for n in range(20, 120)), key=lambda _: b"k")
    async with asyncio.timeout(PATIENCE):
        while (found := await scrape(worker)).of("millrace_lag") < 120:
            await asyncio.sleep(0.1)
    assert found.of("millrace_lag") == 120
    assert found.of("millrace_unfinished") <= 20
    assert found.of("millrace_oldest_unfinished_seconds") > 0
    worker.kill()
    await worker.ended()
