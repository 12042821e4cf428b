"""What failed goes to a delay topic instead of the dead letters, waits there, and is tried again as it once was."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
from aiokafka import ConsumerRecord

from agents.answer.agent import Answerer
from agents.cluster.later_status import later_status
from agents.later import app as module
from agents.later.app import LaterApp
from agents.later.waiting import RetryLease, Waiting, as_first_read
from agents.tables.result_parser import ResultParser
from models.dead_letter import DLQ, MAX_AT, ROUTE
from models.errors import InvalidDocument, Overloaded, TimedOut, Unreachable, UpstreamError
from models.retry_later import DUE, SINCE, TRIES, RetryLater
from models.source import Retries, Source, Sources
from models.template import HeaderTemplate, UrlTemplate
from streams.config.settings import Settings
from streams.kafka.batch import RecordBatch
from streams.kafka.lease import Lease
from tests.fakes import Clock
from tests.unit.agents.test_answer_agent import FakeEnricher, FakePublisher, batch_of, record

SHORT, LONG = "millrace-later-60s", "millrace-later-600s"
TRACE = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
BUSY = UpstreamError("h answered 503", 503)


def answerer(publisher, *delays, settings=None, source=None, **policy):
    later = RetryLater(delays, **policy)
    source = Source("s", UrlTemplate("http://h/"), identity="1", later=later, **(source or {}))
    enricher = FakeEnricher()
    enricher.error = BUSY
    if isinstance(publisher.limits, defaultdict):
        publisher.limits = dict.fromkeys(("results", "dead-letters", SHORT, LONG), 1_000_000)
    return Answerer(settings or Settings(), enricher, publisher, Sources({"s": source})), enricher


async def deferred(publisher, batch, *delays, **policy):
    """Answer a batch whose source fails; return what was published first."""
    made, _ = answerer(publisher, *delays, **policy)
    await made.answer(batch)
    await publisher.until(1)
    return publisher.parcels[0]


async def test_what_may_be_tried_again_goes_to_the_topic_of_its_delay(monkeypatch):
    """Key, bytes, partition and headers are kept; the offset is finished once Kafka has it, without a result."""
    now = Clock.of_day(monkeypatch).now
    publisher, batch = FakePublisher(), batch_of(record(7, b'{"source":"s"}', [TRACE, ("mine", b"1")]))
    topic, partition, parcel = await deferred(publisher, batch, 60, 600)
    assert (topic, partition, parcel.key, parcel.value) == (SHORT, 3, b"k", b'{"source":"s"}')
    headers = dict(parcel.headers)
    assert (headers["mine"], headers["traceparent"]) == (b"1", TRACE[1])
    assert [headers[DLQ + name] for name in ("topic", "partition", "offset", "id", "delivery.count")] == [
        b"requests", b"3", b"7", b"requests-3-7", b"1"]  # fmt: skip
    assert (headers[TRIES], headers[SINCE]) == (b"1", b"%d" % (now * 1000))
    assert headers[DUE] == b"%d" % ((now + 60) * 1000)
    assert batch.lease.unfinished == 1
    publisher.acknowledge(0)
    assert (batch.lease.unfinished, publisher.topics()) == (0, [SHORT])


async def test_an_interim_result_comes_after_the_delayed_record_if_it_is_wanted():
    """It says when the request is tried again; the offset is finished with it. The tables pass it over."""
    publisher, batch = FakePublisher(), batch_of(record(7, b'{"source":"s","id":"i"}'))
    await deferred(publisher, batch, 60, interim_results=True)
    publisher.acknowledge(0)
    assert (publisher.topics(), batch.lease.unfinished) == ([SHORT, "results"], 1)
    [result] = publisher.results()
    assert (result["id"], result["outcome"], result["retry_at"][-1]) == ("i", "upstream_error", "Z")
    parsed = ResultParser().parse(publisher.parcels[1][2].value)
    assert (parsed.shared.interim, parsed.cache) == (True, "miss")
    publisher.acknowledge(1)
    assert batch.lease.unfinished == 0


@pytest.mark.parametrize(
    ("delays", "headers", "error", "known"),
    [
        ((), (), BUSY, True),
        ((60,), (), InvalidDocument("no JSON"), True),
        ((60,), [(TRIES, b"1")], BUSY, True),
        ((60,), (), BUSY, False),
    ],
    ids=["nothing is tried later", "a retry cannot help", "it was the last try", "there is no such topic"],
)
async def test_all_else_becomes_a_dead_letter_and_a_result(delays, headers, error, known):
    """At once, and without the marks of what waits."""
    publisher = FakePublisher()
    if not known:
        publisher.limits = dict.fromkeys(("results", "dead-letters"), 1_000_000)
    made, enricher = answerer(publisher, *delays)
    enricher.error = error
    await made.answer(batch_of(record(7, b'{"source":"s"}', headers)))
    await publisher.until(1)
    publisher.acknowledge(0)
    assert publisher.topics() == ["dead-letters", "results"]
    assert not [name for name, _ in publisher.parcels[0][2].headers if "later" in name]
    assert made.later.exhausted == bool(headers)
    assert "retry_at" not in publisher.results()[0]


async def test_what_its_delay_topic_does_not_take_becomes_a_dead_letter():
    """Known beforehand, or learned when Kafka refuses it: its result follows."""
    publisher = FakePublisher()
    publisher.limits = {"results": 1_000_000, "dead-letters": 1_000_000, SHORT: 100}
    await deferred(publisher, batch_of(record(7, b'{"source":"s"}')), 60)
    assert publisher.topics() == ["dead-letters"]
    publisher = FakePublisher()
    _, _, parcel = await deferred(publisher, batch_of(record(7, b'{"source":"s"}')), 60)
    parcel.take_back(parcel)
    publisher.acknowledge(1)
    assert publisher.topics() == [SHORT, "dead-letters", "results"]


def delayed(offset, due, partition=0, topic=SHORT):
    """Return a record of a delay topic, written 60 s before it is due."""
    said = {"topic": b"requests", "partition": b"3", "offset": b"7", "timestamp": b"5"}
    headers = [(DLQ + name, content) for name, content in said.items()] + [(DUE, b"%d" % (due * 1000))]
    written = int((due - 60) * 1000)
    return ConsumerRecord(topic, partition, offset, written, 0, b"k", b'{"source":"s"}', None, 1, 1, tuple(headers))


def waiting(*batches):
    made = Waiting({SHORT: 60, LONG: 600})
    leases = []
    for records in batches:
        lease = Lease("g", records[0].topic, records[0].partition, position=0)
        lease.deliver(records, records[-1].offset + 1)
        made.add(RecordBatch(records, lease, 0.0))
        leases.append(lease)
    return made, leases


async def test_a_partition_is_not_polled_and_no_drain_waits_while_its_first_record_waits():
    """What is due is yielded in turn, the partition rests until the last of it is taken up, and waits for nobody."""
    made, [one, other] = waiting([delayed(0, 100.0), delayed(1, 101.0)], [delayed(0, 100.5, partition=1)])
    assert [lease.rests for lease in (one, other)] == [True, True]
    assert (one.point_waits, await one.drain(0.0)) == (True, True)
    one.draining = False
    assert (list(made.due(99.9)), made.next_due(), made.in_progress()) == ([], 100.0, 0)
    assert [(each.partition, each.offset) for each, _ in made.due(100.7)] == [(0, 0), (1, 0)]
    assert ([lease.rests for lease in (one, other)], made.next_due(), made.in_progress()) == ([True, False], 101.0, 2)
    assert [each.offset for each, _ in made.due(101.0)] == [1]
    assert (one.rests, made.next_due()) == (False, None)


async def test_what_is_released_is_due_at_once():
    """Up to the offset that was the end then, in its own partition only."""
    made, _ = waiting([delayed(0, 100.0), delayed(1, 101.0)], [delayed(0, 100.5, partition=1)])
    made.released = {(SHORT, 0): 1}
    assert [(each.partition, each.offset) for each, _ in made.due(0.0)] == [(0, 0)]


async def test_a_record_waits_no_longer_than_its_delay_whatever_its_time_says(monkeypatch):
    """Its writer's clock was a year ahead, or it is no worker: the records behind it must not wait for a year."""
    clock = Clock.of_day(monkeypatch)
    made, _ = waiting([delayed(0, clock.now + 86_400 * 365), delayed(1, clock.now + 30)])
    assert made.next_due() == clock.now + 60
    assert [each.offset for each, _ in made.due(clock.now + 60)] == [0, 1]


