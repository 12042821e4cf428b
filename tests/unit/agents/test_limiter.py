"""Places: what is begun is bounded, by host, number, bytes and the work of checks; nothing that comes behind waits."""

from __future__ import annotations

import pytest
from aiokafka import ConsumerRecord

from agents.answer import limiter as module
from agents.answer.limiter import REFUSED_TOGETHER, InFlightLimiter, Waiting, weight_of
from agents.answer.parsed_requests import parse_request
from models.checks import Call
from models.request import Request
from models.source import Limits
from streams.config.settings import Settings
from streams.kafka.lease import Lease
from streams.pool.costs import ADMITTED, UNSEEN, Admission, Costs

pytestmark = pytest.mark.slow

CHECKS = (Call("is_prime"), Call("sha256"))
FIT = int(ADMITTED / (2 * UNSEEN))
"""Requests with two unseen checks that one process admits."""


class Desk:
    """Places, what they have begun and refused, and a clock."""

    def __init__(self, **settings):
        self.now = 100.0
        self.begun = []
        self.refused = []
        self.admission = Admission(Costs(), processes=1)
        self.places = InFlightLimiter(Settings(**settings), lambda item, leave: self.begun.append((item, leave)),
                             lambda item, error: self.refused.append((item, str(error))),
                             admission=self.admission, hosts={"narrow": Limits(concurrency=1, waiting=2)},
                             clock=lambda: self.now)  # fmt: skip
        self.lease = Lease("g", "t", 0, position=0)

    def enter(self, host, count=1, *, checks=(), value=b"", body=None):
        """Let requests for a host in."""
        for _ in range(count):
            offset = self.lease.position
            record = ConsumerRecord("t", 0, offset, 5, 0, None, value, None, 0, len(value), ())
            self.lease.deliver([record], offset + 1)
            self.lease.begun += 1
            known = parse_request(
                Request(url=f"http://{host}/", checks=checks, body=body, method="POST" if body else "GET")
            )
            self.places.enter(Waiting(record, self.lease, self.now, b'"id"', known))

    def live(self, seconds):
        """Let time pass, and places be looked at."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.places._look()

    def leave(self, count=1, *, answered=True):
        """The first ones are done."""
        for _ in range(count):
            item, leave = self.begun.pop(0)
            self.lease.finish(item.record.offset)
            leave(answered)

    def hosts(self):
        return [item.record.offset for item, _ in self.begun]


@pytest.fixture
async def desk():
    return Desk(max_waiting_per_host=1_000)


async def test_a_host_that_hangs_leaves_room_for_all_others(desk):
    """20,000 requests for one host: what fits its line is begun, and a thousand for others are begun at once."""
    desk.enter("hangs", 20_000)
    assert len(desk.begun) == 1_032
    desk.enter("other", 1_000)
    assert len(desk.begun) == 2_032
    assert desk.places.figures() == {"begun": 2_032, "waiting": 18_968}


async def test_what_waits_for_a_host_that_answers_nothing_is_refused(desk):
    """After a second of silence what is beyond the line is refused, the last first and a few a turn; then at once."""
    desk.enter("hangs", 1_232)
    assert desk.refused == []
    desk.live(0.9)
    assert desk.refused == []
    desk.live(0.2)
    assert len(desk.refused) == REFUSED_TOGETHER
    desk.live(0.1)
    assert [item.record.offset for item, _ in desk.refused] == list(range(1_231, 1_031, -1))
    assert desk.places.figures() == {"begun": 1_032, "waiting": 0}
    desk.enter("hangs", 2)
    assert len(desk.refused) == 202
    assert "hangs has 1032 requests to answer and none was answered for 1 s" in desk.refused[-1][1]
    desk.now += 10
    desk.enter("hangs", 2)
    assert desk.places.figures()["waiting"] >= 1, "nobody looked meanwhile"
    desk.live(0.1)
    assert (len(desk.refused), desk.places.figures()["waiting"]) == (204, 0)
    assert "MILLRACE_MAX_WAITING_PER_HOST" in desk.refused[-1][1]
    desk.leave(600, answered=False)
    desk.enter("hangs", 601)
    assert len(desk.refused) == 204, "half of its line was empty: it has a second again"


async def test_a_worker_that_stood_still_blames_no_host(desk):
    """After a time in which nothing of this process ran, hosts have a second for their answers, as ever."""
    desk.enter("good", 1_100)
    desk.live(0.5)
    desk.now += 30.0
    desk.enter("good", 10)
    assert desk.refused == []
    desk.live(0.3)
    assert desk.refused == []
    for _ in range(40):
        desk.leave()
    desk.live(0.9)
    assert desk.refused == []
    desk.live(0.2)
    assert desk.refused != []


@pytest.mark.parametrize(("answers", "refuses"), [(5, False), (0, True)], ids=["a good host", "a host that hangs"])
async def test_the_seconds_by_which_a_worker_is_late_count_for_no_host(desk, answers, refuses):
    """With turns of 0.45 s, 32 requests in flight bring 11 answers a second, which would be too few from a host; one
    that answers nothing does not keep up all the same.
    """
    desk.enter("host", 1_100)
    for _ in range(60):
        desk.now += 0.45
        desk.leave(answers)
        desk.enter("host", answers)
        desk.places._look()
    assert bool(desk.refused) is refuses


async def test_what_waits_for_a_host_that_keeps_up_is_begun_in_its_order(desk):
    """A backlog of 5,000 for a host that answers a hundred a second loses none, however long that takes."""
    desk.enter("good", 5_000)
    answered = []
    while desk.begun:
        answered.append(desk.begun[0][0].record.offset)
        desk.leave()
        desk.now += 0.01
        desk.places._look()
    assert (answered, desk.refused) == (list(range(5_000)), [])
    assert (desk.lease.in_progress, desk.lease.unfinished, desk.places._lines) == (0, 0, {})


async def test_many_hosts_that_hang_leave_room_too(desk):
    """Forty hosts with a thousand requests each take a part each, and the next one finds places for its own."""
    for _ in range(1_000):
        for number in range(40):
            desk.enter(f"hangs{number}")
    begun = len(desk.begun)
    desk.enter("other", 50)
    assert len(desk.begun) == begun + 50


async def test_a_place_that_comes_free_goes_to_each_line_in_turn(desk, monkeypatch):
    """Of two lines that wait, neither is begun before the other is."""
    monkeypatch.setattr(module, "MAX_IN_PROGRESS", 8)
    desk = Desk()
    for host in ("a", "b", "c"):
        desk.enter(host, 10)
    before = desk.places.figures()["waiting"]
    for _ in range(20):
        desk.leave()
    assert desk.places.figures()["waiting"] <= before - 18
    waiting = {key[0]: len(queue) for key, queue in desk.places._crowded.items()}
    assert max(waiting.values(), default=0) <= 6


async def test_a_host_s_own_limits_go_before_the_worker_s(desk):
    """`limits.waiting` and `concurrency` of a host or source say how long its line is."""
    desk.enter("narrow", 5)
    assert desk.places.figures() == {"begun": 3, "waiting": 2}
    desk.live(1.1)
    assert "narrow has 3 requests to answer" in desk.refused[0][1]


async def test_checks_are_begun_for_seconds_of_work_and_others_pass_them(desk):
    """Requests with checks wait once enough work was promised; those without pass them, of the same host too."""
    desk.enter("h", FIT + 2, checks=CHECKS)
    assert desk.admission.promised == pytest.approx(ADMITTED)
    assert desk.places.figures() == {"begun": FIT, "waiting": 2}
    desk.enter("h")
    assert len(desk.begun) == FIT + 1
    desk.leave()
    assert desk.places.figures() == {"begun": FIT + 1, "waiting": 1}
    while desk.begun:
        desk.leave()
    assert (desk.admission.promised, desk.places.figures()) == (0.0, {"begun": 0, "waiting": 0})


async def test_bytes_bound_what_is_begun(desk):
    """Of requests with large bodies a host has few begun, as they take room parsed, too; small ones pass them."""
    desk = Desk(max_pending_bytes=1_000_000)
    value = b'{"body":"' + b"x" * 90_000 + b'"}'
    desk.enter("hangs", 20, value=value, body="x" * 90_000)
    assert [item.weight for item, _ in desk.begun] == [2 * len(value)] * 3
    desk.enter("hangs")
    assert desk.places.figures()["waiting"] == 18, "its own line keeps its order"
    desk.enter("other", 5)
    desk.enter("large", 1, value=value, body="x" * 90_000)
    assert len(desk.begun) == 9
    while desk.begun:
        desk.leave()
    assert (desk.places.figures(), desk.lease.unfinished) == ({"begun": 0, "waiting": 0}, 0)


@pytest.mark.parametrize(("value", "body", "weight"), [
    (b"[" * 500 + b"]" * 500, [[]], 2_000 + 100 * 500),
    (b"x" * 1_000 + b",,,", "x", 2_006),
])  # fmt: skip
def test_a_body_of_many_values_weighs_more_than_its_text(value, body, weight):
    """Parsed, small values take many times their bytes; a string does not."""
    assert weight_of(value, parse_request(Request(url="http://h/", method="POST", body=body))) == weight


async def test_what_waits_for_a_lease_that_has_ended_is_let_go(desk):
    """After a rebalance nothing of the former lease is begun, refused, or kept."""
    desk.enter("a", 1_500)
    desk.enter("b", 10)
    old, desk.lease = desk.lease, Lease("g", "t", 0, position=0)
    old.revoke()
    begun = len(desk.begun)
    desk.leave()
    assert len(desk.begun) == begun - 1
    desk.now += 5.0
    desk.places._look()
    assert (desk.refused, desk.places.figures()["waiting"]) == ([], 0)
    desk.enter("a")
    while desk.begun:
        desk.leave()
    assert desk.places._lines == {}
