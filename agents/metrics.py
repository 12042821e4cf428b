"""The metrics of a worker: the catalogue, and where each figure is read. Label values are bounded: none is a URL, a
host or a key, and a source is one of sources.toml.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from urllib.parse import urlsplit

from agents.answering import Answering
from models.latency import BOUNDS
from models.source import Sources
from streams.app import App
from streams.http.limits import Host
from streams.pool.pool import COUNTED as POOL
from streams.telemetry.loop import LoopWatch
from streams.telemetry.metrics import Exporter, Kind, Sample, table
from streams.telemetry.timed import timings
from streams.web.metrics import Requests
from streams.web.probes import Readiness

PARTITION = ("topic", "partition")
BREAKER = ("closed", "half-open", "open")
FRONT = {
    "lower_hits": "looks into the lower tiers that found an entry",
    "lower_misses": "looks into the lower tiers that found none",
    "refused": "entries of a lower tier that were none of ours",
    "unwritten": "writes left out because too many were under way",
}
"""What `Cache.counts` counts."""

CATALOGUE = (
    Kind("millrace_info", "gauge", "Always 1; which worker this is.", ("version", "role")),
    Kind("millrace_ready", "gauge", "Whether this part of the worker is as it must be (1) or not (0).", ("part",)),
    Kind("millrace_answers", "counter", "Requests answered.", ("outcome", "cache")),
    Kind(
        "millrace_stage_seconds", "histogram",
        "Time in a stage: queue (from receipt until a request that the cache does not answer is begun), wait (for host "
        "and worker to have a place), fetch (one request to an upstream), load, checks (those of one document), "
        "publish (a batch, until Kafka has acknowledged it), whole (from receipt to answer, cached or not).",
        ("stage",),
    ),
    Kind("millrace_under_way", "gauge", "Records begun and not finished.", ("group",)),
    Kind("millrace_fetches_in_flight", "gauge", "Requests to upstreams under way."),
    Kind("millrace_fetches_limit", "gauge", "Requests to upstreams that may be under way (MILLRACE_MAX_IN_FLIGHT)."),
    Kind(
        "millrace_upstream_requests", "counter",
        "Requests to upstreams, redirects and retries included, by source (`url`: named by a URL) and how they ended: "
        "class of status, or an outcome.", ("source", "result"),
    ),
    Kind("millrace_hosts", "gauge", "Upstream hosts known, by the state of their breaker.", ("breaker",)),
    Kind("millrace_source_breaker", "gauge", "1 for the state that the breaker of a source's host is in.",
         ("source", "state")),
    Kind("millrace_assigned_partitions", "gauge", "Partitions that the group has given this worker.", ("group",)),
    Kind("millrace_lag", "gauge", "Offsets between the group's commit and the end of the partition.", PARTITION),
    Kind("millrace_committed_offset", "gauge", "The group's commit as this worker made it.", PARTITION),
    Kind("millrace_unfinished", "gauge", "Records taken and not finished.", PARTITION),
    Kind("millrace_oldest_unfinished_seconds", "gauge",
         "Age of the record at the commit point, by its timestamp; 0 if none is unfinished.", PARTITION),
    Kind("millrace_rebalances", "counter", "Assignments that this worker got.", ("group",)),
    Kind("millrace_commits", "counter", "Commits that Kafka took.", ("group",)),
    Kind("millrace_commit_failures", "counter", "Commits that Kafka did not take.", ("group",)),
    Kind("millrace_recalled_records", "counter",
         "Records not answered again because a former owner had finished them.", ("group",)),
    Kind("millrace_untrusted_memos", "counter", "Memos of finished work that were not of this log.", ("group",)),
    Kind("millrace_publish_batches", "counter", "Batches that Kafka acknowledged."),
    Kind("millrace_publish_records", "counter", "Records in them: results and dead letters."),
    Kind("millrace_publish_failures", "counter", "Batches that Kafka did not acknowledge and that were sent again."),
    Kind("millrace_publish_dropped", "counter", "Records that fit into their topic in no form."),
    Kind("millrace_publish_backlog_records", "gauge", "Records that wait for Kafka's acknowledgement."),
    Kind("millrace_publish_backlog_bytes", "gauge", "Bytes of their values."),
    Kind("millrace_publish_failing_seconds", "gauge", "For how long some partition has taken nothing; 0: all do."),
    Kind("millrace_cache_entries", "gauge", "Entries in memory.", ("tier",)),
    Kind("millrace_cache_bytes", "gauge", "Bytes that they take.", ("tier",)),
    Kind("millrace_cache_evictions", "counter", "Entries that had to leave: for others, or in a sweep.", ("tier",)),
    Kind("millrace_cache_events", "counter", "What happened in the tiers behind memory (`front`: before them).",
         ("tier", "event")),
    Kind("millrace_pool_processes", "gauge", "Processes that run checks."),
    Kind("millrace_pool_queued", "gauge", "Checks that wait for a process."),
    Kind("millrace_pool_running", "gauge", "Checks that a process was given."),
    *(Kind(f"millrace_pool_{name}", "counter", f"{what[0].upper()}{what[1:]}.") for name, what in POOL.items()),
    Kind("millrace_event_loop_lag_seconds", "histogram", "By how much the event loop was late, ten times a second."),
    Kind("millrace_event_loop_stalls", "counter", "Times that the event loop did not turn for 2 s."),
    Kind("millrace_function_seconds", "histogram", "Time in functions marked @timed.", ("function", "result")),
    Kind("millrace_web_requests", "counter", "Requests to this server.", ("route", "method", "status")),
)  # fmt: skip
"""Every metric that a worker tells, beside those of the process (`process_…`)."""

PAGE = """# Metrics