async def test_no_more_are_tried_again_at_once_than_may_be_and_others_get_their_turn(monkeypatch):
    """However often somebody looks; and a thousand that are due do not hold up the event loop together."""
    monkeypatch.setattr(module, "MAX_IN_PROGRESS", 3)
    monkeypatch.setattr(module, "TURN", 0.0)
    made, [lease] = waiting([delayed(number, 100.0) for number in range(10)])
    begun, turns = [], []

    async def begin(record, _):
        begun.append(record)

    async def other():
        while len(begun) < 3:
            turns.append(len(begun))
            await asyncio.sleep(0)

    later = SimpleNamespace(waiting=made, taken_up=Counter(), _begin=begin)
    task = asyncio.create_task(other())
    for _ in range(5):
        assert await LaterApp._take_up(later) == module.LOOK_EVERY
    await task
    assert (len(begun), made.in_progress(), len(turns) > 1) == (3, 3, True)
    lease.finish(0)
    await LaterApp._take_up(later)
    assert len(begun) == 4


async def test_what_is_in_progress_is_summed_once_a_look_and_not_for_each_record(monkeypatch):
    """The sum is over all partitions that are held: after an outage it would cost more than the records themselves."""
    made, _ = waiting(*([delayed(number, 100.0, partition=each) for number in range(4)] for each in range(20)))
    sums = []
    monkeypatch.setattr(made, "in_progress", lambda: sums.append(1) or 0)

    async def begin(*_): ...

    later = SimpleNamespace(waiting=made, taken_up=Counter(), _begin=begin)
    await LaterApp._take_up(later)
    assert (later.taken_up[SHORT], len(sums)) == (80, 1)


