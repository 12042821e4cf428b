"""Batches: every record gets its result, dead letters go first, and a lease that ends takes no more work."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict

import pytest
from aiokafka import ConsumerRecord

from agents.answer import limiter as places
from agents.answer.agent import Answerer
from agents.answer.encoded_answer import EncodedAnswer
from models.dead_letter import DLQ, read_dead_letter
from models.errors import InternalError, Overloaded, UpstreamError
from models.request import Request
from models.result import CACHE_STATES, Answer, context_of, encode_answer, read_result
from models.result_schema import ResultSchema
from models.source import Source, Sources
from models.template import UrlTemplate
from streams.cache.entry import Entry
from streams.config.settings import Settings
from streams.kafka.batch import RecordBatch
from streams.kafka.fetched import Unreadable
from streams.kafka.lease import CommitPoint, Lease

PATIENCE = 5.0
"""Seconds after which what should have happened has not."""
VALID = b'{"url":"http://example.org/"}'
SHARED = encode_answer(Request(url="http://example.org/"), Answer("ok", 200, [1], has_document=True))


class FakePublisher:
    """Keeps what is published, and acknowledges it when told to."""

    def __init__(self):
        self.parcels = []
        self.paced = 0
        self.congested = False
        self.limits = defaultdict(lambda: 1_000_000)
        self._changed = asyncio.Event()

    def may_exceed(self, *_):
        return True

    def publish(self, topic, partition, parcel, *, fits=False):  # noqa: ARG002
        self.parcels.append((topic, partition, parcel))
        self._changed.set()

    def publish_all(self, topic, partition, parcels):
        for parcel in parcels:
            self.publish(topic, partition, parcel, fits=True)

    async def pace(self):
        self.paced += 1

    async def until(self, count):
        """Wait until that many records were published."""
        async with asyncio.timeout(PATIENCE):
            while len(self.parcels) < count:
                self._changed.clear()
                await self._changed.wait()

    def acknowledge(self, place=0):
        _, _, parcel = self.parcels[place]
        parcel.listener.finish(parcel.offset)

    def results(self):
        return [read_result(parcel.value) for topic, _, parcel in self.parcels if topic == "results"]

    def topics(self):
        return [topic for topic, _, _ in self.parcels]


class FakeEnricher:
    """Has a cached answer or none; else answers at once, after an event, or with what went wrong."""

    def __init__(self):
        self.entry = None
        self.gate = None
        self.fault = None
        self.error = None
        self.state = b"miss"
        self.fetched_ago = 0.0
        self.traces = []
        self.running = 0
        self.peeks = 0
        self.peek_fault = None
        self.refused = None
        self.methods = []
        self.crowded_out = []

    def refusal(self, _):
        return self.refused

    def overdue(self, known):
        self.crowded_out.append(known.request.url)

    def peek(self, *_):
        self.peeks += 1
        if self.peek_fault is not None:
            raise self.peek_fault
        return self.entry

    async def answer(self, known, trace):
        self.traces.append(trace)
        self.methods.append(known.request.method)
        self.running += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.fault is not None:
                raise self.fault
        finally:
            self.running -= 1
        if self.error is not None:
            return EncodedAnswer(encode_answer(known.request, Answer.failed(self.error)), b"miss", None, self.error)
        return EncodedAnswer(SHARED, self.state, time.time() - self.fetched_ago, None)


@pytest.fixture
async def publisher():
    return FakePublisher()


@pytest.fixture
async def enricher():
    return FakeEnricher()


@pytest.fixture
async def answerer(enricher, publisher):
    return Answerer(Settings(), enricher, publisher)


@pytest.fixture
async def narrow(enricher, publisher, monkeypatch):
    """An answerer with room for two requests beyond the cache."""
    monkeypatch.setattr(places, "MAX_IN_PROGRESS", 4)  # half of it for one host
    return Answerer(Settings(), enricher, publisher)


def record(offset, value=VALID, headers=(), key=b"k"):
    return ConsumerRecord("requests", 3, offset, 5, 0, key, value, None, 1, 1, headers)


def batch_of(*records, lease=None):
    """Deliver records to a lease, and make a batch of them."""
    lease = lease or Lease("millrace", "requests", 3, position=records[0].offset)
    lease.deliver(records, records[-1].offset + 1)
    return RecordBatch(records, lease, time.monotonic())


def kept(shared=SHARED, *, age=0.0, error=None):
    """Make an entry of the cache that was fetched so many seconds ago."""
    return Entry(shared, time.time() - age, time.time() + 60, error)


async def settle():
    """Let tasks get as far as they get without help."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_hit_is_answered_on_the_spot(answerer, enricher, publisher, monkeypatch):
    """What the cache knows is published without waiting and without a task, and finished when delivered."""
    monkeypatch.setattr("agents.answer.agent.TURN", 60.0)  # a busy machine may take the CPU away for longer than a turn
    enricher.entry = kept(age=12.5)
    batch = batch_of(record(7), record(8, b'{"id":"x","url":"http://example.org/"}'))
    with pytest.raises(StopIteration):
        answerer.answer(batch).send(None)
    first, second = publisher.results()
    assert [first["id"], second["id"]] == ["requests-3-7", "x"]
    assert (first["cache"], first["document"]) == ("hit", [1])
    assert first["age"] == pytest.approx(12.5, abs=0.2)
    assert ResultSchema().load(first)
    assert (answerer.stats.answers["ok", "hit"], batch.lease.work, publisher.paced) == (2, set(), 1)
    assert enricher.traces == []
    assert batch.lease.commit_point() == CommitPoint(7, "")
    publisher.acknowledge(0)
    publisher.acknowledge(1)
    assert batch.lease.commit_point() == CommitPoint(9, "")


