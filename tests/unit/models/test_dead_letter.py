from __future__ import annotations

import pytest

from models.dead_letter import DLQ, DeadLetter, DeadLetterFilter, read_count, read_dead_letter

SAID = {
    "topic": b"requests", "partition": b"3", "offset": b"42", "timestamp": b"1500", "first": b"requests-0-7",
    "group": b"g", "delivery.count": b"2", "id": b"a", "host": b"h:80", "message": b"no", "outcome": b"timeout",
}  # fmt: skip


def letter(*own: tuple[str, bytes | None], at: int = 2_000, **said: bytes | None) -> DeadLetter:
    """Read a letter with these headers of its own, and what a worker says, changed."""
    headers = [*own, *(("__dlq.errors." + name, content) for name, content in (SAID | said).items())]
    return read_dead_letter((1, 9), at, b"k", b"v", headers)


def test_a_letter_says_what_went_wrong_and_where():
    """Position, time and every header of a worker's letter are read; its mark is the request's own place and time."""
    read = letter(("mine", b"1"))
    assert read[:5] == (1, 9, 2.0, b"k", b"v")
    assert (read.request_id, read.outcome, read.message, read.host) == ("a", "timeout", "no", "h:80")
    assert (read.topic, read.origin_partition, read.origin_offset, read.requested_at) == ("requests", 3, 42, 1.5)
    assert (read.attempts, read.left_out, read.redriven, read.position) == (2, None, False, (1, 9))
    assert read.redrive_key == b"requests-3-42-1500"
    assert read.not_redrivable_reason("requests") is None


def test_it_becomes_a_request_with_its_id_count_and_first_place():
    """Its own headers stay, null ones too; what was said of its failure goes, but what must go on."""
    headers = letter(("mine", b"1"), ("null", None), ("ce_id", b"old"), ("ce_type", b"t")).request_headers()
    assert headers == [
        ("mine", b"1"), ("null", None), ("ce_type", b"t"), ("__dlq.errors.first", b"requests-0-7"),
        ("__dlq.errors.delivery.count", b"2"), ("ce_id", b"a"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "flaw"),
    [
        ({"topic": None}, "lacks the headers of a dead letter"),
        ({"offset": b"x"}, "lacks the headers of a dead letter"),
        ({"partition": b"9" * 30}, "lacks the headers of a dead letter"),
        ({"id": None}, "lacks the headers of a dead letter"),
        ({"topic": b"other"}, "came from topic 'other', not 'requests'"),
        ({"value.bytes": b"2000"}, "its value of 2000 bytes was too large to keep"),
        ({"id": b"x" * 129}, "its id is invalid: id: "),
        ({"id": b""}, "its id is invalid: id: "),
        ({"unreadable": b"batch"}, "could not be decoded: send the request again"),
    ],
)
def test_why_one_cannot_be_redriven_is_said(said, flaw):
    """What others wrote to the topic, another installation's, one without value, an id that could not be kept."""
    assert flaw in (letter(**said).not_redrivable_reason("requests") or "")


def test_the_record_of_a_route_comes_back_as_it_was():
    """Without an id that it did not have, or with its own; a long topic makes no id that cannot be put back."""
    ours = [("__dlq.errors.first", b"requests-0-7"), ("__dlq.errors.delivery.count", b"2")]
    assert letter(("mine", b"1"), route=b"r", id=b"x" * 300).request_headers() == [("mine", b"1"), *ours]
    assert letter(("ce_id", b"\xff"), route=b"r").request_headers() == [("ce_id", b"\xff"), *ours]
    read = letter(route=b"r", id=b"x" * 300)
    reasons = [read._replace(key=key, value=value).not_redrivable_reason("requests")
               for key, value in ((b"k", b"v"), (None, b"v"), (b"k", None), (None, None))]  # fmt: skip
    assert reasons == [None, None, None, "its record had neither key nor value"]