async def test_of_a_route_one_record_waits_for_a_place_and_other_routes_go_on():
    """Hundreds that wait would leave next to no place to the route's new records. All are taken in the end."""

    class Runner:
        def __init__(self):
            self.gate, self.taken, self.within, self.most = asyncio.Event(), [], 0, 0

        async def take(self, batch):
            self.within += 1
            self.most = max(self.most, self.within)
            await self.gate.wait()
            self.within -= 1
            self.taken.append(batch.records[0].offset)

    slow, quick = Runner(), Runner()
    quick.gate.set()
    later = LaterApp(Settings(), frozenset({60}), SimpleNamespace(), [], lambda: None)
    later._answerer, later._runners = SimpleNamespace(), {"slow": slow, "quick": quick}
    for name in ("slow", "quick"):
        for number in range(20):
            record = replace(delayed(number, 100.0), headers=((ROUTE, name.encode()),))
            await later._begin(record, RetryLease(Lease("g", SHORT, 0, position=0), number, lambda: None))
    while len(quick.taken) < 20:
        await asyncio.sleep(0)
    assert (quick.taken, slow.taken, slow.most) == ([*range(20)], [], 1)
    slow.gate.set()
    while later._tasks:
        await asyncio.sleep(0)
    assert (slow.taken, slow.most) == ([*range(20)], 1)


@pytest.mark.parametrize(
    ("source", "error", "unsent", "topic"),
    [
        ({}, TimedOut("none"), False, "dead-letters"),
        ({}, BUSY, False, "dead-letters"),
        ({}, Unreachable("refused"), True, SHORT),
        ({}, Overloaded("open"), False, SHORT),
        ({"headers": {"Idempotency-Key": HeaderTemplate("1")}}, TimedOut("none"), False, SHORT),
        ({"retry": Retries(unsafe=True)}, TimedOut("none"), False, SHORT),
    ],
)
async def test_what_may_have_changed_something_is_not_sent_again(source, error, unsent, topic):
    """A POST that may have been received is a dead letter, as within its deadline it is not repeated."""
    publisher = FakePublisher()
    made, enricher = answerer(publisher, 60, source={"method": "POST", **source})
    error.unsent = unsent
    enricher.error = error
    await made.answer(batch_of(record(7, b'{"source":"s"}')))
    await publisher.until(1)
    assert publisher.topics() == [topic]


async def test_nothing_is_taken_up_of_a_partition_that_was_given_up():
    """Its next owner reads it again."""
    made, [lease] = waiting([delayed(0, 100.0)])
    lease.revoke()
    assert (list(made.due(200.0)), made.next_due()) == ([], None)
    assert made._queues == {}, "nor kept in memory"