async def test_a_failure_that_is_kept_is_a_dead_letter_first_too(answerer, enricher, publisher):
    """What the cache knows to fail is told like any other failure, at once."""
    error = UpstreamError("example.org answered 503", 503)
    enricher.entry = kept(encode_answer(Request(url="http://example.org/"), Answer.failed(error)), error=error)
    batch = batch_of(record(7))
    await answerer.answer(batch)
    assert publisher.topics() == ["dead-letters"]
    assert dict(publisher.parcels[0][2].headers)[DLQ + "outcome"] == b"upstream_error"
    publisher.acknowledge(0)
    (result,) = publisher.results()
    assert (result["outcome"], result["cache"]) == ("upstream_error", "hit")
    publisher.acknowledge(1)
    assert (batch.lease.unfinished, dict(answerer.stats.answers)) == (0, {("upstream_error", "hit"): 1})


async def test_a_clock_that_was_set_back_makes_no_negative_age(answerer, enricher, publisher):
    """An answer from the future is fresh, not minus some seconds old."""
    enricher.entry = kept(age=-100)
    await answerer.answer(batch_of(record(7)))
    assert publisher.results()[0]["age"] == 0.0


async def test_a_miss_is_fetched_and_its_offset_finished_once_delivered(answerer, publisher):
    """What the cache does not know is answered by a task, and counts as done when Kafka has it."""
    batch = batch_of(record(7, key=b"key"))
    await answerer.answer(batch)
    await publisher.until(1)
    ((topic, partition, parcel),) = publisher.parcels
    assert (topic, partition, parcel.key, parcel.offset) == ("results", 3, b"key", 7)
    (result,) = publisher.results()
    assert (result["id"], result["outcome"], result["cache"], result["document"]) == ("requests-3-7", "ok", "miss", [1])
    assert result["age"] == pytest.approx(0, abs=0.2)
    assert (batch.lease.unfinished, batch.lease.in_progress) == (1, 1)
    publisher.acknowledge()
    await asyncio.gather(*batch.lease.work)
    await asyncio.sleep(0)  # the task's own end is told in the loop's next turn
    assert (batch.lease.unfinished, batch.lease.in_progress, batch.lease.work) == (0, 0, set())
    assert answerer.stats.report()["outcomes"] == {"ok": 1}