`GET /metrics` on a worker's web port, in Prometheus' text format or as OpenMetrics, by `Accept`. Made of the catalogue
in [agents/metrics.py](../agents/metrics.py) by `python -m agents.metrics > docs/metrics.md`; a test compares them.

Label values are bounded: no URL, no host and no key is among them, and a `source` is one of sources.toml (`url`: the
request named a URL; of more than 200, the others share `other`). Histograms have the buckets {bounds} seconds. Of the
process itself there are `process_resident_memory_bytes`, `process_cpu_seconds_total`, `process_open_fds`,
`process_max_fds`, `process_virtual_memory_bytes` and `process_start_time_seconds`.

{table}"""


def page() -> str:
    """Return docs/metrics.md."""
    return PAGE.format(bounds=", ".join(f"{bound:g}" for bound in BOUNDS), table=table(CATALOGUE))


class Figures:
    """Reads a worker's figures; `web` is what its server has counted."""

    def __init__(self, role: str, answering: Answering, loop: LoopWatch, readiness: Readiness) -> None:
        self._role = role
        self._answering = answering
        self._loop = loop
        self.web: Requests = Counter()
        self._readiness = readiness
        self._origins = origins(answering.sources)

    def exporter(self, apps: Iterable[App]) -> Exporter:
        """Return what tells them all."""
        exporter = Exporter(CATALOGUE)
        exporter.reads(self.process, self.answers, self.upstreams, self.publishing, self.cache, self.pool)
        exporter.reads(*(lambda app=app: partitions(app) for app in apps))
        return exporter

    def process(self) -> Iterator[Sample]:
        """Read what belongs to the process."""
        yield Sample("millrace_info", 1, (version("millrace"), self._role))
        for part, state in self._readiness().items():
            yield Sample("millrace_ready", float(state == "ok"), (part,))
        yield Sample("millrace_event_loop_lag_seconds", self._loop.lags)
        yield Sample("millrace_event_loop_stalls", self._loop.stalls)
        for (name, ending), histogram in list(timings.items()):
            yield Sample("millrace_function_seconds", histogram, (name, ending))
        for key, count in self.web.items():
            yield Sample("millrace_web_requests", count, key)

    def answers(self) -> Iterator[Sample]:
        """Read what was answered."""
        answerer = self._answering.answerer
        if answerer is None:
            return
        for key, count in answerer.account.answers.items():
            yield Sample("millrace_answers", count, key)
        yield Sample("millrace_stage_seconds", answerer.account.queued, ("queue",))
        yield Sample("millrace_stage_seconds", answerer.account.whole, ("whole",))
        for stage, histogram in self._answering.enricher.stages.items() if self._answering.enricher else ():
            yield Sample("millrace_stage_seconds", histogram, (stage,))

    def upstreams(self) -> Iterator[Sample]:
        """Read how upstreams did."""
        client = self._answering.client
        if client is None:
            return
        yield Sample("millrace_fetches_in_flight", client.in_flight)
        yield Sample("millrace_fetches_limit", client.max_in_flight)
        for key, count in client.tally.requests.items():
            yield Sample("millrace_upstream_requests", count, key)
        yield Sample("millrace_stage_seconds", client.tally.waits, ("wait",))
        yield Sample("millrace_stage_seconds", client.tally.exchanges, ("fetch",))
        states = dict.fromkeys(BREAKER, 0)
        for host in client.hosts:
            states[host.breaker.state] += 1
        for state, count in states.items():
            yield Sample("millrace_hosts", count, (state,))
        for name, authority in self._origins.items():
            if (known := client.hosts.get(authority)) is not None:
                yield from _breaker(name, known)
        if self._answering.caller is not None:
            for name, called in self._answering.caller.hosts.items():
                yield from _breaker(name, called)

    def publishing(self) -> Iterator[Sample]:
        """Read what was published."""
        publisher = self._answering.publisher
        if publisher is None:
            return
        yield Sample("millrace_stage_seconds", publisher.shipping, ("publish",))
        yield Sample("millrace_publish_batches", publisher.batches)
        yield Sample("millrace_publish_records", publisher.records)
        yield Sample("millrace_publish_failures", publisher.failures)
        yield Sample("millrace_publish_dropped", publisher.dropped)
        yield Sample("millrace_publish_backlog_records", publisher.backlog)
        yield Sample("millrace_publish_backlog_bytes", publisher.backlog_bytes)
        since = publisher.failing_since
        yield Sample("millrace_publish_failing_seconds", 0.0 if since is None else time.monotonic() - since)

    def cache(self) -> Iterator[Sample]:
        """Read the cache's tiers; not their size on disk or in memcached, which would be work."""
        cache = self._answering.cache
        if cache is None:
            return
        yield Sample("millrace_cache_entries", len(cache.memory), ("memory",))
        yield Sample("millrace_cache_bytes", cache.memory.bytes, ("memory",))
        yield Sample("millrace_cache_evictions", cache.memory.evictions, ("memory",))
        for event in FRONT:
            yield Sample("millrace_cache_events", cache.counts[event], ("front", event))
        for tier in cache.lower:
            for event, count in tier.counts.items():
                yield Sample("millrace_cache_events", count, (tier.NAME, event))
            if "pruned" in tier.counts:
                yield Sample("millrace_cache_evictions", tier.counts["pruned"], (tier.NAME,))

    def pool(self) -> Iterator[Sample]:
        """Read how the checks' processes do."""
        pool = self._answering.pool
        if pool is None:
            return
        figures = pool.figures()
        yield Sample("millrace_pool_processes", figures["alive"])
        yield Sample("millrace_pool_queued", figures["queued"])
        yield Sample("millrace_pool_running", figures["running"])
        for name in POOL:
            yield Sample(f"millrace_pool_{name}", figures[name])


