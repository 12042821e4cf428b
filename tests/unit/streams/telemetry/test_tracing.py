"""When there are traces, where they go, and that without them nothing is loaded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from models.errors import SettingsError
from streams.telemetry import tracing as module
from streams.telemetry.tracing import tracing, wanted


@pytest.fixture(autouse=True)
def no_otel(monkeypatch):
    """No variable of the machine's own."""
    for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_SERVICE_NAME",
                 "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_RESOURCE_ATTRIBUTES", *module.ENDPOINTS):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("mode", "variables", "expected"),
    [
        ("auto", {}, False),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ("auto", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ("auto", {"OTEL_TRACES_EXPORTER": "console"}, True),
        ("auto", {"OTEL_TRACES_EXPORTER": "none"}, False),
        ("on", {}, True),
        ("off", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ("on", {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_setting_and_the_standard_variables_decide(monkeypatch, mode, variables, expected):
    """`auto` asks whether there is an endpoint, `on` and `off` do not, and OTEL_SDK_DISABLED has the last word."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wanted(mode) is expected


async def test_off_there_is_no_tracer():
    """Without traces what is given is None."""
    async with tracing("off", "w") as tracer:
        assert tracer is None


@pytest.mark.slow
def test_off_loads_nothing_of_it():
    """A worker's modules without traces do not import OpenTelemetry, which takes a tenth of a second and 20 MiB."""
    code = "import sys, agents.worker; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "jaeger"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]
)
async def test_what_cannot_be_had_is_named(monkeypatch, name, value):
    """Another exporter or protocol than ours is an error of the settings, by the variable's name."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        async with tracing("on", "w"):
            pass


@pytest.mark.parametrize(
    ("name", "kind"), [("console", "ConsoleSpanExporter"), ("otlp", "OTLPSpanExporter"), ("none", "NoneType")]
)
def test_the_standard_variable_names_the_exporter(monkeypatch, name, kind):
    """OTEL_TRACES_EXPORTER says where spans go: over OTLP, to stdout, or nowhere."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", name)
    exporter = module._make_exporter()
    assert type(exporter).__name__ == kind
    if exporter is not None:
        exporter.shutdown()


async def test_without_the_extra_it_says_what_to_install(monkeypatch):
    """Traces that are wanted but not installed end the start with the command that helps."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(SettingsError, match=r"pip install 'millrace-kafka\[traces\]'"):
        async with tracing("on", "w"):
            pass


class Exporter(SpanExporter):
    """Keeps what it is given; `hang` seconds later."""

    def __init__(self, hang=0.0):
        self.spans, self.hang, self.closed = [], hang, threading.Event()

    def export(self, spans):
        time.sleep(self.hang)
        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self):
        self.closed.set()


async def test_the_last_spans_leave_at_the_end(monkeypatch):
    """What was traced just before the stop is exported, with the name and the instance of the service."""
    exporter = Exporter()
    monkeypatch.setattr(module, "_make_exporter", lambda: exporter)
    async with tracing("on", "w1") as tracer:
        tracer.start_span("one").end()
    (span,) = exporter.spans
    assert exporter.closed.is_set()
    attributes = span.resource.attributes
    assert (attributes["service.name"], attributes["service.instance.id"]) == ("millrace", "w1")


async def test_the_operators_name_goes_first(monkeypatch):
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are not overridden by ours."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "prices")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    exporter = Exporter()
    monkeypatch.setattr(module, "_make_exporter", lambda: exporter)
    async with tracing("on", "w1") as tracer:
        tracer.start_span("one").end()
    attributes = exporter.spans[0].resource.attributes
    assert (attributes["service.name"], attributes["deployment.environment.name"]) == ("prices", "test")


@pytest.mark.slow
async def test_a_collector_that_hangs_holds_up_no_stop(monkeypatch, caplog):
    """The stop waits FLUSH_TIMEOUT seconds for the last spans, no longer, and says so."""
    monkeypatch.setattr(module, "_make_exporter", lambda: Exporter(hang=1.5))
    monkeypatch.setattr(module, "FLUSH_TIMEOUT", 0.1)
    began = time.monotonic()
    async with tracing("on", "w") as tracer:
        tracer.start_span("one").end()
    assert time.monotonic() - began < 1
    assert "could not be sent" in caplog.text
    await asyncio.sleep(1.6)  # its thread is gone before the loop is
