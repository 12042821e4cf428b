"""What becomes of a route's records, with a worker's own code and an upstream of the test's."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from agents.answer.encoded_answer import EncodedAnswer
from agents.answer.retry_later import Deferral
from agents.routes.formats import Formats
from agents.routes.lookups import Lookups
from agents.routes.rehearsal import questions, sample, send_through
from agents.routes.runner import RouteRunner
from agents.routes.waits import Waits
from agents.testing import AsyncHarness, Harness, Reply
from models import checks, strictjson
from models.errors import Overloaded, SettingsError
from models.result import Answer, encode_answer
from streams.config.settings import Settings
from streams.http import turn
from streams.kafka.fetched import Unreadable
from streams.kafka.lease import Lease
from streams.tasks import end_worker
from tests.fakes import Record

SOURCES = """
[sources.risk]
url = "https://risk.example/{id}"
retry.attempts = 1

[sources.prices]
url = "https://prices.example/{sku}"
retry.attempts = 1

[sources.hook]
url = "https://hook.example/"
method = "POST"
body = {{ number = "{{number}}" }}

[routes.r]
topics = ["orders"]
results = "enriched"
failures = "failed"
{route}

[[routes.r.lookups]]
{lookup}
"""
RISK = 'source = "risk"\nparams = { id = "value.customer.id" }'
INTO = f'{RISK}\ninto = "risk"'
PRICES = '\n[[routes.r.lookups]]\nsource = "prices"\nparams = { sku = "value.lines[*].sku" }\ninto = "a.prices"'
REPLIES = {
    "https://risk.example/c1": b'{"score": 0.10, "sku": "s1", "at": {"x": null}}',
    "https://risk.example/c2": Reply({"why": "none"}, status=404),
    "https://risk.example/c3": Reply(b"", status=204),
    "https://prices.example/s1": {"price": 1},
    "https://prices.example/s2": {"price": 2},
    "https://prices.example/s3": Reply(b"", status=404),
    "https://prices.example/1.10": {"price": 3},
    "https://hook.example/": {},
}
ORDER = {"number": 7, "customer": {"id": "c1"}}


def sources(lookup=INTO, route=""):
    return SOURCES.replace("{{", "{").replace("}}", "}").replace("{route}", route).replace("{lookup}", lookup)


def send(value, lookup=INTO, route="", **options):
    """Return what one record becomes: topic, value (bytes), headers."""
    with Harness(REPLIES, sources=sources(lookup, route)) as service:
        [published] = service.route("r", value, **options)
        return published.topic, published.value, published.headers


def merged(value, lookup=INTO, route="", **options):
    topic, out, _ = send(value, lookup, route, **options)
    assert topic == "enriched"
    return json.loads(out)


def failure(value, lookup=INTO, route="", **options):
    """Return outcome and message of a record's dead letter, which has its bytes."""
    topic, out, headers = send(value, lookup, route, **options)
    assert topic == "failed"
    assert out == (
        value if value is None or isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    )
    return headers["__dlq.errors.outcome"].decode(), headers["__dlq.errors.message"].decode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"customer":{"id":"c1"}}', b'{"customer":{"id":"c1"},"risk":%b}'),
        (b'\xef\xbb\xbf {"customer": {"id": "c1"}, "n": 1.10} \n', b' {"customer": {"id": "c1"}, "n": 1.10,"risk":%b}'),
        (b'{"risk":1,"customer":{"id":"c1"},"n":1.10}', b'{"risk":%b,"customer":{"id":"c1"},"n":1.10}'),
    ],
)
def test_the_record_keeps_its_own_bytes_around_the_answer(value, expected):
    """Blanks, digits and order stay; what has the answer's name already is replaced."""
    answer = b'{"score":0.10,"sku":"s1","at":{"x":null}}'
    assert send(value)[1] == expected % answer