def partitions(app: App) -> Iterator[Sample]:
    """Read how far an app's partitions are, and how its group does."""
    if not app.started:
        return
    consumer, group = app.holder, (app.conf.id,)
    leases = [lease for lease in consumer.leases.values() if lease.alive]
    yield Sample("millrace_assigned_partitions", len(leases), group)
    yield Sample("millrace_rebalances", consumer.rebalances, group)
    yield Sample("millrace_commits", consumer.commits, group)
    yield Sample("millrace_commit_failures", consumer.commit_failures, group)
    yield Sample("millrace_recalled_records", consumer.recalled + sum(lease.recalled for lease in leases), group)
    yield Sample("millrace_untrusted_memos", consumer.untrusted_memos + sum(lease.untrusted for lease in leases), group)
    yield Sample("millrace_under_way", sum(lease.under_way for lease in leases), group)
    for lease in leases:
        where = lease.topic, str(lease.partition)
        if lease.lag is not None:
            yield Sample("millrace_lag", lease.lag, where)
        if lease.committed is not None:
            yield Sample("millrace_committed_offset", lease.committed.offset, where)
        yield Sample("millrace_unfinished", lease.unfinished, where)
        oldest = lease.oldest_unfinished
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
        yield Sample("millrace_oldest_unfinished_seconds", age, where)


def origins(sources: Sources) -> dict[str, str]:
    """Return the host (with its port, if it is not the scheme's own) of each source that has a URL."""
    found: dict[str, str] = {}
    for name, source in sources.by_name.items():
        if source.url is not None:
            begin = source.url.parts[0]
            assert isinstance(begin, str)
            found[name] = urlsplit(begin).netloc.lower().removesuffix(":80").removesuffix(":443")
    return found


def _breaker(source: str, host: Host) -> Iterator[Sample]:
    for state in BREAKER:
        yield Sample("millrace_source_breaker", float(host.breaker.state == state), (source, state))


if __name__ == "__main__":
    sys.stdout.write(page())