@pytest.mark.parametrize("key", [None, b"k"])
def test_one_without_a_value_is_no_request(key):
    """Nothing could come of it but another letter, and aiokafka sends no record that has neither key nor value."""
    assert "had no value" in (letter()._replace(key=key, value=None).not_redrivable_reason("requests") or "")


def test_what_is_no_letter_is_read_all_the_same():
    """Others may write to the topic too: nothing of it is believed, nothing raises."""
    read = read_dead_letter(
        (0, 0), 0, None, None, [("a", b"\xff"), ("__dlq.errors.id", b"\xff"), ("__dlq.errors.topic", None)]
    )
    assert (read.topic, read.request_id, read.attempts) == (None, "�", 0)


@pytest.mark.parametrize(("text", "count"), [("7", 7), (None, 0), ("-1", 0), ("٣", 0), ("9" * 10, 0), ("", 0)])
def test_only_a_small_number_is_a_count(text, count):
    """A planted count is not believed."""
    assert read_count(text) == count


@pytest.mark.parametrize(
    ("choice", "taken"),
    [
        (DeadLetterFilter(), True),
        (DeadLetterFilter(outcomes=frozenset({"timeout", "denied"})), True),
        (DeadLetterFilter(outcomes=frozenset({"denied"})), False),
        (DeadLetterFilter(hosts=frozenset({"h"})), True),
        (DeadLetterFilter(hosts=frozenset({"h:80"})), True),
        (DeadLetterFilter(hosts=frozenset({"h:81"})), False),
        (DeadLetterFilter(ids=frozenset({"a"})), True),
        (DeadLetterFilter(ids=frozenset({"b"})), False),
        (DeadLetterFilter(positions=frozenset({(1, 9)})), True),
        (DeadLetterFilter(positions=frozenset({(9, 1)})), False),
        (DeadLetterFilter(since=2.0), True),
        (DeadLetterFilter(since=2.1), False),
        (DeadLetterFilter(until=2.0), False),
        (DeadLetterFilter(until=2.1), True),
        (DeadLetterFilter(outcomes=frozenset({"timeout"}), ids=frozenset({"b"})), False),
    ],
)
def test_a_choice_takes_what_matches_all_of_it(choice, taken):
    """Each kind that is given must match, by any of its values; times from `since` to before `until`."""
    assert choice.matches(letter()) is taken


def test_a_letter_without_host_is_chosen_by_no_host():
    """What was no request has no host, and an empty one matches nothing."""
    assert not DeadLetterFilter(hosts=frozenset({"h"})).matches(letter(host=None))
    assert DeadLetterFilter(outcomes=frozenset({"timeout"})).matches(letter(host=None))


def test_letters_are_chosen_by_what_their_headers_say_of_the_failure():
    """Source, status, deliveries, and whether a retry may help: of an older worker's letter its outcome decides."""

    def letter(**headers):
        found = [(DLQ + name.replace("_", "."), content) for name, content in headers.items()]
        return read_dead_letter((0, 0), 0, None, None, found)

    busy = letter(outcome=b"upstream_error", source=b"s", status=b"503", retryable=b"true", delivery_count=b"3")
    gone = letter(outcome=b"upstream_error", source=b"t", status=b"404", delivery_count=b"1")
    older = letter(outcome=b"timeout", delivery_count=b"1")
    odd = letter(outcome=b"denied", status=b"x", retryable=b"yes")
    for chosen, expected in (
        (DeadLetterFilter(retryable=True), [True, False, True, False]),
        (DeadLetterFilter(sources=frozenset({"s"})), [True, False, False, False]),
        (DeadLetterFilter(statuses=frozenset({404, 503})), [True, True, False, False]),
        (DeadLetterFilter(max_deliveries=1), [False, True, True, True]),
        (DeadLetterFilter(retryable=True, max_deliveries=2), [False, False, True, False]),
    ):
        assert [chosen.matches(each) for each in (busy, gone, older, odd)] == expected