def test_an_answer_goes_into_its_place():
    """Also below the top, with a part picked, and nowhere for one that is only sent."""
    assert merged(ORDER, RISK + '\ninto = "customer.risk.score"\npick = "score"')["customer"]["risk"] == {"score": 0.1}
    assert b"0.10" in send(ORDER, RISK + '\ninto = "customer.risk"\npick = "score"')[1]
    assert merged(ORDER, RISK) == ORDER
    assert merged({"customer": {"id": "c3"}}) == {"customer": {"id": "c3"}, "risk": None}
    assert merged(ORDER, RISK + '\ninto = "x"\npick = "at.x || sku"')["x"] == "s1"


def test_a_list_asks_once_for_each_value_in_order():
    """Answers are an array in the order of the values; an empty list asks nothing."""
    order = {**ORDER, "lines": [{"sku": "s2"}, {"sku": "s1"}, {"sku": "s2"}]}
    assert merged(order, INTO + PRICES)["a"]["prices"] == [{"price": 2}, {"price": 1}, {"price": 2}]
    assert merged({**ORDER, "lines": []}, INTO + PRICES)["a"]["prices"] == []
    assert merged(b'{"customer":{"id":"c1"},"lines":[{"sku":1.10}]}', INTO + PRICES)["a"]["prices"] == [{"price": 3}]
    assert failure({**ORDER, "lines": [{"sku": "s1"}, {"sku": "s3"}]}, INTO + PRICES)[1].startswith("value 1: ")
    assert "at most 256" in failure({**ORDER, "lines": [{"sku": "s1"}] * 257}, INTO + PRICES)[1]


def test_a_lookup_uses_the_document_of_another():
    """It is asked once that one has answered."""
    second = PRICES.replace("value.lines[*].sku", "lookups.risk.sku")
    assert merged(ORDER, INTO + second)["a"]["prices"] == {"price": 1}


def test_what_uses_the_answer_of_a_lookup_that_failed_fails_as_it_did():
    """From the cache, too, and whichever stands first: the record is not at fault."""
    first = 'name = "p"\nsource = "prices"\nparams = { sku = "lookups.risk.sku" }\ninto = "p"\n[[routes.r.lookups]]\n'
    for lookups, who in ((first + INTO, "risk"), (first + INTO + "\nrequired = false", "p")):
        with Harness(REPLIES, sources=sources(lookups)) as service:
            for _ in range(2):
                [letter] = service.route("r", {"customer": {"id": "c2"}})
                assert letter.headers["__dlq.errors.outcome"] == b"upstream_error"
                assert letter.headers["__dlq.errors.lookup"] == who.encode()
    assert b"params.sku (lookups.risk.sku) has no answer of the lookup risk: " in letter.headers["__dlq.errors.message"]


def test_nothing_is_sent_for_a_record_that_lacks_what_another_lookup_needs():
    """A required one that cannot be made fails the record before the others are requested."""
    hook = '\n[[routes.r.lookups]]\nsource = "hook"\nparams = { number = "value.number" }\n'
    with Harness(REPLIES, sources=sources(INTO + hook)) as service:
        [letter] = service.route("r", {"customer": {"id": "c1"}})
        assert letter.headers["__dlq.errors.lookup"] == b"hook"
        assert service.requests == []
        [letter] = service.route("r", {"number": 7, "customer": {"id": "c2"}})
        assert letter.headers["__dlq.errors.lookup"] == b"risk"
        assert len(service.requests) == 2
        [letter] = service.route("r", {"customer": {"id": "c2"}})
        assert letter.headers["__dlq.errors.lookup"] == b"hook"  # though the failure of the other is cached


def test_an_answer_may_go_into_another():
    """An object is opened for it; a place that would hide another's answer is refused."""
    inner = f'\n[[routes.r.lookups]]\nname = "again"\n{RISK}\npick = "sku"\n'
    assert merged(ORDER, INTO + inner + 'into = "risk.at.y"')["risk"]["at"] == {"x": None, "y": "s1"}
    assert merged(ORDER, INTO + inner + 'into = "risk"\nrequired = false')["risk"] == "s1"
    for outer, place in ((INTO, "risk"), (INTO.replace('into = "risk"', 'into = "risk.x"'), "risk")):
        with pytest.raises(SettingsError, match="again: risk would replace what risk puts into risk"):
            send(ORDER, outer + inner + f'into = "{place}"')


