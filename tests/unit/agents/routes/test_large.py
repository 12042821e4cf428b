"""Records of routes whose JSON another process reads: the same comes out, and the event loop goes on."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from types import SimpleNamespace

import pytest

from agents.routes import formats
from agents.routes.picker import Picker
from agents.routes.rehearsal import sample, send_through
from agents.routes.value import AnsweredCache
from agents.testing import AsyncHarness
from models import large_records
from models.expression import Expression
from models.large import run
from streams.config.settings import Settings
from streams.pool import LargeWork, large
from streams.registry.registry import MISSING
from tests.unit.agents.routes.test_routes import INTO, ORDER, PRICES, REPLIES, RISK, sources


class Here:
    """Does the work of the process in this one."""

    def __init__(self):
        self.tasks = []

    async def run(self, task, content, *arguments):
        self.tasks.append(task)
        done, reason, _ = run(task, content, arguments)
        if done is None:
            raise large._error(task, reason)
        return done


HOOK = 'source = "hook"\nparams = { number = "value" }'
LINES = {**ORDER, "lines": [{"sku": "s1"}, {"sku": "s2"}]}
SECOND = PRICES.replace("value.lines[*].sku", "lookups.risk.sku")


@pytest.mark.parametrize(
    ("value", "lookup", "route"),
    [
        (LINES, INTO + PRICES, ""),
        (
            LINES,
            INTO.replace('"risk"', '"customer.risk"', 1).replace('source = "customer.risk"', 'source = "risk"'),
            "",
        ),
        (b'{ "customer": {"id": "c1"}, "n": 1.10 }', INTO, ""),
        (b'{"risk":1.10,"customer":{"id":"c1"},"big":12345678901234567890,"zero":-0}', INTO, ""),
        (ORDER, INTO + SECOND, ""),
        ({"customer": {"id": "c2"}}, INTO + SECOND, ""),
        ({"customer": {"id": "c1"}, "a": [1]}, RISK + '\ninto = "a.b"', ""),
        (b'{"n":1.10,"l":[{"x":1.10}]}', HOOK, ""),
        (b"[1]", INTO, ""),
        (b'[{"id":"c1"}]', RISK.replace("value.customer.id", "value[0].id") + '\ninto = "x"', ""),
        (b'{"a":1,"a":2}', INTO, ""),
        (b"no JSON", INTO, ""),
        (ORDER, INTO, "when = \"value.customer.id != 'c1'\""),
        (LINES, INTO, "when = \"value.lines[?sku == 'none']\""),
        (LINES, INTO, "when = \"value.lines[?sku == 's1']\""),
        ({**ORDER, "more": {}}, INTO, 'when = "value.more"'),
        (ORDER, INTO, 'when = "value.customer.id != \'c1\'"\notherwise = "drop"'),
        (ORDER, INTO, 'when = "length(value.number) > `1`"'),
        (b'{"n":1.10,"customer":{"id":"c1"}}', INTO, "when = \"to_string(value.n) == '1.10'\""),
        ({**ORDER, "lines": [{"sku": "s1"}] * 257}, INTO + PRICES, ""),
        (ORDER, INTO + '\npick = "score"', ""),
        (ORDER, INTO + '\npick = "scoer"', ""),
        (ORDER, RISK, 'output = "document"'),
    ],
)
async def test_what_comes_out_is_the_same_in_both_ways(monkeypatch, value, lookup, route):
    """Read here, or in another process: bytes, outcome, and reason."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    found = []
    for is_large in (False, True):
        monkeypatch.setattr(formats, "is_large_record", lambda _, answer=is_large: answer)
        monkeypatch.setattr("agents.routes.picker.LARGE", 0 if is_large else 1 << 20)
        work = Here()
        async with AsyncHarness(REPLIES, sources=sources(lookup, route)) as service:
            named = service._sources.routes["r"]
            for _ in range(2):  # the second time from the cache
                outcome, published = await send_through(
                    Settings(), named, service._sources, service._enricher, sample(named, data), large=work
                )
                reasons = [each.headers.get("__dlq.errors.message", b"") for each in published]
                shown = [(each.topic, each.value, reason.replace(b": has", b" has"))
                         for each, reason in zip(published, reasons, strict=True)]  # fmt: skip
                found.append((outcome, shown))
            asked = [(each.url, each.body) for each in service.requests]
        assert bool(work.tasks) is is_large
        found.append(asked)
    assert found[:3] == found[3:]


