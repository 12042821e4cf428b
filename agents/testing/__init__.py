"""Tests for plugins and sources, without broker, sockets or processes: a worker's own code from the bytes of a request
to the bytes of its result, in milliseconds.

    from agents.testing import Reply, answer

    def test_a_price_is_loaded():
        result = answer(
            {"url": "https://example.com/acme", "schema": "quote"},
            {"https://example.com/acme": {"symbol": "ACME", "price": "12.50"}},
        )
        assert result["document"]["price"] == "12.50"

harness   `answer`, and `Harness` for several requests over one cache
upstream  what the upstream says, and what it was asked
wire      aiohttp's connections, with such an upstream at their other end
doubles   stand-ins for the publisher, the pool, and pauses
loop      an event loop that has no socket of its own
broker    'give me a broker', for the demo, the tests and the bench
"""

from agents.testing.harness import AsyncHarness, Harness, answer, answer_async
from agents.testing.upstream import Asked, Reply

__all__ = ["Asked", "AsyncHarness", "Harness", "Reply", "answer", "answer_async"]
