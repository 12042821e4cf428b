"""Where each figure of the catalogue of metrics is read: from what the parts of a worker count anyway."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version

from agents.answer.app import AnswerApp
from agents.answer.line import SOURCE
from agents.cluster.worker_status import partition
from agents.later.app import LaterApp
from agents.metrics import BREAKER, CATALOGUE, FRONT
from agents.routes.app import RouteApp
from agents.tables.app import TablesApp
from models.source import Sources
from streams.app import App
from streams.http.limits import Host
from streams.http.url import origin_of
from streams.kafka.fetched import unreadable
from streams.kafka.lease import Lease
from streams.kafka.publisher import Publisher
from streams.pool.pool import COUNTED as POOL
from streams.telemetry.loop import LoopWatch
from streams.telemetry.metrics import Exporter, Sample
from streams.telemetry.timed import timings
from streams.tls import in_use
from streams.web.probes import Readiness, Requests

OF_PARTITION = {
    "lag": "millrace_lag",
    "committed": "millrace_committed_offset",
    "unfinished": "millrace_unfinished",
    "oldest_unfinished_s": "millrace_oldest_unfinished_seconds",
}
"""Metrics by their names in a partition's snapshot, which is also in the heartbeat and the API."""


class ProcessStats:
    """Reads what belongs to the process; `web` is what its server has counted."""

    def __init__(self, role: str, loop: LoopWatch, readiness: Readiness) -> None:
        self._labels = (version("millrace-kafka"), role)  # read once: a scrape has to work without a file to open
        self._loop = loop
        self._readiness = readiness
        self.web: Requests = Counter()

    def __call__(self) -> Iterator[Sample]:
        """Read."""
        yield Sample("millrace_info", 1, self._labels)
        for part, state in self._readiness().items():
            yield Sample("millrace_ready", float(state == "ok"), (part,))
        for file, at in in_use().items():
            yield Sample("millrace_certificate_expiry_timestamp_seconds", at, (file,))
        yield Sample("millrace_event_loop_lag_seconds", self._loop.lags)
        yield Sample("millrace_event_loop_tasks", self._loop.tasks)
        yield Sample("millrace_event_loop_stalls", self._loop.stalls)
        for (name, ending), histogram in list(timings.items()):
            yield Sample("millrace_function_seconds", histogram, (name, ending))
        for key, count in self.web.items():
            yield Sample("millrace_web_requests", count, key)


def exporter_of(
    process: ProcessStats, answering: AnswerApp | None, tabulating: TablesApp | None, routing: Sequence[RouteApp] = (),
    later: LaterApp | None = None,
) -> Exporter:  # fmt: skip
    """Return an exporter of all metrics of a worker with these parts."""
    exporter = Exporter(CATALOGUE)
    exporter.reads(process)
    if answering is not None:
        hosts = origins(answering.sources)
        exporter.reads(partial(answers, answering), partial(upstreams, answering, hosts), partial(cache, answering))
        exporter.reads(partial(pool, answering))
    if tabulating is not None:
        exporter.reads(partial(tables, tabulating))
    exporter.reads(reading)
    for route in routing:
        exporter.reads(partial(routed, route))
    for part in (answering, tabulating, *routing):
        if part is not None:
            exporter.reads(partial(consuming, part.app), partial(publishing, part))
    if later is not None:
        exporter.reads(partial(tried_later, later), partial(consuming, later.app))
    exporter.reads(partial(partitions, [part.app for part in (answering, tabulating, *routing) if part is not None]))
    return exporter


def answers(answering: AnswerApp) -> Iterator[Sample]:
    """Read what was answered, and how long the stages took."""
    if answering.resources is None:
        return
    answerer, enricher = answering.resources.answerer, answering.resources.enricher
    for key, count in answerer.stats.answers.items():
        yield Sample("millrace_answers", count, key)
    yield Sample("millrace_requests_waiting", answerer.places.figures()["waiting"])
    stages = {"queue": answerer.stats.queued, **enricher.stages, "publish": answering.resources.publisher.shipping,
              "whole": answerer.stats.whole}  # fmt: skip
    for stage, histogram in stages.items():
        yield Sample("millrace_stage_seconds", histogram, (stage,))


