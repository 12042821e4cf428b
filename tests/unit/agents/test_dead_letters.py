"""Which letters are redriven, and what is known of those that were, beside a Kafka that is pretended."""

from __future__ import annotations

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from agents.redrive import dead_letters as module
from agents.redrive.dead_letters import BEFORE, OTHERWISE, DeadLetters
from models.dead_letter import DLQ, ROUTE, DeadLetterFilter
from models.errors import BrokerError
from streams.config.settings import Settings
from streams.kafka.topics import Topic

SETTINGS = Settings()
LETTERS, MARKS = SETTINGS.dead_letters_topic, f"{SETTINGS.group}-redriven"


def letter(offset, outcome="denied"):
    said = {"topic": SETTINGS.requests_topic, "partition": "0", "offset": str(offset), "timestamp": "1",
            "id": f"r{offset}", "outcome": outcome, "delivery.count": "1"}  # fmt: skip
    return b"k", b'{"url": "http://h/"}', [(DLQ + name, text.encode()) for name, text in said.items()]


class Cluster:
    """Logs of one partition each, and the ways to them."""

    def __init__(self):
        self.logs = {LETTERS: [letter(n) for n in range(6)], SETTINGS.requests_topic: []}
        self.cleanup = "compact"
        self.requests_cleanup = None
        self.hidden = 0
        self.deleted = self.young = self.made_again = 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def describe(self, *names):
        if self.hidden:
            self.hidden -= 1
            return {}
        return {name: Topic(name, 1, 1, cleanup=self.cleanup) for name in names if name in self.logs}

    async def create(self, name, *_, **__):
        self.logs.setdefault(name, [])

    settled = describe

    async def identity(self, topic):
        return self.made_again, topic

    async def spans(self, topic, partitions, since=None):
        assert partitions == 1
        first = self.young if since is not None else self.deleted if topic == LETTERS else 0
        end = len(self.logs[topic])
        return {TopicPartition(topic, 0): (first, end)} if first < end else {}

    async def read(self, spans):
        for tp, (first, end) in spans.items():
            for offset in range(first, end):
                if (entry := self.logs[tp.topic][offset]) is None:  # the marker of a transaction
                    continue
                key, value, headers = entry
                yield ConsumerRecord(tp.topic, 0, offset, 1000, 0, key, value, None, 0, 0, headers)


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()

    class Redriver(Cluster):
        def __init__(self, *_, marks, done, **__):
            self.marks, self.done, self.waiting = marks, done, []

        async def write(self, letter):
            self.waiting.append(letter)

        async def flush(self):
            made.logs[self.marks] += [(letter.redrive_key, b"", []) for letter in self.waiting]
            self.done(self.waiting)

        async def forget(self, marks):
            made.logs[self.marks] += [(mark, None, []) for mark in marks]

        async def remember(self, marks):
            made.logs[self.marks] += [(mark, b"again", []) for mark in marks]

    async def require(*_, read=(), write=()):
        cleanup = {SETTINGS.requests_topic: made.requests_cleanup}
        return {name: Topic(name, 1, 1, cleanup=cleanup.get(name)) for name in [*read, *write]}

    for name, stand_in in (("Admin", lambda _: made), ("Reader", lambda _: made), ("Redriver", Redriver),
                           ("require", require)):  # fmt: skip
        monkeypatch.setattr(module, name, stand_in)
    return made


async def test_marks_whose_topic_was_made_again_are_written_again(cluster):
    """What others have marked since in the new topic is learnt from its first record; what it lacks is put there."""
    letters = DeadLetters(SETTINGS)
    assert (await letters.redrive(DeadLetterFilter(positions=frozenset({(0, 0), (0, 1)})))).redriven == 2
    cluster.made_again, cluster.logs[MARKS] = 1, []
    assert (await DeadLetters(SETTINGS).redrive(DeadLetterFilter(positions=frozenset({(0, 2), (0, 3)})))).redriven == 2
    report = await letters.redrive(DeadLetterFilter())
    assert (report.redriven, report.refused) == (2, {BEFORE: 4})
    assert (await DeadLetters(SETTINGS).redrive(DeadLetterFilter())).refused == {BEFORE: 6}


