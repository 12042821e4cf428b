"""The watchdog, on a clock of the test's own: what makes it bite, and what must not."""

from __future__ import annotations

import asyncio

import pytest

from streams.telemetry.watchdog import (
    ASK_AGAIN,
    CHECK_AFTER,
    COMMIT_DEADLINE,
    GRACE,
    REPORT_AFTER,
    THREAD_DEADLINE,
    UNFINISHED_DEADLINE,
    Standing,
    Watchdog,
)


class Worker:
    """A worker with one partition, whose numbers the test moves."""

    def __init__(self):
        self.now = self.heard = 1000.0
        self.point = self.committed = self.finished = self.ahead = 0
        self.hold = object()
        self.assigned = self.answers = True
        self.held_up = self.waits = False
        self.asked = self.reconnected = 0
        self.reasons = []
        self.dog = Watchdog(
            self.standings,
            heard=lambda: self.heard,
            broker_answers=self.ask,
            reconnect=self.reconnect,
            held_up=lambda: self.held_up,
            end=self.reasons.append,
            clock=lambda: self.now,
        )

    def standings(self):
        held = Standing("requests-3", self.hold, self.point, self.committed, self.finished, self.ahead, self.waits)
        return [held] if self.assigned else []

    async def ask(self):
        self.asked += 1
        return self.answers

    async def reconnect(self):
        self.reconnected += 1

    async def live(self, seconds, *, thread=True):
        for _ in range(int(seconds)):
            self.now += 1
            self.heard = self.now if thread else self.heard
            await self.dog.look()


@pytest.fixture
async def worker():
    worker = Worker()
    await worker.dog.look()
    return worker


async def test_an_idle_worker_is_left_alone(worker):
    """Nothing to commit and nothing finished is no fault, however long it lasts."""
    await worker.live(3600)
    assert (worker.reasons, worker.asked, worker.dog.state()) == ([], 0, "ok")


async def test_a_process_that_stood_still_is_not_judged_by_it(worker):
    """Frozen for minutes and woken again: the thread's word is as old as the watchdog's last look, and so is all that
    was not committed, which is said; from now on it is judged as ever.
    """
    worker.point = worker.finished = 7
    await worker.live(CHECK_AFTER - 1)
    worker.now += 600
    await worker.dog.look()
    assert worker.dog.state().startswith("requests-3: no commit for 6")
    await worker.live(CHECK_AFTER - 1, thread=False)
    assert (worker.reasons, worker.asked) == ([], 0)
    worker.committed = worker.point
    await worker.live(THREAD_DEADLINE - CHECK_AFTER + 1, thread=False)
    assert worker.reasons == ["the consumer's thread has not answered for 60 s"]


async def test_a_look_that_waits_for_a_broker_is_no_standing_still(worker):
    """Its check takes 15 s where nothing answers: a thread that is silent for good ends the worker all the same."""

    async def ask():
        worker.now += 15
        return False

    worker.dog._broker_answers = ask
    worker.point = worker.finished = 7
    for _ in range(90):
        await worker.live(1, thread=False)
    assert [reason.partition(" for ")[0] for reason in worker.reasons] == ["the consumer's thread has not answered"]


async def test_a_busy_worker_is_left_alone(worker):
    """A point that moves and is committed a little later is how it should be."""
    for _ in range(1000):
        worker.committed = worker.point
        worker.point += 10
        worker.finished += 10
        await worker.live(1)
    assert (worker.reasons, worker.asked, worker.dog.state()) == ([], 0, "ok")


async def test_commits_that_fail_though_the_broker_answers_end_the_worker(worker):
    """The broker is asked; it answers, the old connections are closed, and after the deadline it is asked again, and
    the worker ends with the reason.
    """
    worker.point = worker.finished = 7
    await worker.live(CHECK_AFTER)
    assert (worker.asked, worker.reconnected, worker.reasons) == (0, 0, [])
    await worker.live(2)
    assert (worker.asked, worker.reconnected) == (1, 1)
    await worker.live(COMMIT_DEADLINE - CHECK_AFTER - 2)
    assert (worker.asked, worker.reconnected, worker.reasons) == (1, 1, [])
    await worker.live(2)
    (reason,) = worker.reasons
    assert reason.startswith("requests-3: nothing could be committed for 60 s")
    assert (worker.asked, worker.reconnected) == (2, 1)


async def test_a_connection_that_hangs_is_closed_and_costs_no_worker(worker):
    """A commit over a new one is all it takes; the next standstill closes the connections again."""
    for times in (1, 2):
        worker.point += 7
        await worker.live(CHECK_AFTER + 2)
        worker.committed = worker.point
        await worker.live(100)
        assert (worker.reconnected, worker.reasons, worker.dog.state()) == (times, [], "ok")


async def test_a_broker_that_goes_away_within_the_grace_is_waited_for(worker):
    """It is asked again before the end: what it answered a while ago says nothing."""
    worker.point = worker.finished = 7
    await worker.live(CHECK_AFTER + 2)
    worker.answers = False
    await worker.live(COMMIT_DEADLINE + 100)
    assert worker.reasons == []
    worker.answers = True
    await worker.live(ASK_AGAIN + 2)
    assert (worker.reconnected, worker.reasons) == (2, [])
    await worker.live(GRACE + 2)
    assert worker.reasons