def routed(part: RouteApp) -> Iterator[Sample]:
    """Read what came of a route's records, and what they wait for."""
    runner, name = part.runner, part.route.name
    if runner is not None:
        for outcome, count in runner.outcomes.items():
            yield Sample("millrace_route_records", count, (name, outcome))
        yield Sample("millrace_route_in_progress", runner.in_progress, (name,))
        yield Sample("millrace_route_waiting", sum(runner.waiting.values()), (name,))
        yield Sample("millrace_route_seconds", runner.whole, (name,))


def tried_later(part: LaterApp) -> Iterator[Sample]:
    """Read what waits in delay topics, in place of their lag: that they have some is no fault."""
    for each in part.status():
        for name in ("waiting", "overdue_s", "deferred", "taken_up"):
            metric = name.replace("_s", "_seconds") if name.endswith("_s") else name
            yield Sample(f"millrace_retry_later_{metric}", each[name], (each["topic"],))
    yield Sample("millrace_retry_later_exhausted", part.exhausted())


def reading() -> Iterator[Sample]:
    """Read how many records could not be."""
    for topic, count in list(unreadable.items()):  # other threads count, too
        yield Sample("millrace_unreadable_records", count, (topic,))


def upstreams(answering: AnswerApp, hosts: dict[str, str]) -> Iterator[Sample]:
    """Read how upstreams did; `hosts` is each source's."""
    if answering.resources is None:
        return
    client, caller = answering.resources.client, answering.resources.caller
    yield Sample("millrace_fetches_in_flight", client.in_flight)
    yield Sample("millrace_fetches_limit", client.max_in_flight)
    for key, count in client.stats.requests.items():
        yield Sample("millrace_upstream_requests", count, key)
    for source, calls in answering.resources.bulk.calls.items():
        yield Sample("millrace_bulk_calls", calls, (source,))
        yield Sample("millrace_bulk_keys", answering.resources.bulk.keys[source], (source,))
    yield Sample("millrace_stage_seconds", client.stats.waits, ("wait",))
    yield Sample("millrace_stage_seconds", client.stats.exchanges, ("fetch",))
    states = Counter(host.breaker.state for host in client.hosts)
    for state in BREAKER:
        yield Sample("millrace_hosts", states[state], (state,))
    found = {
        name: client.hosts.get(authority, name) or client.hosts.get(authority) for name, authority in hosts.items()
    }
    for name, host in {**found, **caller.hosts}.items():
        if host is not None:
            yield from _of_source(name, host)
    for name, bulkhead in answering.resources.shared.items():
        if name.startswith(SOURCE) and bulkhead.bucket is not None:
            yield Sample("millrace_shared_rate", bulkhead.bucket.rate, (name.removeprefix(SOURCE),))


def _of_source(source: str, host: Host) -> Iterator[Sample]:
    yield Sample("millrace_source_in_flight", host.in_flight, (source,))
    yield Sample("millrace_source_waiting", host.users - host.in_flight, (source,))
    for state in BREAKER:
        yield Sample("millrace_source_breaker", float(host.breaker.state == state), (source, state))


def cache(answering: AnswerApp) -> Iterator[Sample]:
    """Read the cache's tiers; not their size on disk or in memcached, which would be work."""
    if answering.resources is None:
        return
    cache = answering.resources.cache
    for name, figure in cache.memory.stats().items():
        if name != "tier":
            yield Sample(f"millrace_cache_{name}", float(figure), ("memory",))
    for event in FRONT:
        yield Sample("millrace_cache_events", cache.counts[event], ("front", event))
    for tier in cache.lower:
        for event, count in tier.counts.items():
            yield Sample("millrace_cache_events", count, (tier.NAME, event))
        if "pruned" in tier.counts:
            yield Sample("millrace_cache_evictions", tier.counts["pruned"], (tier.NAME,))