async def test_a_large_record_does_not_hold_up_the_loop():
    """300,000 values, in a process of its own: other tasks have their turns."""
    data = b'{"customer":{"id":"c1"},"l":[%b]}' % b",".join([b"[]"] * 300_000)
    assert large_records.is_large_record(data)
    async with LargeWork() as work, AsyncHarness(REPLIES, sources=sources()) as service:
        route = service._sources.routes["r"]
        before = time.process_time()
        outcome, [published] = await send_through(
            Settings(), route, service._sources, service._enricher, sample(route, data), large=work
        )
        spent = time.process_time() - before
    assert (outcome, published.value[:-1].startswith(data[:-1])) == ("ok", True)
    assert spent < 0.2  # 0.6 s and more if it is read here


def test_what_is_large_is_told_by_its_values():
    """A long text is quickly read; many values are not."""
    assert not large_records.is_large_record(b'"%b"' % (b"x" * 500_000))
    assert not large_records.is_large_record(b"[%b]" % b",".join([b"1"] * 2_000))
    assert large_records.is_large_record(b"[%b]" % b",".join([b"1"] * 20_000))
    assert large_records.is_large_record(b'"%b"' % (b"x" * (1 << 20)))


class Registered:
    """A registry that decodes whatever comes to one value."""

    def __init__(self, value):
        self.value = value

    def decode_cached(self, *_):
        return MISSING

    async def decode(self, *_):
        return self.value


@pytest.mark.parametrize(("count", "is_large"), [(10, False), (3_000, True)])
async def test_a_large_record_by_a_registry_is_one_too(count, is_large):
    """As JSON, with the digits of its decimals."""
    given = sources(RISK + '\ninto = "risk"', 'format = "avro"')
    value = {"customer": {"id": "c1"}, "l": [{"p": Decimal("1.10"), "n": number} for number in range(count)]}
    async with AsyncHarness(REPLIES, sources=given) as service:
        route, work = service._sources.routes["r"], Here()
        outcome, [published] = await send_through(
            Settings(), route, service._sources, service._enricher, sample(route, b"avro"), large=work,
            registry=Registered(value),
        )  # fmt: skip
    text = published.value
    assert (outcome, bool(work.tasks)) == ("ok", is_large)
    assert text.startswith(b'{"customer":{"id":"c1"},"l":[{"p":1.10,"n":0},')
    assert json.loads(text)["l"][-1] == {"p": 1.1, "n": count - 1}
    assert json.loads(text)["risk"]["sku"] == "s1"


class Writing(Registered):
    """A registry that encodes, too, and would make something of nothing."""

    def encode_cached(self, *_):
        return b"written"


@pytest.mark.parametrize("more", ["when = \"value.status == 'open'\"", ""])
@pytest.mark.parametrize("formats", ['format = "avro"', 'results_format = "avro"\nresults_subject = "s"'])
async def test_a_tombstone_stays_one_where_a_registry_writes(formats, more):
    """Without an answer to put in, nothing is written: a compacted topic forgets the key."""
    lookup = 'source = "risk"\nparams = { id = "key" }'
    given = sources(lookup, f'{formats}\ntombstones = "look-up"\n{more}')
    async with AsyncHarness(REPLIES, sources=given) as service:
        route = service._sources.routes["r"]
        outcome, [published] = await send_through(
            Settings(), route, service._sources, service._enricher, sample(route, None, b"c1"),
            registry=Writing(None),
        )  # fmt: skip
    assert (outcome, published.topic, published.value) == ("passed" if more else "ok", route.results, None)


async def test_what_another_process_found_is_used_though_it_is_forgotten(monkeypatch):
    """While one document is looked into, those of other records take its place among what is kept."""
    monkeypatch.setattr("agents.routes.picker.LARGE", 0)
    route = SimpleNamespace(name="r")
    lookup = SimpleNamespace(name="risk", pick=Expression("score", document=True))

    class Busy(Here):
        async def run(self, task, content, *arguments):
            picker._answers = AnsweredCache()
            return await super().run(task, content, *arguments)

    work = Busy()
    picker = Picker(route, work)
    shared = b'"outcome":"ok","document":{"score":0.10},"attempts":1,"fetched_at":"2027-01-15T08:00:00.000Z"'
    answer = SimpleNamespace(shared=shared, error=None)
    assert picker.waits(lookup, answer)
    taken = await picker.pick(lookup, answer)
    monkeypatch.setattr(Expression, "evaluate", None)  # it would be found here, on the event loop, once more
    assert picker.of(lookup, answer, taken)[0].text == b"0.10"