def test_numbers_that_are_equal_and_not_the_same_are_asked_for_by_themselves():
    """0.0 and -0.0, which a mapping takes for one."""
    route = sources(INTO)
    replies = {f"https://risk.example/{n}": {"n": n} for n in ("0.0", "-0.0", "0", "-0")}
    with Harness(replies, sources=route) as service:
        lookups = Lookups(service._harness._sources.routes["r"], service._harness._sources, None, None)
        [lookup] = lookups._route.lookups
        urls = [lookups._request(lookup, {"id": n}).request.url for n in (0.0, -0.0, 0, strictjson.NegativeZero())]
    assert urls == [f"https://risk.example/{n}" for n in ("0.0", "-0.0", "0", "-0")]


def test_an_answer_that_is_not_required_may_be_missing():
    """The record goes on and says so; what depends on it fails by itself."""
    order = {**ORDER, "lines": [{"sku": "s3"}]}
    topic, value, headers = send(order, INTO + PRICES + "\nrequired = false")
    assert (topic, "a" in json.loads(value)) == ("enriched", False)
    assert headers["millrace_missing"] == b"prices: upstream_error"


@pytest.mark.parametrize(
    ("value", "outcome", "message"),
    [
        (b"no JSON", "invalid_request", "route r: the value is not JSON: not JSON: Expecting value"),
        (b'{"a":1,"a":2}', "invalid_request", "duplicate key"),
        (b"\x00\x00\x00\x00\x07abc", "invalid_request", "not JSON: "),
        (b"[1]", "invalid_request", "route r, lookup risk: params.id (value.customer.id) finds nothing in the record"),
        ({"customer": {"id": {"x": 1}}}, "invalid_request", "route r, lookup risk: params.id"),
        ({"customer": {"id": ""}}, "invalid_request", "route r, lookup risk: params.id"),
        ({"customer": {"id": "a/b"}}, "invalid_request", "route r, lookup risk: params.id"),
        ({"customer": {"id": "a/b"}}, "invalid_request", "(id = value.customer.id)"),
        ({"customer": {"id": ["c1", None]}}, "invalid_request", "route r, lookup risk: value 1: params.id: must be a"),
        ({"customer": {"id": "c2"}}, "upstream_error", "404"),
    ],
)
def test_a_record_that_cannot_be_answered_is_a_dead_letter_that_says_why(value, outcome, message):
    """With its own bytes, its outcome, and the names of route, lookup and expression."""
    found = failure(value)
    assert found[0] == outcome
    assert message in found[1]


def test_a_dead_letter_names_route_lookup_and_place():
    """So that an operator finds both, and redrive the topic."""
    _, _, headers = send({"customer": {"id": "c2"}}, key=b"k", headers={"trace": "t", "__dlq.errors.outcome": "old"})
    names = ("route", "lookup", "topic", "partition", "offset", "group", "host")
    assert [headers[f"__dlq.errors.{name}"] for name in names] == [
        b"r", b"risk", b"orders", b"0", b"0", b"millrace-r", b"risk.example:443"
    ]  # fmt: skip
    assert headers["trace"] == b"t"


def test_records_that_are_not_meant_pass_or_are_dropped():
    """By `when`, in both ways, with their bytes and headers as they are; so do tombstones."""
    when = "when = \"value.customer.id != 'c1'\""
    value = b'{ "customer": {"id": "c1"} }'
    topic, out, headers = send(value, route=when, headers={"content-type": "x/y"})
    assert (topic, out, headers["content-type"]) == ("enriched", value, b"x/y")
    assert send(None)[:2] == ("enriched", None)
    with Harness(REPLIES, sources=sources(route=f'{when}\notherwise = "drop"\ntombstones = "drop"')) as service:
        assert service.route("r", value) == service.route("r", None) == []
        assert service.requests == []


def test_a_record_without_a_value_is_looked_up_by_its_key():
    """Where the route says so."""
    lookup = 'source = "risk"\nparams = { id = "key" }\ninto = "risk"'
    topic, value, _ = send(None, lookup, 'tombstones = "look-up"', key=b"c1")
    assert (topic, json.loads(value)["risk"]["sku"]) == ("enriched", "s1")