@pytest.mark.parametrize(
    ("value", "request_id", "message"),
    [
        (None, "requests-3-7", "tombstone"),
        (b"", "requests-3-7", "not JSON"),
        (b"\xff", "requests-3-7", "not UTF-8"),
        (b"[" * 100_000, "requests-3-7", "nested deeper"),
        (b'{"id":"mine","url":"nope"}', "mine", "url: must be an absolute"),
        (b'{"id":["mine"],"url":"http://a/"}', "requests-3-7", "id: must be a string, not an array"),
        (b'{"id":"mine","url":"http://a/","\\u0069d":"other"}', "requests-3-7", "duplicate key 'id'"),
    ],
)
async def test_what_is_no_request_is_a_dead_letter_first_and_then_a_result(
    answerer, publisher, value, request_id, message
):
    """The result follows the dead letter's acknowledgement, and the offset is finished by the result's."""
    batch = batch_of(record(7, value, headers=[("a", b"1"), ("null", None)]))
    await answerer.answer(batch)
    ((topic, partition, letter),) = publisher.parcels
    headers = dict(letter.headers)
    assert (topic, partition, letter.key, letter.value) == ("dead-letters", 3, b"k", value)
    assert (headers["a"], headers["null"], headers[DLQ + "outcome"]) == (b"1", None, b"invalid_request")
    assert message in headers[DLQ + "message"].decode()
    publisher.acknowledge(0)
    assert publisher.topics() == ["dead-letters", "results"]
    (result,) = publisher.results()
    assert (result["id"], result["outcome"]) == (request_id, "invalid_request")
    assert message in result["error"]["message"]
    assert ResultSchema().load(result)
    assert batch.lease.unfinished == 1
    publisher.acknowledge(1)
    assert (batch.lease.unfinished, dict(answerer.stats.answers)) == (0, {("invalid_request", "none"): 1})


async def test_a_failed_fetch_is_a_dead_letter_first_too(answerer, enricher, publisher):
    """Whatever is not ok goes to the dead letters before its result tells of it."""
    enricher.error = UpstreamError("example.org answered 503", 503)
    batch = batch_of(record(7))
    await answerer.answer(batch)
    await publisher.until(1)
    await settle()
    assert publisher.topics() == ["dead-letters"]
    assert publisher.parcels[0][2].value == VALID
    publisher.acknowledge(0)
    (result,) = publisher.results()
    assert (result["outcome"], result["status"], result["cache"]) == ("upstream_error", 503, "miss")
    assert "age" not in result
    publisher.acknowledge(1)
    assert batch.lease.unfinished == 0


async def test_a_dead_letter_of_a_lease_that_ended_is_not_wanted(answerer, publisher):
    """The receipt of a dead letter lives as long as its lease."""
    batch = batch_of(record(7, b"x"))
    await answerer.answer(batch)
    receipt = publisher.parcels[0][2].listener
    assert receipt.alive is True
    batch.lease.revoke()
    assert receipt.alive is False


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "ce_id", DLQ + "delivery.count", "any"])
@pytest.mark.parametrize("hit", [True, False])
@pytest.mark.parametrize("value", [VALID, b"x"])
async def test_null_headers_are_taken(enricher, publisher, name, hit, value):
    """Kafka's headers are nullable: a null one changes nothing of the answer, on no way that a record can go."""
    answerer = Answerer(Settings(), enricher, publisher)
    enricher.entry = kept() if hit else None
    batch = batch_of(record(7, value, headers=[(name, None)]), record(8))
    await answerer.answer(batch)
    await publisher.until(2)
    if value == b"x":
        publisher.acknowledge(publisher.topics().index("dead-letters"))
    by_id = {result["id"]: result["outcome"] for result in publisher.results()}
    assert by_id == {"requests-3-7": "ok" if value == VALID else "invalid_request", "requests-3-8": "ok"}


TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_id_of_a_header_and_the_trace_are_carried(answerer, enricher, publisher):
    """`ce_id` names a request that names itself not; the trace goes to the fetch and to the result."""
    headers = [("ce_id", b"from-header"), ("traceparent", TRACEPARENT), ("authorization", b"secret")]
    await answerer.answer(batch_of(record(7, headers=headers)))
    await publisher.until(1)
    assert publisher.results()[0]["id"] == "from-header"
    assert enricher.traces == [{"traceparent": TRACEPARENT.decode()}]
    sent = publisher.parcels[0][2].headers
    assert dict(sent)["ce_id"] == b"from-header"
    assert ("traceparent", TRACEPARENT) in sent
    assert "authorization" not in dict(sent)


async def test_a_header_that_is_no_id_is_an_invalid_request(answerer, publisher):
    """A `ce_id` of the wrong length is refused, under the record's place."""
    await answerer.answer(batch_of(record(7, headers=[("ce_id", b"x" * 129)])))
    publisher.acknowledge(0)
    (result,) = publisher.results()
    assert (result["id"], result["outcome"]) == ("requests-3-7", "invalid_request")


