"""Spans of requests to upstreams, by OpenTelemetry's stable conventions for HTTP clients. Imported only when there are
traces.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, StatusCode
from yarl import URL

from models.errors import UpstreamError

ERROR_STATUS = 400
"""Statuses from here on are errors to the client."""
HIDDEN = "REDACTED"
"""Stands for a query: it may hold a secret, which a source may well put there."""


class HttpSpan:
    """One request: `headers` carry its trace to the upstream."""

    def __init__(self, span: Any) -> None:
        self._span = span
        self.headers: dict[str, str] = {}
        propagate.inject(self.headers)

    def answered(self, status: int) -> None:
        """Note the status of the answer."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= ERROR_STATUS:
            self.failed(str(status))

    def failed(self, kind: str) -> None:
        """Set the kind of an error, without its message, which may contain a secret."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)


class HttpSpans:
    """Makes them, as children of the current span."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer

    @contextmanager
    def request(self, method: str, url: URL, resends: int) -> Iterator[HttpSpan]:
        """Give the span of one request, the `resends`-th repetition of the first, redirects included."""
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "server.address": url.host or "",
            "server.port": url.port or 0,
            "url.full": span_url(url),
        }
        if resends:
            attributes["http.request.resend_count"] = resends
        span = self._tracer.start_span(method, kind=SpanKind.CLIENT, attributes=attributes)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            made = HttpSpan(span)
            try:
                yield made
            except UpstreamError as error:
                made.answered(error.status) if error.status is not None else made.failed(type(error).__name__)
                raise
            except BaseException as exc:
                made.failed(type(exc).__name__)
                raise


def span_url(url: URL) -> str:
    """Return a URL without login and fragment, and without what its query says."""
    plain = url.with_user(None).with_fragment(None)
    return str(plain.with_query(HIDDEN)) if plain.raw_query_string else str(plain)
