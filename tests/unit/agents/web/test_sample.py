"""The sample of results that pages watch."""

from __future__ import annotations

import json
from types import SimpleNamespace

from agents.web import sample
from agents.web.sample import LiveFilter, Sampler
from tests.browser.fake import FakeTail


def record(key, outcome="ok", host="a.example:443", **more):
    row = {"key": key, "outcome": outcome, "host": host, **more}
    return SimpleNamespace(key=key.encode(), value=json.dumps(row).encode())


def row_of(record):
    return None if record.value == b"{}" else json.loads(record.value)


def watch(**choice):
    """Return a tail and the events that one watcher of it gets."""
    tail, events = FakeTail(), []
    sampler = Sampler(tail.watching, row_of)
    sampler.join(LiveFilter(**choice), events.append)
    return tail, sampler, events


def told(events):
    """Return keys and dropped of the only event."""
    [event] = events
    value = json.loads(event.partition(b"data: ")[2])
    return [row["key"] for row in value["rows"]], value["dropped"]


def test_rows_come_with_their_address_and_without_their_result():
    """A row has what a page shows of it and the address of the whole; a record that is no result is left out."""
    _, sampler, events = watch()
    sampler.look([record("a/b", result={"x": 1}, id="1"), SimpleNamespace(key=b"", value=b"{}")], 0)
    value = json.loads(events[0].partition(b"data: ")[2])
    assert value["rows"] == [{"key": "a/b", "outcome": "ok", "host": "a.example:443", "href": "/tables/answers/a%2Fb"}]


def test_filters_let_through_what_they_name():
    """Outcome, the key's beginning and the host's beginning are each judged, by the bytes and by the row."""
    records = [
        record("item-1"), record("item-2", "timeout"), record("other", "timeout"),
        record("item-3", "timeout", "b.example:443"), record("item-4", note='"timeout" a.example'),
    ]  # fmt: skip
    _, sampler, events = watch(outcome="timeout", key="item", host="a.")
    sampler.look(records, 0)
    assert told(events) == (["item-2"], 0)


def test_a_result_without_a_key_is_found_by_its_id():
    """Its id stands where others have a key, as in the table."""
    _, sampler, events = watch(key="order-")
    sampler.look([SimpleNamespace(key=None, value=record(name).value) for name in ("order-7", "other")], 0)
    assert told(events) == (["order-7"], 0)
    many = [SimpleNamespace(key=None, value=record(f"order-{number}").value) for number in (7, *range(100, 160))]
    _, sampler, events = watch(key="order-7")
    sampler.look(many, 0)
    assert told(events) == (["order-7"], 0), "what cannot match takes no place of what does, and was not dropped"


def test_only_the_newest_are_shown_and_the_others_counted():
    """Of many the last are shown; how many were not is told, with those that the tail left out."""
    _, sampler, events = watch()
    sampler.look([record(f"k{number}") for number in range(sample.MOST + 30)], 1_000)
    keys, dropped = told(events)
    assert (keys[0], keys[-1], len(keys)) == ("k30", f"k{sample.MOST + 29}", sample.MOST)
    assert dropped == 1_030


def test_nothing_to_tell_is_no_event():
    """A choice that nothing fits gets no event, unless something was left out."""
    _, sampler, events = watch(key="z")
    sampler.look([record("a")], 0)
    assert events == []
    sampler.look([record("a")], 7)
    assert told(events) == ([], 7)


def test_an_event_is_encoded_once_for_all_of_one_choice():
    """Two who chose the same get the very same bytes."""
    _, sampler, events = watch()
    sampler.join(LiveFilter(), events.append)
    sampler.look([record("a")], 0)
    assert events[0] is events[1]


def test_the_tail_is_watched_while_somebody_watches():
    """The first who joins begins to watch the tail, the last who leaves ends it, and it can begin again."""
    tail, sampler, events = watch()
    put = events.append
    assert len(tail.watchers) == 1
    sampler.leave(LiveFilter(key="unknown"), put)
    for watching in (0, 1, 0):
        (sampler.join if watching else sampler.leave)(
            LiveFilter(), sampler._puts[LiveFilter()][0] if not watching else put
        )
        assert len(tail.watchers) == watching