async def test_one_bad_record_does_not_hold_up_the_others(answerer, enricher, publisher):
    """Valid records around invalid ones are all answered."""
    enricher.entry = kept()
    values = [VALID, b"x", VALID, None, VALID]
    await answerer.answer(batch_of(*(record(offset, value) for offset, value in enumerate(values))))
    assert publisher.topics() == ["results", "dead-letters", "results", "dead-letters", "results"]


# -- bugs


@pytest.mark.parametrize("hit", [True, False])
async def test_a_bug_becomes_an_internal_error(answerer, enricher, publisher, caplog, hit):
    """Whatever is raised for one request is logged with its traceback, and answered as a fault of the service."""
    bug = LookupError("a bug")
    if hit:
        enricher.peek_fault = bug
    else:
        enricher.fault = bug
    batch = batch_of(record(7, b'{"id":"mine","url":"http://example.org/"}'))
    await answerer.answer(batch)
    await publisher.until(1)
    publisher.acknowledge(0)
    (result,) = publisher.results()
    assert result["id"] == "mine"
    assert result["outcome"] == "overloaded"
    assert result["error"] == InternalError("LookupError: a bug").describe()
    assert caplog.records[0].exc_info[1] is bug
    publisher.acknowledge(1)
    assert batch.lease.unfinished == 0


# -- leases and slots


async def test_no_more_than_there_is_room_for_is_under_way(narrow, enricher, publisher):
    """With every place taken the rest waits, without holding up what comes behind, and is begun as places come free."""
    enricher.gate = asyncio.Event()
    batch = batch_of(*(record(offset) for offset in range(5)))
    await narrow.answer(batch)
    await settle()
    assert (enricher.running, batch.lease.in_progress) == (2, 2)
    enricher.gate.set()
    await publisher.until(5)
    assert sorted(result["id"] for result in publisher.results()) == [f"requests-3-{offset}" for offset in range(5)]


@pytest.mark.parametrize("fault", [None, LookupError("a bug")])
async def test_places_are_given_back_however_a_request_ends(narrow, enricher, publisher, fault):
    """Room for two is enough for any number one after the other, also when each of them crashes."""
    enricher.fault = fault
    await asyncio.wait_for(narrow.answer(batch_of(*(record(offset) for offset in range(10)))), PATIENCE)
    await publisher.until(10)


async def test_a_draining_lease_takes_nothing_more(narrow, enricher, publisher):
    """Draining starts no more of what waits: what was begun is finished, the rest is left alone."""
    enricher.gate = asyncio.Event()
    batch = batch_of(*(record(offset) for offset in range(5)))
    await narrow.answer(batch)
    await settle()
    draining = asyncio.create_task(batch.lease.drain(PATIENCE))
    await settle()
    assert not draining.done()
    enricher.gate.set()
    await publisher.until(2)
    publisher.acknowledge(0)
    publisher.acknowledge(1)
    assert await draining is True
    await settle()
    assert [result["id"] for result in publisher.results()] == ["requests-3-0", "requests-3-1"]
    assert batch.lease.commit_point() == CommitPoint(2, "")
    other = batch_of(record(0), record(1))
    await asyncio.wait_for(narrow.answer(other), PATIENCE)
    await publisher.until(4)


async def test_a_lease_that_drains_before_its_batch_starts_nothing(answerer, enricher, publisher):
    """A batch that comes too late is not begun at all."""
    batch = batch_of(record(0))
    assert await batch.lease.drain(PATIENCE) is True
    await answerer.answer(batch)
    assert (publisher.parcels, enricher.peeks, batch.lease.begun) == ([], 0, 0)


async def test_a_revoked_lease_s_work_is_cancelled_and_its_places_given_back(narrow, enricher, publisher):
    """What was under way for a lease that is gone is ended, unanswered, and makes room for the next owner's work."""
    enricher.gate = asyncio.Event()
    batch = batch_of(*(record(offset) for offset in range(5)))
    await narrow.answer(batch)
    await settle()
    assert enricher.running == 2
    batch.lease.revoke()
    await settle()
    assert (enricher.running, publisher.parcels, narrow.places.figures()) == (0, [], {"begun": 0, "waiting": 0})
    enricher.gate = None
    await asyncio.wait_for(narrow.answer(batch_of(*(record(offset) for offset in range(5)))), PATIENCE)
    await publisher.until(5)