def test_when_that_cannot_be_told_is_a_dead_letter():
    """A function of JMESPath that does not take the value, and no fault of the worker."""
    outcome, message = failure(ORDER, route='when = "length(value.number) > `1`"')
    assert (outcome, message.startswith("route r: when (length(value.number)")) == ("invalid_request", True)


def test_expressions_that_compute_have_all_digits():
    """In `when`, in a parameter and over a document: 1.10 is not 1.1."""
    record = b'{"n":1.10,"customer":{"id":"c1"}}'
    when = """when = "to_string(value.n) == '1.10'\""""
    assert merged(record, INTO + '\npick = "sum([score, score])"', when)["risk"] == 0.2
    price = 'source = "prices"\nparams = { sku = "to_string(value.n)" }\ninto = "p"'
    assert merged(record, price)["p"] == {"price": 3}


def test_checks_are_run_and_told():
    """In a header, or in their place; one that fails is the record's outcome."""
    check = '\nchecks = [{ name = "range", field = "score", args = { low = 0, high = 1 } }]'
    name, _, told = send(ORDER, INTO + check)[2]["millrace_checks"].partition(b": ")
    assert (name, json.loads(told)[0]["value"]) == (b"risk", True)
    assert merged(ORDER, INTO + check + '\nchecks_into = "checked"')["checked"][0]["value"] is True
    assert failure(ORDER, INTO + check.replace('"score"', '"sku"'))[0] == "check_error"
    assert "range" in checks.names()


def test_a_pick_that_finds_nothing_fails():
    """A misspelt one is not to fill a topic with nulls."""
    outcome, message = failure(ORDER, INTO + '\npick = "scoer"')
    assert (outcome, "pick scoer finds nothing" in message) == ("invalid_document", True)


def test_an_output_may_be_the_document_or_the_result():
    """Of the one lookup; a result also when it failed, after its dead letter."""
    assert send(ORDER, RISK, 'output = "document"')[1] == b'{"score":0.10,"sku":"s1","at":{"x":null}}'
    assert (
        send(b"c1", RISK.replace("value.customer.id", "value"), 'format = "text"\noutput = "document"')[0] == "enriched"
    )
    with Harness(REPLIES, sources=sources(RISK, 'output = "result"')) as service:
        [result] = service.route("r", ORDER, headers={"ce_id": "o-7"})
        members = json.loads(result.value)
        assert (members["id"], members["outcome"], members["document"]["sku"]) == ("o-7", "ok", "s1")
        letter, result = service.route("r", {"customer": {"id": "c2"}})
        assert (letter.topic, result.topic, json.loads(result.value)["outcome"]) == (
            "failed",
            "enriched",
            "upstream_error",
        )
        letter, result = service.route("r", b"x")
        assert (letter.topic, json.loads(result.value)["outcome"]) == ("failed", "invalid_request")


def test_a_list_has_no_result():
    """One answer makes one; and a result has all of the document."""
    prices = 'source = "prices"\nparams = { sku = "value.skus" }'
    with Harness(REPLIES, sources=sources(prices, 'output = "result"')) as service:
        letter, result = service.route("r", {"skus": ["s1"]})
        assert "is a list" in json.loads(result.value)["error"]["message"]
        assert (letter.topic, service.requests) == ("failed", [])
    with pytest.raises(SettingsError, match="leave out pick"):
        send(ORDER, RISK + '\npick = "score"', 'output = "result"')


def test_a_webhook_is_called_once_for_each_question_with_a_key_of_its_own():
    """The same key for a repeat of the record, another for another lookup."""
    hook = 'source = "hook"\nparams = { number = "value.number" }'
    with Harness(
        REPLIES, sources=sources(f'name = "one"\n{hook}\n[[routes.r.lookups]]\nname = "two"\n{hook}')
    ) as service:
        service.route("r", ORDER)
        service.route("r", ORDER)
        keys = [asked.headers["idempotency-key"] for asked in service.requests]
    assert sorted(keys) == ["orders-0-0-one"] * 2 + ["orders-0-0-two"] * 2


