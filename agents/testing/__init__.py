"""Tests for plugins and sources, without broker, sockets or processes: a worker's own code from the bytes of a request
to those of its result, in milliseconds.

    from agents.testing import Reply, answer

    def test_a_price_is_loaded():
        result = answer(
            {"url": "https://example.com/acme", "schema": "quote"},
            {"https://example.com/acme": {"symbol": "ACME", "price": "12.50"}},
        )
        assert result["document"]["price"] == "12.50"

harness   `answer`, and `Harness` for several requests over one cache
upstream  the upstream's replies, and the requests that it received
wire      connections of aiohttp that lead to such an upstream, and an event loop without sockets
letters   recorded dead letters, which `replay` answers again
doubles   stand-ins for the publisher, the pool, and pauses
broker    provides a broker, for the demo, the tests and the bench
"""

from agents.routes.rehearsal import Published
from agents.testing.harness import AsyncHarness, Harness, answer, answer_async, replay
from agents.testing.upstream import Reply, UpstreamRequest

__all__ = ["AsyncHarness", "Harness", "Published", "Reply", "UpstreamRequest", "answer", "answer_async", "replay"]