async def test_a_broker_that_does_not_answer_is_waited_for(worker, caplog):
    """However long it is away: ending would only make others repeat work. It is asked again and again."""
    worker.point, worker.answers = 7, False
    await worker.live(3600)
    assert worker.reasons == []
    assert (3600 - CHECK_AFTER) / ASK_AGAIN * 0.8 < worker.asked < (3600 - CHECK_AFTER) / ASK_AGAIN + 2
    assert "does not answer over a new connection either" in caplog.text
    worker.answers = True
    await worker.live(ASK_AGAIN)
    worker.committed = 7  # the next commit carries it
    await worker.live(3600)
    assert (worker.reasons, worker.dog.state()) == ([], "ok")


async def test_each_standstill_has_its_own_grace(worker):
    """An answer that the broker gave long ago does not shorten the grace of the next standstill."""
    worker.point = 7
    await worker.live(CHECK_AFTER + 2)
    worker.committed = 7
    await worker.live(100)
    worker.answers = False
    worker.point = 9
    await worker.live(COMMIT_DEADLINE)
    worker.answers = True
    await worker.live(GRACE)
    assert (worker.reconnected, worker.reasons) == (2, [])


async def test_commits_that_get_through_now_and_then_are_progress(worker):
    """A commit point that moves slowly is slow, not stuck."""
    for _ in range(20):
        worker.point += 10
        worker.committed = worker.point - 5
        await worker.live(COMMIT_DEADLINE - 5)
    assert (worker.reconnected, worker.reasons) == (20, [])


async def test_a_request_that_never_ends_ends_the_worker(worker):
    """Its offset holds up the point though what was begun later is finished: past any request's time, that is a bug."""
    worker.point = worker.committed = 4
    await worker.live(10)
    worker.finished = 20
    await worker.live(UNFINISHED_DEADLINE)
    assert (worker.reasons, worker.dog.state()) == ([], "ok")
    await worker.live(1)
    (reason,) = worker.reasons
    assert reason.startswith("requests-3: offset 4 unfinished 360 s after later ones were finished")
    assert worker.dog.state() == "requests-3: offset 4 is not finished though later ones are"


async def test_all_that_happens_between_two_looks_counts(worker):
    """The point moved and later ones were finished within a second: what is behind is known all the same."""
    worker.point = worker.committed = 4
    worker.finished, worker.ahead = 20, 16
    await worker.live(UNFINISHED_DEADLINE)
    assert worker.reasons == []
    await worker.live(1)
    assert len(worker.reasons) == 1


async def test_a_point_that_moves_past_what_is_behind_is_progress(worker):
    """Slow requests one after the other, each within its time, are no standstill."""
    worker.ahead = 5
    for _ in range(5):
        worker.point += 1
        worker.committed = worker.point
        await worker.live(UNFINISHED_DEADLINE - 10)
    assert worker.reasons == []


async def test_what_waits_for_its_turn_is_not_stuck(worker):
    """Without anything finished since the point last moved there is nothing to conclude: work may not have begun."""
    worker.finished = 5
    worker.point = worker.committed = 4
    await worker.live(10 * UNFINISHED_DEADLINE)
    assert worker.reasons == []


async def test_a_request_that_waits_for_its_host_is_not_stuck(worker):
    """In the line of a busy host the oldest request may wait long while others finish; once begun its time counts."""
    worker.ahead, worker.waits = 5, True
    await worker.live(2 * UNFINISHED_DEADLINE)
    assert (worker.reasons, worker.dog.state()) == ([], "ok")
    worker.waits = False
    await worker.live(UNFINISHED_DEADLINE)
    assert len(worker.reasons) == 1


async def test_a_topic_that_takes_nothing_is_no_fault_of_ours(worker):
    """As long as Kafka refuses results, requests cannot finish, whoever runs the worker."""
    worker.point = worker.committed = 4
    await worker.live(1)
    worker.finished, worker.held_up = 20, True
    await worker.live(10 * UNFINISHED_DEADLINE)
    worker.held_up = False
    await worker.live(UNFINISHED_DEADLINE - 1)  # what had to wait has all its time once Kafka takes results again
    assert worker.reasons == []
    await worker.live(2)
    assert len(worker.reasons) == 1


async def test_another_lease_begins_anew(worker):
    """A partition that was given up and came back owes nothing of before."""
    worker.point = 7
    await worker.live(CHECK_AFTER - 5)
    worker.hold = object()
    await worker.live(CHECK_AFTER - 5)
    assert worker.asked == 0
    worker.assigned = False
    await worker.live(5 * COMMIT_DEADLINE)
    assert (worker.asked, worker.reasons, worker.dog.state()) == (0, [], "ok")


async def test_a_silent_thread_ends_the_worker(worker):
    """The consumer's thread is ours: when it does not turn, no broker is to blame."""
    await worker.live(THREAD_DEADLINE - 1, thread=False)
    assert worker.reasons == []
    await worker.live(2, thread=False)
    assert worker.reasons == ["the consumer's thread has not answered for 60 s"]


async def test_readiness_says_so_earlier(worker):
    """Long before the worker ends it is not ready, and says which partition stands still."""
    worker.point = 7
    await worker.live(REPORT_AFTER)
    assert worker.dog.state() == "ok"
    await worker.live(1)
    assert worker.dog.state() == "requests-3: no commit for 15 s"


async def test_it_looks_by_itself_until_it_is_closed(worker, monkeypatch):
    """Open, it looks every so often; closed, no more."""
    monkeypatch.setattr("streams.telemetry.watchdog.LOOK_EVERY", 0.001)
    looked = asyncio.Event()
    worker.dog._standings = lambda: looked.set() or []
    async with worker.dog:
        await asyncio.wait_for(looked.wait(), 5)
    looked.clear()
    await asyncio.sleep(0.02)
    assert not looked.is_set()
