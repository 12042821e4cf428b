"""The catalogue of a worker's metrics: its names, its documentation, and that nothing in it is made up."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from agents import metrics
from agents.stats import origins, partitions
from models.source import Source, Sources
from models.template import UrlTemplate
from streams.http.stats import MAX_SOURCES, OTHERS, PLAIN, UpstreamStats, status_class
from streams.kafka.lease import Lease

ROOT = Path(__file__).parents[3]
UNITS = ("_seconds", "_bytes", "_records", "_offset", "_partitions")


def test_the_documentation_is_the_catalogue():
    """docs/metrics.md says what is exported, no more and no less."""
    assert (ROOT / "docs/metrics.md").read_text() == metrics.page(), "python -m agents.metrics > docs/metrics.md"


@pytest.mark.parametrize("kind", metrics.CATALOGUE, ids=lambda kind: kind.name)
def test_names_keep_to_prometheus_conventions(kind):
    """Own prefix, lower case, base units, no suffix that the format adds, a sentence that says what, bounded labels."""
    assert re.fullmatch(r"millrace_[a-z]+(_[a-z]+)*", kind.name)
    assert not kind.name.endswith(("_total", "_count", "_sum", "_bucket", "_ms", "_milliseconds", "_kib", "_mib"))
    assert kind.type != "histogram" or kind.name.endswith("_seconds")
    assert kind.help[0].isupper() or kind.help[0].isdigit()
    assert kind.help.endswith(".")
    assert not {"url", "host", "key", "id"} & set(kind.labels)
    assert len({each.name for each in metrics.CATALOGUE}) == len(metrics.CATALOGUE)


def test_sources_are_few_and_others_share_a_name():
    """More sources than a dashboard can show are counted together, and statuses by their class."""
    tally = UpstreamStats()
    for number in range(MAX_SOURCES + 5):
        tally.add(f"s{number}", status_class(204))
    tally.add(None, "timeout")
    tally.add("s0", status_class(999))
    assert len({source for source, _ in tally.requests}) == MAX_SOURCES + 2
    assert tally.requests[OTHERS, "2xx"] == 5
    assert (tally.requests[PLAIN, "timeout"], tally.requests["s0", "invalid"]) == (1, 1)
    assert tally.exchanges.count == 0


def test_a_sources_host_is_the_one_that_its_breaker_is_known_by():
    """Without the scheme's own port and in lower case, as the client has it; functions have none."""
    urls = {"a": "https://API.example.com:443/{x}", "b": "http://h:8080/?q={y}", "c": "http://h{x}"}
    urls.pop("c")
    sources = {name: Source(name, url=UrlTemplate(url)) for name, url in urls.items()}
    sources["f"] = Source("f", call="m:f")
    assert origins(Sources(sources)) == {"a": "api.example.com", "b": "h:8080"}


def test_a_partition_that_two_routes_read_has_one_figure():
    """Two samples with the same labels would be refused by Prometheus; the slower route is the one to know of."""

    def app(committed):
        lease = Lease("g", "orders", 0, position=committed)
        lease.deliver([], committed, 100)
        return SimpleNamespace(started=True, holder=SimpleNamespace(leases={("orders", 0): lease}))

    found = [sample for sample in partitions([app(90), app(40), app(70)]) if sample.name == "millrace_lag"]
    assert [(sample.value, sample.labels) for sample in found] == [(60, ("orders", "0"))]
