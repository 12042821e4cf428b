"""Traces by OpenTelemetry (the extra `traces`), set up by its own variables (OTEL_*). Off, nothing of it is imported.

`MILLRACE_TRACES` is `auto`, `on` or `off`; `auto` is on where OTEL_EXPORTER_OTLP_ENDPOINT (or its _TRACES_ variant)
says where to, or OTEL_TRACES_EXPORTER is `console`. Spans leave in batches from a thread of their own: a collector that
is slow, dead or never there costs spans, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from models.errors import SettingsError
from streams.tasks import start_thread

logger = logging.getLogger(__name__)

FLUSH_TIMEOUT = 3.0
"""Seconds that the last spans have to leave when the worker stops."""
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def wanted(mode: str) -> bool:
    """Whether there are to be traces, by the setting and OpenTelemetry's variables."""
    if mode == "off" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return mode == "on" or any(map(os.environ.get, ENDPOINTS)) or _exporter() == "console"


@asynccontextmanager
async def tracing(mode: str, worker_id: str) -> AsyncIterator[Any | None]:
    """Give OpenTelemetry's tracer, or None if there are to be no traces; what was traced leaves before it ends.

    Raises SettingsError if traces are wanted that cannot be had.
    """
    if not wanted(mode):
        yield None
        return
    provider = _provider(worker_id)
    try:
        yield provider.get_tracer("millrace", version("millrace-kafka"))
    finally:
        await _shut(provider)


def _exporter() -> str:
    return os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"


def _provider(worker_id: str) -> Any:
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415  an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as exc:
        msg = f"MILLRACE_TRACES: traces need the extra: pip install 'millrace-kafka[traces]' ({exc})"
        raise SettingsError(msg) from exc
    ours = {"service.name": "millrace", "service.version": version("millrace-kafka"), "service.instance.id": worker_id}
    given = OTELResourceDetector().detect().attributes  # by OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    resource = Resource.create({name: value for name, value in ours.items() if name not in given})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    if (exporter := _make_exporter()) is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _make_exporter() -> Any | None:
    name = _exporter()
    if name == "none":
        return None
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter()
    if name != "otlp":
        msg = f"OTEL_TRACES_EXPORTER: {name!r} is none of otlp, console, none"
        raise SettingsError(msg)
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        msg = f"OTEL_EXPORTER_OTLP_PROTOCOL: traces go by http/protobuf (port 4318), not by {protocol!r}"
        raise SettingsError(msg)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()


async def _shut(provider: Any) -> None:
    """Send what is left, in bounded time, in a thread that does not block the exit."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut() -> None:
        try:
            provider.shutdown()
        finally:
            loop.call_soon_threadsafe(done.set)

    start_thread(shut, "flushing traces", means="the last traces are lost")
    try:
        await asyncio.wait_for(done.wait(), FLUSH_TIMEOUT)
    except TimeoutError:
        logger.warning("the last traces could not be sent within %g s", FLUSH_TIMEOUT)