HOOK = 'source = "hook"\nparams = { number = "value.number" }'
PAGED = 'risk.example/{id}"\npages = { items = "items", next = "next" }'


@pytest.mark.parametrize(
    ("lookup", "old", "new", "asked"),
    [
        (HOOK, "", "", 1),
        (HOOK, 'method = "POST"', 'method = "POST"\nretry.unsafe = true', 2),
        (RISK, "", "", 2),
        (RISK, 'risk.example/{id}"', PAGED, 1),
    ],
)
async def test_what_was_sent_is_not_sent_again_for_want_of_a_turn(monkeypatch, lookup, old, new, asked):
    """As a POST that was redirected to a host that rests, or an answer whose next page has no turn: it would be sent
    twice, or begin again for ever. What may be sent twice waits.
    """
    monkeypatch.setattr("agents.routes.lookups.FIRST_WAIT", 0.0)
    known = []
    async with AsyncHarness(REPLIES, sources=sources(lookup).replace(old, new, 1)) as service:
        answer = service._enricher.answer

        async def crowded(request, extra):
            known.append(request)
            if len(known) > 1:
                return await answer(request, extra)
            error = Overloaded("b rests")
            error.attempts = 1
            return EncodedAnswer(encode_answer(None, Answer.failed(error)), b"miss", None, error)

        monkeypatch.setattr(service._enricher, "answer", crowded)
        [published] = await service.route("r", ORDER)
    assert (len(known), published.topic) == (asked, "failed" if asked == 1 else "enriched")


@pytest.mark.parametrize(
    ("first", "hook", "again"),
    [(HOOK, "", False), (HOOK, "retry.unsafe = true", True), ('source = "prices"\nparams = { sku = "key" }', "", True)],
)
async def test_a_record_whose_webhook_was_called_is_not_tried_again_later(monkeypatch, first, hook, again):
    """Another lookup failed: all of them would be asked again, the webhook too."""
    asked = []
    monkeypatch.setattr(Deferral, "next_try", lambda *_, again: asked.append(again))
    second = f"\n[[routes.r.lookups]]\n{RISK}"
    text = sources(first + second).replace('method = "POST"', f'method = "POST"\n{hook}')
    async with AsyncHarness(REPLIES, sources=text) as service:
        await service.route("r", {"number": 7, "customer": {"id": "c2"}}, key=b"s1")
    assert asked == [again]


@pytest.mark.parametrize("where", ["a later stage", "its own stage"])
async def test_a_webhook_counts_however_the_others_ended(monkeypatch, where):
    """It was called in an earlier stage whose optional lookup failed, or beside one that broke: not again."""
    asked = []
    monkeypatch.setattr(Deferral, "next_try", lambda *_, again: asked.append(again))
    optional = f"\n[[routes.r.lookups]]\n{RISK}\nrequired = false"
    later = '\n[[routes.r.lookups]]\nname = "{}"\nsource = "prices"\nparams = {{ sku = "lookups.risk.sku" }}'
    text = sources(HOOK + optional + later.format("a") + later.format("b"))
    if where == "its own stage":
        text = sources(f"{HOOK}\n[[routes.r.lookups]]\n{RISK}\npick = 'sku'\ninto = 'x'")
        monkeypatch.setattr(Lookups, "_found", broken_for("risk", Lookups._found))
    async with AsyncHarness(REPLIES, sources=text) as service:
        customer = "c2" if where == "a later stage" else "c1"
        await service.route("r", {"number": 7, "customer": {"id": customer}}, key=b"s1")
        assert "https://hook.example/" in [str(each.url) for each in service.requests]
    assert asked == [False]


def broken_for(name, found):
    """Return `found`, broken for one lookup."""

    def broken(self, lookup, *rest):
        if lookup.name == name:
            raise RuntimeError("a fault of ours")
        return found(self, lookup, *rest)

    return broken