async def test_hits_pass_what_waits_for_a_place(narrow, enricher, publisher):
    """With every place taken by a host that hangs, what the cache knows is answered in the same turn."""
    enricher.gate = asyncio.Event()
    await narrow.answer(batch_of(*(record(offset) for offset in range(50))))
    enricher.entry = kept()
    later = batch_of(record(50))
    await asyncio.wait_for(narrow.answer(later), PATIENCE)
    assert [result["cache"] for result in publisher.results()] == ["hit"]
    assert narrow.places.figures() == {"begun": 2, "waiting": 48}
    later.lease.revoke()


async def test_what_would_be_refused_is_not_begun(answerer, enricher, publisher):
    """A host whose breaker is open costs no task: dead letter and result say so at once, and nothing is kept."""
    enricher.refused = Overloaded("example.org fails too often")
    batch = batch_of(record(7), record(8, b'{"url":"http://example.org/","max_age":0}'))
    await answerer.answer(batch)
    assert (publisher.topics(), enricher.traces, batch.lease.work) == (["dead-letters"] * 2, [], set())
    publisher.acknowledge(0)
    publisher.acknowledge(1)
    found = [(result["outcome"], result["cache"], result["error"]["message"]) for result in publisher.results()]
    assert found == [("overloaded", cache, "example.org fails too often") for cache in ("miss", "bypass")]
    assert answerer.stats.report()["outcomes"] == {"overloaded": 2}
    publisher.acknowledge(2)
    publisher.acknowledge(3)
    assert (batch.lease.unfinished, batch.lease.in_progress) == (0, 0)


async def test_hits_pass_refusals(answerer, enricher, publisher, monkeypatch):
    """Refusals take a short turn each time the event loop goes round; a draining lease ends them."""
    monkeypatch.setattr("agents.answer.publish.REFUSING", 0.0)
    enricher.refused = Overloaded("example.org fails too often")
    batch = batch_of(*(record(offset) for offset in range(100)))
    await answerer.answer(batch)
    enricher.entry = kept()
    await answerer.answer(batch_of(record(100)))
    assert publisher.topics().index("results") < 10
    assert len(publisher.parcels) < 20
    assert await batch.lease.drain(0) is False
    await settle()
    for place, (topic, *_) in enumerate([*publisher.parcels]):
        if topic == "dead-letters":
            publisher.acknowledge(place)
    refused = len(publisher.results()) - 1
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(publisher.results()) == 1 + refused < 30, "the next owner refuses the rest"
    assert batch.lease.in_progress == refused


async def test_what_may_not_wait_is_refused_and_counts_against_its_host(enricher, publisher):
    """Beyond the line of a host that answers nothing: `overloaded` at once, which its breaker hears of."""
    answerer = Answerer(Settings(max_waiting_per_host=1), enricher, publisher)
    enricher.gate = asyncio.Event()
    await answerer.answer(batch_of(*(record(offset) for offset in range(40))))
    started = time.monotonic()
    answerer.places._clock = lambda: started + 5.0
    answerer.places._looked_at = started + 5.0
    late = batch_of(record(40))
    await answerer.answer(late)
    assert (publisher.topics(), enricher.crowded_out) == (["dead-letters"], ["http://example.org/"])
    publisher.acknowledge(0)
    (result,) = publisher.results()
    assert (result["outcome"], result["cache"], result["error"]["retryable"]) == ("overloaded", "miss", True)
    assert result["error"]["message"].startswith("example.org has 33 requests to answer and none was answered for ")


@pytest.mark.slow
async def test_a_fault_while_a_request_is_refused_is_answered_too(enricher, publisher, caplog):
    """Whatever goes wrong as what waits is refused, it gets a result, and the others get theirs."""
    answerer = Answerer(Settings(max_waiting_per_host=1), enricher, publisher)
    enricher.gate, enricher.crowded_out = asyncio.Event(), None
    batch = batch_of(*(record(offset) for offset in range(40)))
    await answerer.answer(batch)
    await publisher.until(7)
    assert [each.exc_info[0] for each in caplog.records if each.exc_info] == [AttributeError] * 7
    assert publisher.topics() == ["dead-letters"] * len(publisher.parcels)
    batch.lease.revoke()


async def test_a_large_request_is_not_kept_parsed_while_it_waits(narrow, enricher, publisher):
    """What waits is held as it came; when its turn comes it is read again, and answered as itself."""
    enricher.gate = asyncio.Event()
    value = json.dumps({"url": "http://example.org/", "method": "POST", "body": "x" * 5_000}).encode()
    await narrow.answer(batch_of(*(record(offset, value) for offset in range(4))))
    assert [item.known for queue in narrow.places._crowded.values() for item in queue] == [None, None]
    enricher.gate.set()
    await publisher.until(4)
    assert enricher.methods == ["POST"] * 4