def pool(answering: AnswerApp) -> Iterator[Sample]:
    """Read how the checks' processes do."""
    if answering.resources is None:
        return
    figures = answering.resources.pool.stats()
    for name, figure in {"processes": "alive", "queued": "queued", "running": "running"}.items():
        yield Sample(f"millrace_pool_{name}", figures[figure])
    for name in POOL:
        yield Sample(f"millrace_pool_{name}", figures[name])


def tables(tabulating: TablesApp) -> Iterator[Sample]:
    """Read how large the tables are here."""
    for name in tabulating.state.topics:
        yield Sample("millrace_table_rows", tabulating.state.count(name), (name,))


def publishing(part: AnswerApp | TablesApp | RouteApp) -> Iterator[Sample]:
    """Read what was published."""
    opened = part if isinstance(part, RouteApp) else part.resources
    if opened is not None and (publisher := opened.publisher) is not None:
        for name, figure in _published(publisher).items():
            yield Sample(f"millrace_publish_{name}", figure, (part.app.conf.id,))
        for ended, count in publisher.transactions.items():
            yield Sample("millrace_transactions", count, (part.app.conf.id, ended))


def _published(publisher: Publisher) -> dict[str, float]:
    since = publisher.failing_since
    return {
        "batches": publisher.batches,
        "records": publisher.records,
        "failures": publisher.failures,
        "dropped": publisher.dropped,
        "backlog_records": publisher.backlog,
        "backlog_bytes": publisher.backlog_bytes,
        "failing_seconds": 0.0 if since is None else time.monotonic() - since,
    }


def consuming(app: App) -> Iterator[Sample]:
    """Read how an app's group does."""
    if not app.started:
        return
    consumer, group = app.holder, (app.conf.id,)
    leases = [lease for lease in consumer.leases.values() if lease.alive]
    figures = {
        "assigned_partitions": len(leases),
        "in_progress": sum(lease.in_progress for lease in leases),
        "waiting_for_key": sum(lease.held for lease in leases),
        "rebalances": consumer.rebalances,
        "commits": consumer.commits,
        "commit_failures": consumer.commit_failures,
        "skipped_offsets": consumer.watch.skipped,
        "skipped_completed_records": consumer.leases.recalled + sum(lease.skipped_completed for lease in leases),
        "untrusted_memos": consumer.leases.untrusted + sum(lease.invalid_metadata for lease in leases),
    }
    for name, figure in figures.items():
        yield Sample(f"millrace_{name}", figure, group)


def partitions(apps: Sequence[App]) -> Iterator[Sample]:
    """Read how far each partition is; where two groups read one, as two routes may, how far the slower one is."""
    slowest: dict[tuple[str, int], Lease] = {}
    for app in apps:
        for lease in app.holder.leases.values() if app.started else ():
            other = slowest.get((lease.topic, lease.partition))
            if lease.alive and (other is None or (lease.lag or 0) > (other.lag or 0)):
                slowest[lease.topic, lease.partition] = lease
    for (topic, number), lease in slowest.items():
        snapshot = partition(lease)
        if lease.oldest_unfinished is None:
            snapshot["oldest_unfinished_s"] = 0.0  # an age that is not known has no sample
        for name, metric in OF_PARTITION.items():
            if snapshot[name] is not None:
                yield Sample(metric, snapshot[name], (topic, str(number)))


def origins(sources: Sources) -> dict[str, str]:
    """Return the host (with its port, if it is not the scheme's own) of each source that has a URL."""
    found: dict[str, str] = {}
    for name, source in sources.by_name.items():
        if source.url is not None:
            begin = source.url.parts[0]
            assert isinstance(begin, str)
            found[name] = origin_of(begin).authority
    return found