async def test_a_record_that_is_left_to_the_next_owner_ends_no_worker(monkeypatch):
    """Its task ends in silence, as one that the drain cancels does, and nothing comes of the record here."""
    ended = []
    token = end_worker.set(ended.append)
    lease = Lease("g", "orders", 0, position=0)
    record = SimpleNamespace(offset=0, timestamp=5, topic="orders", partition=0, value=b"{}")
    lease.deliver([record], 1)
    lease.begun += 1

    async def run(_scope, _record, waits):
        with waits.turn("slow"):
            await asyncio.sleep(0)
            turn.begin()

    async with AsyncHarness(REPLIES, sources=sources(RISK)) as service:
        outputs, route = SimpleNamespace(order=None, later=None), service._sources.routes["r"]
        runner = RouteRunner(route, SimpleNamespace(run=run), Formats(route), outputs, SimpleNamespace())
        runner._start(record, SimpleNamespace(lease=lease, received_at=0.0), {"value": {}})
        [task] = lease.work
        lease.draining = True
        await asyncio.wait([task])
    end_worker.reset(token)
    assert (ended, task.cancelled(), task.exception()) == ([], False, None)
    assert (runner.outcomes, lease.unfinished, await lease.drain(0)) == (Counter(), 1, True)


async def test_nothing_begins_while_its_partition_is_given_up():
    """What waits for its turn at a source leaves it to the next owner when the turn comes, and holds up no drain."""
    lease = Lease("g", "orders", 0, position=0)
    record = Record(0, 5)
    lease.deliver([record], 1)
    lease.begun += 1
    waits = Waits(record, lease, Counter())
    with waits.turn("slow"):
        assert await lease.drain(0.01) is True
        with pytest.raises(asyncio.CancelledError):
            turn.begin()
    assert await lease.drain(0.01) is True, "what becomes of it is the next owner's"
    with waits.because("another question of it is refused"):
        assert lease.in_progress == 0, "it does not count twice"
    assert not waits._reasons


def test_two_lookups_that_ask_the_same_share_the_answer():
    """Single-flight and cache are those of requests."""
    again = f'\n[[routes.r.lookups]]\nname = "again"\n{RISK}\ninto = "b"'
    with Harness(REPLIES, sources=sources(INTO + again)) as service:
        [published] = service.route("r", ORDER)
        service.route("r", {"customer": {"id": "c1"}})
        assert len(service.requests) == 1
        assert json.loads(published.value)["b"] == json.loads(published.value)["risk"]
        assert service.answer({"source": "risk", "params": {"id": "c1"}})["cache"] == "hit"


def test_an_output_that_its_topic_does_not_take_is_a_dead_letter():
    """Too large with the answer in it: nothing is lost, and it says how large."""
    outcome, message = failure({"customer": {"id": "c1"}, "x": "y" * 1_048_500})
    assert (outcome, "the output has" in message) == ("too_large", True)


async def test_what_a_compacted_topic_refuses_is_a_dead_letter():
    """A record without a key: sent again and again it would hold up its partition for ever. It is no `ok`, either."""
    async with AsyncHarness(REPLIES, sources=sources(RISK, 'output = "result"')) as service:
        route = service._sources.routes["r"]
        for key, topics in ((None, ["failed"]), (b"k", ["enriched"])):
            given = sample(route, b'{"customer":{"id":"c1"}}', key)
            outcome, published = await send_through(
                Settings(), route, service._sources, service._enricher, given, compacted=True
            )
            assert [each.topic for each in published] == topics
            assert outcome == ("ok" if key else "invalid_request")


async def test_an_output_that_is_too_large_is_counted_as_that():
    """Not as `ok`."""
    async with AsyncHarness(REPLIES, sources=sources()) as service:
        route = service._sources.routes["r"]
        given = sample(route, b'{"customer":{"id":"c1"},"x":"%b"}' % (b"y" * 1_048_500))
        outcome, _ = await send_through(Settings(), route, service._sources, service._enricher, given)
    assert outcome == "too_large"


@pytest.mark.parametrize("key", [b"a", b"", b"orders", b"\xff" * 33, "grün".encode()])
def test_a_key_goes_where_its_producer_would_put_it(key):
    """Checked against librdkafka's murmur2, by aiokafka's own partitioner."""
    from aiokafka.partitioner import DefaultPartitioner

    from agents.routes.outputs import partition_of

    assert partition_of(key, 7) == DefaultPartitioner()(key, list(range(7)), list(range(7)))


