"""The catalogue of a worker's metrics, and the page of documentation made of it. Label values are bounded: none is a
URL, a host or a key, and a source is one of sources.toml.
"""

from __future__ import annotations

import sys

from agents.entry import EntryPoint
from models.histogram import BOUNDS
from streams.pool.pool import COUNTED as POOL
from streams.telemetry.metrics import Kind, table

GROUP = ("group",)
PARTITION = ("topic", "partition")
BREAKER = ("closed", "half-open", "open")
FRONT = {
    "lower_hits": "lookups in the lower tiers that found an entry",
    "lower_misses": "lookups in the lower tiers that found none",
    "refused": "invalid entries of a lower tier",
    "outdated": "entries of lower tiers from before a change of their target; they are removed",
    "unwritten": "writes skipped because too many were in progress",
}
"""What `Cache.counts` counts."""

CATALOGUE = (
    Kind("millrace_info", "gauge", "Always 1; which worker this is.", ("version", "role")),
    Kind("millrace_ready", "gauge", "Whether this part of the worker is ready (1) or not (0).", ("part",)),
    Kind("millrace_certificate_expiry_timestamp_seconds", "gauge",
         "When (epoch seconds) the certificates of a file expire: of own ones the first, of authorities the last.",
         ("file",)),
    Kind("millrace_answers", "counter", "Requests answered.", ("outcome", "cache")),
    Kind(
        "millrace_stage_seconds", "histogram",
        "Time in a stage: queue (from receipt until a request that misses the cache begins), wait (for the limits of "
        "host and worker), fetch (one request to an upstream), load, checks (those of one document), "
        "publish (a batch, until Kafka has acknowledged it), whole (from receipt to answer, cached or not).",
        ("stage",),
    ),
    Kind("millrace_in_progress", "gauge", "Records begun and not finished.", GROUP),
    Kind("millrace_requests_waiting", "gauge", "Requests taken that wait in the queue of their host."),
    Kind("millrace_fetches_in_flight", "gauge", "Requests to upstreams in flight."),
    Kind("millrace_fetches_limit", "gauge", "Requests to upstreams that may be in flight (MILLRACE_MAX_IN_FLIGHT)."),
    Kind(
        "millrace_upstream_requests", "counter",
        "Requests to upstreams, redirects and retries included, by source (`url`: without a source) and result: "
        "class of status, or an outcome.", ("source", "result"),
    ),
    Kind("millrace_bulk_calls", "counter",
         "Calls of a source with a `batch`, without retries; those of halves, too.", ("source",)),
    Kind("millrace_bulk_keys", "counter", "Keys in these calls: divided by them, keys a call.", ("source",)),
    Kind("millrace_hosts", "gauge", "Upstream hosts in use, by the state of their breaker.", ("breaker",)),
    Kind("millrace_source_breaker", "gauge", "1 for the current state of the breaker of a source's host.",
         ("source", "state")),
    Kind("millrace_source_in_flight", "gauge",
         "Requests in flight to a source's host; to the source alone, if it has `limits.per = \"source\"`.",
         ("source",)),
    Kind("millrace_source_waiting", "gauge", "Requests that wait for the limits of a source's host; likewise.",
         ("source",)),
    Kind("millrace_shared_rate", "gauge",
         "Requests a second that this worker may send now to a source whose rate is shared with other workers.",
         ("source",)),
    Kind("millrace_route_records", "counter",
         "Records of a route, by outcome; `passed` and `dropped` are those for which nothing was looked up.",
         ("route", "outcome")),
    Kind("millrace_route_in_progress", "gauge", "Records of a route in progress.", ("route",)),
    Kind("millrace_route_waiting", "gauge",
         "Lookups of a route that wait for their turn at a slow, limited or resting source.", ("route",)),
    Kind("millrace_route_seconds", "histogram", "Time from a record's receipt to its output.", ("route",)),
    Kind("millrace_retry_later_waiting", "gauge",
         "Records that wait in a delay topic, in the partitions of this worker; their lag is not in `millrace_lag`.",
         ("topic",)),
    Kind("millrace_retry_later_overdue_seconds", "gauge",
         "Seconds since the first record of a delay topic was due and could have been taken up; 0: none is.",
         ("topic",)),
    Kind("millrace_retry_later_deferred", "counter", "Records that failed and went to a delay topic.", ("topic",)),
    Kind("millrace_retry_later_taken_up", "counter", "Records of a delay topic that were tried again.", ("topic",)),
    Kind("millrace_retry_later_exhausted", "counter", "Records that failed at their last try: dead letters."),
    Kind("millrace_assigned_partitions", "gauge", "Partitions that the group has given this worker.", GROUP),
    Kind("millrace_waiting_for_key", "gauge",
         "Records that wait for an earlier one of their key (`MILLRACE_ORDER`, `order` of a route).", GROUP),
    Kind("millrace_lag", "gauge",
         "Offsets between the group's commit and the end of the partition; of the slower route if two read it.",
         PARTITION),
    Kind("millrace_committed_offset", "gauge", "The commit that this worker made last.", PARTITION),
    Kind("millrace_unfinished", "gauge", "Records taken and not finished.", PARTITION),
    Kind("millrace_oldest_unfinished_seconds", "gauge",
         "Age of the record at the commit point, by its timestamp; 0 if none is unfinished, missing if the "
         "timestamp is not credible.", PARTITION),
    Kind("millrace_rebalances", "counter", "Assignments that this worker received.", GROUP),
    Kind("millrace_commits", "counter", "Commits that Kafka accepted.", GROUP),
    Kind("millrace_commit_failures", "counter", "Commits that Kafka did not accept.", GROUP),
    Kind("millrace_skipped_completed_records", "counter",
         "Records not answered again because a former owner had finished them.", GROUP),
    Kind("millrace_skipped_offsets", "counter",
         "Offsets that retention or a deletion removed before they were read.", GROUP),
    Kind("millrace_untrusted_memos", "counter", "Commit metadata that belongs to another log.", GROUP),
    Kind("millrace_unreadable_records", "counter",
         "Records that could not be decoded completely; the log has a line for each batch.", ("topic",)),
    Kind("millrace_transactions", "counter",
         "Transactions of exactly-once delivery, by how they ended: committed, aborted, or unknown (no answer to the "
         "commit).", ("group", "result")),
    Kind("millrace_publish_batches", "counter", "Batches that Kafka acknowledged.", GROUP),
    Kind("millrace_publish_records", "counter", "Records in them: results and dead letters.", GROUP),
    Kind("millrace_publish_failures", "counter", "Batches that Kafka did not acknowledge; they are sent again.", GROUP),
    Kind("millrace_publish_dropped", "counter", "Records that did not fit into their topic in any form.", GROUP),
    Kind("millrace_publish_backlog_records", "gauge", "Records that wait for Kafka's acknowledgement.", GROUP),
    Kind("millrace_publish_backlog_bytes", "gauge", "Bytes of their values.", GROUP),
    Kind("millrace_publish_failing_seconds", "gauge",
         "Seconds for which some partition has accepted nothing; 0: all do.", GROUP),
    Kind("millrace_cache_entries", "gauge", "Entries in memory.", ("tier",)),
    Kind("millrace_cache_bytes", "gauge", "Bytes of these entries.", ("tier",)),
    Kind("millrace_cache_evictions", "counter", "Entries evicted for others or by a sweep.", ("tier",)),
    Kind("millrace_cache_events", "counter", "Events in the tiers behind memory (`front`: in front of them).",
         ("tier", "event")),
    Kind("millrace_pool_processes", "gauge", "Processes that run checks."),
    Kind("millrace_pool_queued", "gauge", "Checks that wait for a process."),
    Kind("millrace_pool_running", "gauge", "Checks that were given to a process."),
    *(Kind(f"millrace_pool_{name}", "counter", f"{what[0].upper()}{what[1:]}.") for name, what in POOL.items()),
    Kind("millrace_table_rows", "gauge", "Rows of a table on this worker; on disk possibly an estimate.", ("table",)),
    Kind("millrace_event_loop_lag_seconds", "histogram", "Delay of the event loop, measured ten times a second."),
    Kind("millrace_event_loop_tasks", "gauge", "Tasks of the event loop; at the same load their number stays level."),
    Kind("millrace_event_loop_stalls", "counter", "Times that the event loop was blocked for 2 s."),
    Kind("millrace_function_seconds", "histogram", "Time in functions marked @timed.", ("function", "result")),
    Kind("millrace_web_requests", "counter", "Requests to this server.", ("route", "method", "status")),
)  # fmt: skip
"""Every metric of a worker, beside those of the process (`process_…`)."""

PAGE = """# Metrics

`GET /metrics` on a worker's web port, in Prometheus' text format or as OpenMetrics, by `Accept`. This page is made from
the catalogue in [agents/metrics.py](../agents/metrics.py) by `python -m agents.metrics > docs/metrics.md`; a test
compares them.

Label values are bounded: none is a URL, host or key, and a `source` is one of sources.toml (`url`: a request
without a source; beyond 200 sources the others share `other`). Histograms have the buckets {bounds} seconds. The
process itself has `process_resident_memory_bytes`, `process_cpu_seconds_total`, `process_open_fds`,
`process_max_fds`, `process_virtual_memory_bytes` and `process_start_time_seconds`.

{table}"""


def page() -> str:
    """Return docs/metrics.md."""
    return PAGE.format(bounds=", ".join(f"{bound:g}" for bound in BOUNDS), table=table(CATALOGUE))


if __name__ == "__main__":
    EntryPoint("agents.metrics", "Prints docs/metrics.md, made of the catalogue of metrics.").begin()
    sys.stdout.write(page())
