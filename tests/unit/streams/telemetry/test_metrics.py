"""The exporter: what readers tell comes out as Prometheus wants it."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from models.histogram import BOUNDS, Histogram
from streams.telemetry.metrics import Exporter, Kind, Sample, table

CATALOGUE = (
    Kind("x_things", "counter", "Things.", ("kind",)),
    Kind("x_size_bytes", "gauge", "Size."),
    Kind("x_work_seconds", "histogram", "Work."),
    Kind("x_unread", "gauge", "Never read."),
)


def read():
    histogram = Histogram()
    for seconds in (0.0005, 0.003, 100):
        histogram.add(seconds)
    yield Sample("x_things", 3, ('a"\n\\b',))
    yield Sample("x_size_bytes", 1.5)
    yield Sample("x_work_seconds", histogram)


def samples(text, parser):
    return {(sample.name, *sorted(sample.labels.items())): sample.value
            for family in parser(text) for sample in family.samples}  # fmt: skip


@pytest.mark.parametrize(
    ("accept", "media", "parser"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8", parse),
        ("text/html", "text/plain; version=0.0.4; charset=utf-8", parse),
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0", parse_open),
    ],
)
def test_both_formats_say_the_same(accept, media, parser):
    """Text and OpenMetrics, by Accept, parse to what the readers told, names and labels included."""
    exporter = Exporter(CATALOGUE)
    exporter.reads(read)
    body, content_type = exporter.expose(accept)
    assert content_type.startswith(media)
    found = samples(body.decode(), parser)
    assert found["x_things_total", ("kind", 'a"\n\\b')] == 3
    assert found["x_size_bytes",] == 1.5
    assert found["x_work_seconds_bucket", ("le", "0.001")] == 1
    assert found["x_work_seconds_bucket", ("le", str(BOUNDS[-1]))] == 2
    assert found["x_work_seconds_bucket", ("le", "+Inf")] == found["x_work_seconds_count",] == 3
    assert found["x_work_seconds_sum",] == pytest.approx(100.0035)
    assert found["process_resident_memory_bytes",] > 1 << 20


def test_every_metric_has_its_help_and_type_also_without_a_sample():
    """Whoever writes an alert sees what there is before it happens."""
    text = Exporter(CATALOGUE).expose(None)[0].decode()
    for kind in CATALOGUE:
        name = kind.exposed_name
        assert f"# HELP {name} {kind.help}\n# TYPE {name} {kind.type}\n" in text


def test_a_reader_that_fails_costs_its_own_samples_only(caplog):
    """One part's fault is logged, and the others' figures are told."""

    def broken():
        yield Sample("x_things", 1, ("before",))
        raise OSError

    def unknown():
        yield Sample("no_such_metric", 1)

    exporter = Exporter(CATALOGUE)
    exporter.reads(broken, unknown, read)
    found = samples(exporter.expose(None)[0].decode(), parse)
    assert found["x_size_bytes",] == 1.5
    assert caplog.text.count("cannot be read") == 2


def test_the_table_names_them_as_they_are_asked_for():
    """The documentation's rows have the exported name, type, labels and meaning."""
    assert "| `x_things_total` | counter | `kind` | Things. |\n| `x_size_bytes` | gauge |  | Size. |" in table(
        CATALOGUE
    )