async def test_a_record_that_cannot_be_decoded_is_a_dead_letter_with_its_bytes():
    """As for requests: it ends no worker, and says why."""
    unreadable = Unreadable("orders", 0, 0, 1, 0, None, None, None, -1, -1, (), reason="a bad checksum", raw=b"raw")
    async with AsyncHarness(sources=sources()) as service:
        route = service._sources.routes["r"]
        outcome, [letter] = await send_through(Settings(), route, service._sources, service._enricher, unreadable)
    assert (outcome, letter.topic, letter.value) == ("invalid_request", "failed", b"raw")
    assert b"a bad checksum" in letter.headers["__dlq.errors.message"]
    assert letter.headers["__dlq.errors.unreadable"] == b"record"


@pytest.mark.slow
async def test_what_waits_for_its_turn_has_no_deadline_yet():
    """A source of one request a second and a deadline of half a second: three records take two seconds, none fails."""
    slow = sources().replace("retry.attempts = 1", "timeout = 0.5\nlimits.rate = 1", 1)
    replies = {f"https://risk.example/{n}": {"n": n} for n in range(3)}
    async with AsyncHarness(replies, sources=slow) as service:
        began = time.monotonic()
        orders = [service.route("r", {"customer": {"id": str(n)}}) for n in range(3)]
        assert {published.topic for [published] in await asyncio.gather(*orders)} == {"enriched"}
        assert time.monotonic() - began > 1.5


@pytest.mark.parametrize("place", ["?sku={sku*}", "{sku*}"])
def test_a_list_that_its_source_takes_whole_is_asked_once(place):
    """The template says so; no setting of the route is needed."""
    taken = sources(INTO + PRICES).replace('"https://prices.example/{sku}"', f'"https://prices.example/{place}"')
    assert place in taken
    url = "https://prices.example/" + {"?sku={sku*}": "?sku=s1&sku=b%2Fc", "{sku*}": "s1,s2"}[place]
    skus = ["s1", "b/c"] if "?" in place else ["s1", "s2"]
    with Harness({**REPLIES, url: {"all": 1}}, sources=taken) as service:
        [published] = service.route("r", {**ORDER, "lines": [{"sku": sku} for sku in skus]})
        assert json.loads(published.value)["a"]["prices"] == {"all": 1}
        [failed] = service.route("r", {**ORDER, "lines": []})
        message = dict(failed.headers)["__dlq.errors.message"]
        assert message == (
            b"route r, lookup prices: params.sku: is an empty list: give one value at least (sku = value.lines[*].sku)"
        )


@pytest.mark.parametrize(
    ("value", "route", "expected"),
    [
        (b'{"customer":{"id":"c1"}}', "", (None, ["https://risk.example/c1"])),
        (b'{"customer":{"id":"c1"}}', "when = \"value.customer.id != 'c1'\"", ("passed", [])),
        (b'{"customer":{"id":"c1"}}', 'when = "key == \'x\'"\notherwise = "drop"', ("dropped", [])),
        (None, "", ("passed", [])),
        (None, 'tombstones = "drop"', ("dropped", [])),
    ],
)
def test_what_would_be_asked_is_nothing_for_a_record_that_passes(value, route, expected):
    """`millrace routes try --dry-run` says what becomes of it instead."""
    given = AsyncHarness(sources=sources(route=route))._sources
    outcome, asked = questions(given.routes["r"], given, sample(given.routes["r"], value))
    assert (outcome, [each["url"] for each in asked]) == expected


@pytest.mark.parametrize(
    "formats", ['format = "avro"', 'results_format = "protobuf"\nresults_subject = "s"', 'key_format = "avro"']
)
def test_a_route_of_a_registry_is_tested_as_json(formats):
    """A test has no registry: what it would read and write is JSON, as `millrace routes try` has it."""
    topic, value, _ = send(ORDER, INTO, formats, key=b'"k"')
    assert (topic, json.loads(value)["risk"]["sku"]) == ("enriched", "s1")