async def test_a_batch_ends_by_keeping_pace_with_kafka(answerer, enricher, publisher):
    """The next batch is not asked for while too much is unacknowledged."""
    enricher.entry = kept()
    gate = asyncio.Event()
    publisher.pace = gate.wait
    taking = asyncio.create_task(answerer.answer(batch_of(record(0))))
    await publisher.until(1)
    await settle()
    assert not taking.done()
    gate.set()
    await asyncio.wait_for(taking, PATIENCE)


async def test_a_congested_publisher_holds_up_the_middle_of_a_batch(answerer, enricher, publisher):
    """Hits are not answered faster than Kafka takes them: nothing more is published until it has caught up."""
    enricher.entry = kept()
    gate = asyncio.Event()
    publisher.pace = gate.wait
    publisher.congested = True
    taking = asyncio.create_task(answerer.answer(batch_of(record(0), record(1))))
    await settle()
    assert publisher.parcels == []
    gate.set()
    await asyncio.wait_for(taking, PATIENCE)
    assert len(publisher.parcels) == 2


async def test_results_go_to_the_topics_of_the_settings(enricher, publisher):
    """The names of topics and group are the settings'."""
    settings = Settings(results_topic="r", dead_letters_topic="d", group="g")
    await Answerer(settings, enricher, publisher).answer(batch_of(record(0, b"x"), record(1)))
    await publisher.until(2)
    publisher.acknowledge(0)
    assert sorted(publisher.topics()) == ["d", "r", "r"]
    letter, result = publisher.parcels[0][2], publisher.parcels[1][2]
    assert dict(letter.headers)[DLQ + "group"] == b"g"
    assert dict(result.headers)["ce_source"] == b"/millrace/g"
    assert json.loads(result.value)["outcome"] == "ok"


# -- cache and sources


@pytest.mark.parametrize("state", CACHE_STATES)
async def test_how_the_cache_was_involved_and_the_age_are_told(answerer, enricher, publisher, state):
    """Both are those of the answer that came; one from the future is not minus some seconds old."""
    enricher.state = state.encode()
    enricher.fetched_ago = 12.5
    await answerer.answer(batch_of(record(7)))
    await publisher.until(1)
    enricher.fetched_ago = -60.0
    await answerer.answer(batch_of(record(8)))
    await publisher.until(2)
    older, newer = publisher.results()
    assert (older["cache"], newer["cache"], newer["age"]) == (state, state, 0.0)
    assert older["age"] == pytest.approx(12.5, abs=0.2)


async def test_a_post_is_sent_under_the_key_of_its_record(answerer, enricher, publisher):
    """The same record makes the same key however often it is delivered."""
    post = b'{"url":"http://example.org/","method":"POST"}'
    for _ in range(2):
        await answerer.answer(batch_of(record(7, post)))
    await publisher.until(2)
    assert enricher.traces == [{"Idempotency-Key": "requests-3-7"}] * 2


async def test_a_request_for_a_source_is_answered_by_what_it_becomes(enricher, publisher):
    """The sources are the answerer's; one that there is not is an invalid request."""
    sources = Sources({"s": Source("s", UrlTemplate("http://h/"), identity="1")})
    answerer = Answerer(Settings(), enricher, publisher, sources)
    enricher.error = UpstreamError("h answered 503", 503)
    await answerer.answer(batch_of(record(7, b'{"source":"s"}'), record(8, b'{"source":"t"}')))
    await publisher.until(2)
    publisher.acknowledge(0)
    publisher.acknowledge(1)
    by_id = {result["id"]: result for result in publisher.results()}
    assert by_id["requests-3-7"]["request"] == {"method": "GET", "url": "http://h/", "source": "s"}
    assert by_id["requests-3-8"]["outcome"] == "invalid_request"


def unreadable(offset, **more):
    return Unreadable("requests", 3, offset, 5, 0, None, None, None, -1, -1, (), "its zstd is damaged", **more)


