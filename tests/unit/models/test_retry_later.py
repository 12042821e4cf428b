"""Trying again later: delays, names of topics, and what the headers of a delayed record say."""

from __future__ import annotations

import pytest

from models.retry_later import (
    DUE,
    SINCE,
    TRIES,
    RetryLater,
    delay_topics,
    due_of,
    is_delay_topic,
    later_headers,
    next_delay,
    parse_delay,
    tries_of,
)


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2), ("1m", 60), ("10m", 600), ("1h", 3600), ("7d", 604_800)])
def test_a_delay_is_a_whole_number_with_a_unit(text, seconds):
    """Seconds, minutes, hours and days."""
    assert parse_delay(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "1", "1.5m", "1 m", "-1m", "8d", "1w", "1m ", "99999999999s"])
def test_what_is_no_delay_is_refused(text):
    """Also one of over seven days, and one that would come at once."""
    with pytest.raises(ValueError, match=r"is not a delay|is longer than 7 days"):
        parse_delay(text)


def test_topics_are_named_by_group_and_seconds():
    """Equal delays share a topic; another group's is none of ours, nor is a topic that only looks like one."""
    assert delay_topics("g.1", [3600, 60, 60]) == {"g.1-later-60s": 60, "g.1-later-3600s": 3600}
    names = "g.1-later-60s", "gx1-later-60s", "g.1-later-s"
    assert [is_delay_topic("g.1", name) for name in names] == [True, False, False]


def test_each_try_counts_on_from_the_headers():
    """The tries and the first failure are kept from one delayed record to the next; past the last there is none."""
    policy = RetryLater((60, 600))
    first = later_headers((), 1000.0, 1060.0)
    assert (next_delay(policy, ()), next_delay(policy, first)) == (60, 600)
    second = later_headers(first, 1061.0, 1661.0)
    assert dict(second) == {TRIES: b"2", SINCE: b"1000000", DUE: b"1661000"}
    assert next_delay(policy, second) is None
    assert next_delay(RetryLater((60, 600, 3600)), second) == 3600  # the policy may have grown meanwhile


@pytest.mark.parametrize("content", [None, b"", b"x", b"-1", "٣".encode(), b"9" * 16])
def test_headers_that_are_no_numbers_count_as_none(content):
    """Anybody may write to a topic."""
    assert tries_of([(TRIES, content)]) == 0
    assert due_of([(DUE, content)], 5_000, 60) == 65.0


def test_nothing_is_due_later_than_its_delay_after_it_was_written():
    """The clock of who wrote the header may be ahead; a record without one, as an operator writes it, waits as long."""
    assert due_of([(DUE, b"99000000")], 5_000, 60) == 65.0
    assert due_of([(DUE, b"64000")], 5_000, 60) == 64.0
    assert due_of([], 5_000, 60) == 65.0