@pytest.mark.parametrize("order", ["none", "key"])
async def test_a_delayed_record_is_answered_as_the_one_that_it_was(order):
    """Default id and partition of the result are the first one's; what is finished is the delayed record. One that
    waits from before the order of keys was asked for is no exception.
    """
    publisher = FakePublisher()
    made, enricher = answerer(publisher, 60, 600, settings=Settings(order=order))
    enricher.error = None
    held, [lease] = waiting([delayed(4, 100.0)])
    [(each, retry)] = held.due(100.0)
    await made.answer(RecordBatch([as_first_read(each)], retry, 0.0))
    await publisher.until(1)
    [result] = publisher.results()
    assert (result["id"], result["outcome"], publisher.parcels[0][1]) == ("requests-3-7", "ok", 3)
    assert (lease.unfinished, lease.begun) == (1, 1)
    publisher.acknowledge(0)
    assert (lease.unfinished, lease.point, held.changed.is_set()) == (0, 5, True)


@pytest.mark.parametrize("topic", [b'a"b', b"a\nb", b"", b"x" * 250, b"\xff"])
async def test_a_record_from_no_topic_stays_as_it_is(topic):
    """Somebody else wrote it: its name would end up in ids, which are JSON, and in headers of HTTP."""
    wrong = replace(delayed(4, 100.0), headers=((DLQ + "topic", topic), *delayed(4, 100.0).headers))
    assert as_first_read(wrong) is wrong


async def test_a_time_that_no_record_can_have_is_cut():
    """A route may write it to its output, in 64 bits."""
    headers = ((DLQ + "timestamp", b"9" * 19), *delayed(4, 100.0).headers)
    assert as_first_read(replace(delayed(4, 100.0), headers=headers)).timestamp == MAX_AT


async def test_a_record_without_the_headers_stays_as_it_is():
    """An operator may have put a plain request there: it is answered, and its letter names where it was."""
    plain = replace(delayed(4, 100.0), headers=())
    assert as_first_read(plain) is plain


def test_a_retry_waits_until_it_is_begun():
    """Whatever waits on the way, for a host or for a place in its route, counts the lease's `begun` up and down."""
    lease = Lease("g", SHORT, 0, position=0)
    lease.deliver([delayed(0, 100.0)], 1)
    made = Waiting({SHORT: 60})
    made.changed.clear()
    lease.begun += 1
    lease.wait(0)
    retry = RetryLease(lease, 0, made.changed.set)
    retry.begun += 1
    assert (lease.begun, lease.point_waits) == (1, False)
    retry.wait(7)
    assert (lease.begun, lease.point_waits, retry.begun) == (0, True, 0)
    retry.resume(7)
    retry.finish_all([7])
    assert (lease.begun, lease.in_progress, lease.point) == (1, 0, 1)


def test_workers_reports_are_added_up():
    """What is no report, or of a worker that is silent, adds nothing; the next one due is the first of all."""

    def topic(waiting, due, **more):
        return {"topic": SHORT, "delay_s": 60, "waiting": waiting, "deferred": 2, "taken_up": 1, "partitions": 1,
                "next_due": due, "overdue_s": 0.5, **more}  # fmt: skip

    records = [
        {"answering": True, "retry_later": {"topics": [topic(3, 2000.0)], "exhausted": 1}},
        {"answering": True, "retry_later": {"topics": [topic(4, 1000.0, overdue_s="x"), 5], "exhausted": 2}},
        {"answering": False, "retry_later": {"topics": [topic(9, 1.0)], "exhausted": 9}},
        {"answering": True},
    ]
    status = later_status(records)
    [found] = status["topics"]
    assert (status["exhausted"], found["waiting"], found["deferred"], found["taken_up"]) == (3, 7, 4, 2)
    assert (found["next_due"], found["overdue_s"]) == ("1970-01-01T00:16:40.000Z", 0.5)
    assert json.loads(json.dumps(status)) == status
    records[0]["retry_later"]["topics"][0]["partitions"] = records[1]["retry_later"]["topics"][0]["partitions"] = 0
    assert later_status(records)["topics"][0]["waiting"] is None


async def test_a_route_whose_outputs_kafka_does_not_take_holds_up_what_waits_for_it():
    """The records of a route that are tried again go to its own publisher: while that fails, no worker ends for it."""
    failing = SimpleNamespace(failing_since=1.0)

    class Lent:
        async def borrow(self, _):
            return SimpleNamespace()

    part = SimpleNamespace(route=SimpleNamespace(name="r"), lent=Lent(), publisher=failing)
    later = LaterApp(Settings(), frozenset({60}), SimpleNamespace(), [part], lambda: None)
    publishers = [await opener(None) for opener in later.app._openers[:-1]]
    assert (publishers, list(later._runners)) == ([failing], ["r"])
    later.app._running = later.app._running.__class__(publishers)
    assert later.app.held_up()