async def test_what_cannot_be_decoded_is_refused_with_its_bytes(answerer, publisher):
    """Each offset has a result and a letter before it that names why; the batch's bytes are in the first."""
    answerer_batch = batch_of(unreadable(7, raw=b'{"id":"x"}', whole_batch=True), unreadable(8), record(9, b"no"))
    await answerer.answer(answerer_batch)
    first, second, _ = (parcel for _, _, parcel in publisher.parcels)
    assert (first.value, dict(first.headers)[DLQ + "unreadable"]) == (b'{"id":"x"}', b"batch")
    assert (second.value, dict(second.headers)[DLQ + "unreadable"]) == (None, b"elsewhere")
    assert dict(first.headers)[DLQ + "message"] == b"the record cannot be read: its zstd is damaged"
    for place in range(3):
        publisher.acknowledge(place)
    results = publisher.results()
    assert [each["id"] for each in results] == ["requests-3-7", "requests-3-8", "requests-3-9"]
    assert {each["outcome"] for each in results} == {"invalid_request"}
    assert results[0]["error"]["type"] == "InvalidRequest"


@pytest.mark.parametrize("hit", [True, False])
async def test_a_result_that_its_key_makes_too_large_has_a_dead_letter(answerer, publisher, enricher, hit):
    """A document that fits, with a key that does not fit beside it: the letter first, and the counts tell the truth."""
    publisher.limits["results"] = 700
    if hit:
        enricher.entry = kept()
    await answerer.answer(batch_of(record(7, key=b"k" * 700)))
    await publisher.until(1)
    assert publisher.topics() == ["dead-letters"]
    assert dict(publisher.parcels[0][2].headers)["__dlq.errors.outcome"] == b"too_large"
    publisher.acknowledge()
    assert publisher.topics() == ["dead-letters", "results"]
    assert answerer.stats.report()["outcomes"] == {"too_large": 1}


@pytest.mark.parametrize("hit", [True, False])
async def test_a_result_that_kafka_refuses_after_all_has_a_dead_letter(answerer, publisher, enricher, hit):
    """The topic's limit was lowered since the worker began: the letter first, then `too_large`."""
    if hit:
        enricher.entry = kept()
    await answerer.answer(batch_of(record(7, key=b"k")))
    await publisher.until(1)
    _, _, refused = publisher.parcels.pop()
    refused.take_back(refused)
    assert publisher.topics() == ["dead-letters"]
    headers = dict(publisher.parcels[0][2].headers)
    assert (headers[DLQ + "outcome"], headers[DLQ + "id"]) == (b"too_large", b"requests-3-7")
    assert headers[DLQ + "host"] == b"example.org:80"
    publisher.acknowledge()
    _, _, result = publisher.parcels[1]
    assert (result.listener, result.offset, result.key, result.take_back) == (refused.listener, 7, b"k", None)
    assert [(each["id"], each["outcome"]) for each in publisher.results()] == [("requests-3-7", "too_large")]


async def test_a_value_that_was_too_large_has_its_senders_id(answerer, publisher):
    """Key and headers of it are known, so the result finds who asked; the letter says how much was left out."""
    sent = unreadable(7, left_out=99, sent_key=b"k", sent_headers=(("ce_id", b"mine"), ("own", None)))
    await answerer.answer(batch_of(sent))
    publisher.acknowledge()
    letter, result = (parcel for _, _, parcel in publisher.parcels)
    assert (letter.key, letter.value, dict(letter.headers)[DLQ + "value.bytes"]) == (b"k", None, b"99")
    assert dict(letter.headers)["own"] is None
    assert (result.key, read_result(result.value)["id"]) == (b"k", "mine")


async def test_a_header_that_names_a_schema_is_named_where_there_is_no_json(answerer, publisher):
    """The reason says who wrote it; JSON that such a serializer wrote is read as any other."""
    header = ("__value_schema_id", b"\x01" + bytes(16))
    await answerer.answer(batch_of(record(7, b"\x02\x06abc", (header,)), record(8, VALID, (header,))))
    publisher.acknowledge()
    await publisher.until(3)
    by_offset = {each["id"]: each for each in publisher.results()}
    assert "a Schema Registry serializer wrote it" in by_offset["requests-3-7"]["error"]["message"]
    assert by_offset["requests-3-8"]["outcome"] == "ok"


