"""Metrics for Prometheus. Each scrape reads what the parts count anyway: counting costs what a plain counter costs, and
nothing that happens a thousand times a second passes through here.

A catalogue declares the metrics; readers yield their samples. Nothing else is exposed, so documentation made from the
catalogue is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from models.histogram import BOUNDS, Histogram

logger = logging.getLogger(__name__)


class Kind(NamedTuple):
    """One metric: its name without suffixes, its type, its meaning, and the labels of its series."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def exposed_name(self) -> str:
        """Return the name in queries: a counter's ends in `_total`."""
        return f"{self.name}_total" if self.type == "counter" else self.name


class Sample(NamedTuple):
    """A value of the metric `name` (as in Kind), with as many label values as it has labels."""

    name: str
    value: float | Histogram
    labels: tuple[str, ...] = ()


Reader: TypeAlias = Callable[[], Iterable[Sample]]
"""Reads counters; it runs on the event loop and must not take long. What it raises costs its samples, no others'."""


class Exporter(Collector):
    """Exposes the samples of its readers, and the operating system's figures of the process."""

    def __init__(self, catalogue: Sequence[Kind]) -> None:
        self._catalogue = {kind.name: kind for kind in catalogue}
        self._readers: list[Reader] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def reads(self, *readers: Reader) -> None:
        """Add readers."""
        self._readers += readers

    def expose(self, accept: str | None) -> tuple[bytes, str]:
        """Return all metrics and their media type: OpenMetrics if accepted, else Prometheus' text format."""
        encode, content_type = choose_encoder(accept or "")
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry needs no samples to register the collector."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the catalogue, also those without a sample."""
        families = {name: _family(kind) for name, kind in self._catalogue.items()}
        for reader in self._readers:
            try:
                for name, value, labels in reader():
                    _put(families[name], value, labels)
            except Exception:  # the other parts' metrics are still exposed
                logger.exception("some metrics cannot be read: the others are exposed")
        yield from families.values()


def _family(kind: Kind) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    match kind.type:
        case "counter":
            return CounterMetricFamily(kind.name, kind.help, labels=kind.labels)
        case "gauge":
            return GaugeMetricFamily(kind.name, kind.help, labels=kind.labels)
        case "histogram":
            return HistogramMetricFamily(kind.name, kind.help, labels=kind.labels)


def _put(
    family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily,
    value: float | Histogram,
    labels: Sequence[str],
) -> None:
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(value, Histogram)
        below = accumulate(value.counts)
        buckets = [(str(bound), float(count)) for bound, count in zip((*BOUNDS, "+Inf"), below, strict=True)]
        family.add_metric(labels, buckets, value.sum)
    else:
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)


def table(catalogue: Iterable[Kind]) -> str:
    """Return the catalogue as a table in Markdown."""
    rows = [
        f"| `{kind.exposed_name}` | {kind.type} | {', '.join(f'`{label}`' for label in kind.labels)} | {kind.help} |"
        for kind in catalogue
    ]
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows, ""])