async def test_a_topic_that_is_not_listed_once_is_forgotten_by_nobody(cluster):
    """A look that misses the marks costs none of them: what was redriven is refused right then and after it."""
    letters = DeadLetters(SETTINGS)
    assert (await letters.redrive(DeadLetterFilter())).redriven == 6
    for _ in range(2):
        cluster.hidden = 1
        await letters.latest(10)
        assert (await letters.redrive(DeadLetterFilter())).refused == {BEFORE: 6}
        cluster.hidden = 1
        assert (await letters.redrive(DeadLetterFilter())).refused == {BEFORE: 6}
    cluster.hidden = 2
    with pytest.raises(BrokerError, match="is not visible: nothing is redriven"):
        await DeadLetters(SETTINGS).redrive(DeadLetterFilter())


async def test_marks_made_anew_are_read_from_their_beginning(cluster):
    """A topic that is shorter than what was read of it is another: its marks are all read."""
    letters = DeadLetters(SETTINGS)
    await letters.redrive(DeadLetterFilter(positions=frozenset((0, offset) for offset in range(4))))
    first, *_ = cluster.logs.pop(MARKS)
    assert len([each for each in await letters.latest(10) if each.redriven]) == 4
    five = (first[0].replace(b"-0-0-", b"-0-5-"), b"", [])
    cluster.logs[MARKS] = [five, first]
    assert {each.offset for each in await letters.latest(10) if each.redriven} == {0, 1, 2, 3, 5}


@pytest.mark.parametrize("cleanup", ["delete", "compact,delete"])
async def test_marks_that_kafka_deletes_are_refused(cluster, cleanup):
    """A topic of marks with a retention would forget them: nothing is redriven, and it is said what to do."""
    cluster.logs[MARKS], cluster.cleanup = [], cleanup
    with pytest.raises(BrokerError, match=f"has cleanup.policy={cleanup}.*set cleanup.policy=compact"):
        await DeadLetters(SETTINGS).redrive(DeadLetterFilter())
    assert cluster.logs[MARKS] == []


async def test_a_letter_that_something_else_excludes_is_there(cluster):
    """Named by its place it is said not to match, and only one that is not there is missing."""
    cluster.logs[LETTERS][1] = letter(1, "timeout")
    chosen = frozenset({(0, 1), (0, 2), (0, 77)})
    report = await DeadLetters(SETTINGS).redrive(DeadLetterFilter(frozenset({"denied"}), positions=chosen))
    assert (report.redriven, report.refused, report.missing) == (1, {OTHERWISE: 1}, [(0, 77)])
    late = await DeadLetters(SETTINGS).redrive(DeadLetterFilter(positions=frozenset({(0, 3)}), since=2.0))
    assert (late.redriven, late.refused, late.missing) == (0, {OTHERWISE: 1}, [])


async def test_one_that_cannot_be_put_back_holds_up_none(cluster):
    """Without key and value, with an id that is none, of a batch that could not be decoded: said, and passed over."""
    key, value, headers = letter(1)
    cluster.logs[LETTERS][1] = None, None, headers
    cluster.logs[LETTERS][2] = key, value, [(name, b"" if name == DLQ + "id" else text) for name, text in headers]
    cluster.logs[LETTERS][3] = key, value, [*headers, (DLQ + "unreadable", b"batch")]
    report = await DeadLetters(SETTINGS).redrive(DeadLetterFilter())
    assert (report.redriven, sum(report.refused.values())) == (3, 3)
    assert {refusal.split(":")[0] for refusal in report.refused} == {
        "its record had no value", "its id is invalid", "its record could not be decoded",
    }  # fmt: skip


@pytest.mark.parametrize(("cleanup", "refused"), [("compact", 1), ("compact,delete", 1), ("delete", 0), (None, 0)])
async def test_a_letter_without_key_is_refused_where_requests_are_compacted(cluster, cleanup, refused):
    """Kafka takes no record without a key into a compacted topic, and its refusal would abort the others' too."""
    cluster.requests_cleanup = cleanup
    cluster.logs[LETTERS][1] = None, *letter(1)[1:]
    refusals = []
    report = await DeadLetters(SETTINGS).redrive(
        DeadLetterFilter(), on_result=lambda letter, refusal: refusals.append((letter.offset, refusal))
    )
    assert (report.redriven, sum(report.refused.values())) == (6 - refused, refused)
    for reason in report.refused:
        assert reason.startswith("it has no key, and topic 'requests' is compacted")
        assert "cleanup.policy=delete" in reason
        assert (1, reason) in refusals