@pytest.mark.parametrize("how", ["hit", "miss", "refused", "invalid"])
async def test_a_result_repeats_its_own_request_s_context(answerer, enricher, publisher, how):
    """However a request ends, its result has its context, and the dead letter the request's bytes."""
    enricher.entry = kept() if how == "hit" else None
    if how == "refused":
        enricher.refused = Overloaded("full")
    url = "ftp://nowhere/" if how == "invalid" else "http://example.org/"
    values = [b'{"url":"%b","context":{"n":%d.10}}' % (url.encode(), number) for number in range(3)]
    await answerer.answer(batch_of(*(record(number, value) for number, value in enumerate(values))))
    await publisher.until(3)
    letters = [parcel for topic, _, parcel in publisher.parcels if topic == "dead-letters"]
    assert [letter.value for letter in letters] == (values if how in ("refused", "invalid") else [])
    for place in range(len(letters)):
        publisher.acknowledge(place)
    results = [parcel.value for topic, _, parcel in publisher.parcels if topic == "results"]
    assert [context_of(value) for value in results] == [b'{"n": %d.10}' % number for number in range(3)]


@pytest.mark.parametrize("how", ["hit", "miss", "invalid"])
async def test_headers_that_settings_name_are_carried_to_the_result(enricher, publisher, how):
    """Named headers go to each kind of result, repeated and null ones too; by default none does."""
    enricher.entry = kept() if how == "hit" else None
    sent = [("tenant", b"a"), ("other", b"b"), ("tenant", None), ("Tenant", b"c"), ("reply-to", b"d")]
    value = b"[]" if how == "invalid" else VALID
    for names, carried in ((("tenant", "reply-to"), [sent[0], sent[2], sent[4]]), ((), [])):
        publisher.parcels.clear()
        answerer = Answerer(Settings(carry_headers=names), enricher, publisher)
        await answerer.answer(batch_of(record(7, value, sent)))
        await publisher.until(1)
        if how == "invalid":
            publisher.acknowledge(0)
        [headers] = [parcel.headers for topic, _, parcel in publisher.parcels if topic == "results"]
        assert headers[4:] == [("ce_id", b"requests-3-7"), *carried]


async def test_a_redriven_request_s_headers_are_carried(enricher, publisher):
    """A dead letter keeps the headers, so what is redriven has them again."""
    answerer = Answerer(Settings(carry_headers=("tenant",)), enricher, publisher)
    await answerer.answer(batch_of(record(7, b"[]", [("tenant", b"a")])))
    letter = publisher.parcels[0][2]
    again = read_dead_letter((0, 1), 5, letter.key, letter.value, letter.headers).request_headers()
    publisher.parcels.clear()
    await answerer.answer(batch_of(record(8, VALID, again)))
    await publisher.until(1)
    assert publisher.parcels[0][2].headers[4:] == [("ce_id", b"requests-3-7"), ("tenant", b"a")]


@pytest.mark.parametrize("hit", [True, False])
@pytest.mark.parametrize("sent", [None, TRACEPARENT.replace(b"b7ad", b"c7ad")])
async def test_a_request_in_a_cloud_event_is_answered(answerer, enricher, publisher, hit, sent):
    """Its result has the event's id and its trace, unless the record's headers have one."""
    enricher.entry = kept() if hit else None
    value = b'{"specversion":"1.0","id":"e1","source":"s","type":"t","traceparent":"%b","data":%b}' % (
        TRACEPARENT, VALID)  # fmt: skip
    headers = [("content-type", b"application/cloudevents+json"), *([("traceparent", sent)] if sent else [])]
    await answerer.answer(batch_of(record(7, value, headers), record(8, VALID)))
    await publisher.until(2)
    first, second = sorted(publisher.parcels, key=lambda each: each[2].offset)
    assert read_result(first[2].value)["id"] == "e1"
    assert first[2].headers[4:] == [("ce_id", b"e1"), ("traceparent", sent or TRACEPARENT)]
    assert second[2].headers[4:] == [("ce_id", b"requests-3-8")]
    traces = [] if hit else [{"traceparent": (sent or TRACEPARENT).decode()}, {}]
    assert enricher.traces == traces


async def test_a_dead_letter_has_the_event_as_it_came(answerer, enricher, publisher):
    """What is redriven is the event again."""
    enricher.error = UpstreamError("503", 503)
    value = b'{"specversion":"1.0","id":"e1","source":"s","type":"t","data":%b}' % VALID
    await answerer.answer(batch_of(record(7, value)))
    await publisher.until(1)
    letter = publisher.parcels[0][2]
    assert (letter.value, dict(letter.headers)[DLQ + "id"]) == (value, b"e1")
