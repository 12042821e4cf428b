"""The latest record of a route, walked through."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from agents.routes.formats import Formats
from agents.routes.lookups import Lookups
from agents.routes.outputs import Outputs
from agents.routes.rehearsal import _Publisher, sample
from agents.routes.runner import RouteRunner
from agents.routes.walk import MAX_RECORD, SHOWN
from agents.testing import AsyncHarness
from agents.web.api.schemas import SampleSchema
from streams.config.settings import Settings
from streams.kafka.batch import RecordBatch
from streams.kafka.lease import Lease
from tests.unit.agents.routes.test_routes import INTO, PRICES, REPLIES, sources


async def walked(value: bytes | None, lookup: str = INTO, route: str = "") -> dict[str, Any] | None:
    """Return what a worker shows of a record."""
    async with AsyncHarness(REPLIES, sources=sources(lookup, route)) as service:
        described, publisher = service._sources.routes["r"], cast("Any", _Publisher("enriched", "failed"))
        formats = Formats(described)
        outputs = Outputs(described, Settings(), publisher, {"orders": 1, "enriched": 1}, formats)
        lookups = Lookups(described, service._sources, service._enricher, formats)
        runner = RouteRunner(described, lookups, formats, outputs, publisher)
        assert runner.sample() is None
        record = sample(described, value, b"k", {"trace": "t"})
        lease = Lease("g", record.topic, 0, position=0)
        lease.deliver([record], 1)
        await runner.take(RecordBatch([record], lease, time.monotonic()))
        while lease.work:
            await next(iter(lease.work))
        shown = runner.sample()
        assert shown is None or SampleSchema().validate(shown) == {}
        return shown


async def test_a_record_shows_what_was_read_asked_and_published():
    """Each question of a list, the cache state, and the output's text."""
    value = b'{"customer":{"id":"c1"},"lines":[{"sku":"s1"},{"sku":"s2"}]}'
    shown = await walked(value, INTO + '\npick = "score"' + PRICES)
    assert shown is not None
    assert shown["read"] == {
        "topic": "orders", "partition": 0, "offset": 0, "timestamp": shown["read"]["timestamp"], "key": "k",
        "value": value.decode(), "headers": {"trace": "t"},
    }  # fmt: skip
    risk, prices = shown["lookups"]
    assert risk == {"lookup": "risk", "source": "risk", "questions": [{"method": "GET", "url": "https://risk.example/c1"}],
                    "outcome": "ok", "into": "risk",
                    "cache": "miss", "value": "0.10"}  # fmt: skip
    assert ([each["url"][-2:] for each in prices["questions"]], prices["value"]) == (
        ["s1", "s2"],
        '[{"price":1},{"price":2}]',
    )
    assert shown["published"]["topic"] == "enriched"
    assert '"risk":0.10' in shown["published"]["value"]


@pytest.mark.parametrize(
    ("value", "route", "outcome", "topic"),
    [
        (b'{"customer":{"id":"c2"}}', "", "upstream_error", "failed"),
        (b"no JSON", "", "invalid_request", "failed"),
        (b"{}", 'when = "value.x"', "passed", "enriched"),
        (b"{}", 'when = "value.x"\notherwise = "drop"', "dropped", None),
        (None, "", "passed", "enriched"),
    ],
)
async def test_a_record_without_answers_shows_how_it_ended(value, route, outcome, topic):
    """Failed with its own value on the topic of the failures, passed on, or dropped."""
    shown = await walked(value, INTO, route)
    assert shown is not None
    assert (shown["outcome"], shown["published"] and shown["published"]["topic"]) == (outcome, topic)
    if outcome == "upstream_error":
        assert (shown["lookups"][0]["outcome"], "404" in shown["lookups"][0]["error"]) == ("upstream_error", True)


async def test_what_is_long_is_cut_and_what_is_huge_is_not_kept():
    """A page shows 4,096 characters, and says how many bytes there are."""
    text = b'{"customer":{"id":"c1"},"text":"%b"}' % (b"x" * 10_000)
    shown = await walked(text)
    assert shown is not None
    assert shown["read"]["value"] == text[:SHOWN].decode() + f"… ({len(text)} in all)"
    assert await walked(b'{"customer":{"id":"c1"},"text":"%b"}' % (b"x" * MAX_RECORD)) is None