async def test_beyond_a_limit_nothing_is_missing(cluster):
    """Where the limit ends the search, nobody knows of the rest."""
    report = await DeadLetters(SETTINGS).redrive(
        DeadLetterFilter(positions=frozenset({(0, 1), (0, 2), (0, 77)})), limit=1
    )
    assert (report.redriven, report.missing) == (1, [])


async def test_the_latest_are_kept_without_their_bytes(cluster):
    """What a page tells of a letter needs neither value nor headers, which may be megabytes."""
    latest = await DeadLetters(SETTINGS).latest(10)
    assert [(each.request_id, each.value, each.headers) for each in latest[:1]] == [("r0", b"", ())]
    assert latest[0].not_redrivable_reason(SETTINGS.requests_topic) is None, "what is not listed is not missing"


async def test_markers_of_transactions_are_no_letters(cluster):
    """Each takes an offset: the newest letters are found behind as many as there are."""
    letters = cluster.logs[LETTERS]
    cluster.logs[LETTERS] = [None, *letters[:3], *[None] * 40, *letters[3:], None, None]
    found = DeadLetters(SETTINGS)
    assert [each.request_id for each in await found.latest(1)] == ["r5"]
    assert {each.request_id for each in await found.latest(5)} >= {"r3", "r4", "r5"}
    assert len(await found.latest(6)) == 6


async def test_of_letters_of_one_topic_a_route_s_own_are_redriven(cluster):
    """Two routes may read one topic and have one topic of dead letters; letters that name no route are anybody's."""
    for offset, route in ((1, b"a"), (2, b"b"), (3, b"b")):
        cluster.logs[LETTERS][offset][2].append((ROUTE, route))
    assert (await DeadLetters(SETTINGS).redrive(DeadLetterFilter(route="a"), dry_run=True)).redriven == 4
    assert (await DeadLetters(SETTINGS).redrive(DeadLetterFilter(route="b"), dry_run=True)).redriven == 5


def marked(cluster):
    """Return the marks that compaction would keep."""
    latest = {key: value for key, value, _ in cluster.logs[MARKS]}
    return {int(key.split(b"-")[-2]) for key, value in latest.items() if value is not None}


async def test_marks_of_letters_that_are_gone_go(cluster, monkeypatch):
    """Kafka deletes letters: the next run takes back marks that no letter has, if they are many and a day old. Whoever
    follows the marks forgets them, too, and no letter that is there is redriven again.
    """
    monkeypatch.setattr(module, "MANY_MARKS", 2)
    letters, follower = DeadLetters(SETTINGS), DeadLetters(SETTINGS)
    assert (await letters.redrive(DeadLetterFilter())).redriven == 6
    await follower.latest(10)
    cluster.deleted = 4  # the letters 0 to 3
    cluster.logs[LETTERS].append(letter(1))  # letter 1's request was answered again
    cluster.young = 2  # the marks 0 and 1 are older than a day
    assert (await letters.redrive(DeadLetterFilter())).refused == {BEFORE: 3}
    assert marked(cluster) == {0, 1, 2, 3, 4, 5}, "six marks are not more than two for each of three letters"
    cluster.deleted = 5
    assert (await letters.redrive(DeadLetterFilter())).refused == {BEFORE: 2}
    assert marked(cluster) == {1, 2, 3, 4, 5}
    cluster.young = len(cluster.logs[MARKS])
    assert (await letters.redrive(DeadLetterFilter())).refused == {BEFORE: 2}
    assert marked(cluster) == {1, 5}
    await follower.latest(10)
    for each in (letters, follower, DeadLetters(SETTINGS)):
        assert (await each.redrive(DeadLetterFilter())).refused == {BEFORE: 2}
        assert len(each._marked) == 2


async def test_a_dry_run_takes_no_marks_back(cluster, monkeypatch):
    """It writes nothing at all."""
    monkeypatch.setattr(module, "MANY_MARKS", 0)
    await DeadLetters(SETTINGS).redrive(DeadLetterFilter())
    cluster.deleted = cluster.young = 6
    await DeadLetters(SETTINGS).redrive(DeadLetterFilter(), dry_run=True)
    assert marked(cluster) == {0, 1, 2, 3, 4, 5}
