"""How figures, keys and hosts are written."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from agents.cluster.cluster_status import host_status
from agents.tables.rows import decode_key
from agents.web import columns, formatting
from agents.web.columns import TableView, quantile
from models import strictjson
from models.histogram import Histogram

DURATIONS = {
    0: "0 ms", 0.0004: "0.4 ms", 0.0123: "12.3 ms", 0.123: "123 ms", 1.244: "1.24 s", 59.9: "59.9 s", 185: "3 min 5 s",
    7_440: "2 h 4 min", 266_400: "3 d 2 h", 86_400 * 40: "40 d", None: "unknown", "x": "unknown",
}  # fmt: skip


@pytest.mark.parametrize(("value", "text"), DURATIONS.items())
def test_durations(value, text):
    """Seconds are written in the unit that suits them; what is no figure is unknown."""
    assert formatting.duration(value) == text


def test_other_figures():
    """Counts, shares, sizes, ages and times are written with units, and as unknown when they are."""
    assert [formatting.number(each) for each in (0, 1_234_567, 12.34, 99.0, 123.4, None)] == [
        "0", "1,234,567", "12.3", "99", "123", "unknown",
    ]  # fmt: skip
    shares = [(1, "100 %"), (0.99999, "99.9 %"), (0.934, "93.4 %"), (0.0001, "<0.1 %"), (0, "0 %"), (None, "unknown")]
    assert [formatting.percent(share) for share, _ in shares] == [text for _, text in shares]
    sizes = [(512, "512 B"), (1_536, "1.5 KiB"), (3 << 20, "3 MiB"), (1 << 60, "1048576 TiB"), (None, "unknown")]
    assert [formatting.size(each) for each, _ in sizes] == [text for _, text in sizes]
    assert [formatting.age(each) for each in (12.7, 185, None)] == ["12 s", "3 min 5 s", "unknown"]
    assert [formatting.milliseconds(each) for each in (12, None)] == ["12 ms", "unknown"]
    assert [formatting.clock(each) for each in ("2026-01-02T03:04:05Z", "nonsense")] == [
        "2026-01-02 03:04:05",
        "unknown",
    ]
    assert len(formatting.clock(datetime.now(UTC).isoformat())) == len("03:04:05")
    assert [formatting.severity(each) for each in ("ok", "timeout", "denied", "<x>")] == ["ok", "bad", "warn", "warn"]


def test_what_is_no_figure_is_unknown():
    """Whatever somebody else wrote in a number's or a time's place: nothing of it breaks a page, or becomes 0."""
    for write in (formatting.number, formatting.duration, formatting.milliseconds, formatting.age, formatting.size,
                  formatting.percent):  # fmt: skip
        assert [write(value) for value in (None, "7", [], 10**400, math.inf, math.nan)] == ["unknown"] * 6
    assert formatting.clock("0001-01-01T00:00:00+01:00") == "unknown"


def test_a_value_in_one_line_has_its_digits():
    """As the API and the button Copy have them."""
    value = strictjson.loads(b'[10.10,0.29999999999999998,-0,"\xc3\xab"]', exact=True)
    assert [formatting.inline(each) for each in value] == ["10.10", "0.29999999999999998", "-0", '"\u00eb"']


def test_keys_can_be_seen():
    """What does not print, turns the text round or only makes room is quoted and escaped."""
    shown = {"a b": "a b", "": '""', " ": '" "', "a\n": '"a\\n"', "\u202ex": '"\\u202ex"', "x\u2028": '"x\\u2028"'}
    assert {text: formatting.visible(text) for text in shown} == shown


def test_a_document_is_counted_no_further_than_needed():
    """Counting values stops at the bound, however deep or wide."""
    assert formatting.nodes({"a": [1, 2, {"b": None}]}, 100) == 6
    assert formatting.nodes([[]] * 10_000, 50) == 50


def test_addresses_lead_back_to_their_keys():
    """Every key's address is one segment that a browser leaves as it is, and names the key again."""
    for key in ("a", "a/b?c#d%", "ü", "{x}", "\n"):
        address = columns.address("answers", {"key": key})
        assert address.count("/") == 3
    for key in ("", ".", ".."):
        path, _, query = columns.address("answers", {"key": key}).partition("?")
        assert query == "encoding=base64"
        assert decode_key(path.rpartition("/")[2].replace("%3D", "=")) == key.encode()
    assert columns.address("hosts", {"key_base64": "/w=="}) == "/tables/hosts/%2Fw%3D%3D?encoding=base64"
    assert decode_key("_w") == decode_key("/w==") == b"\xff"
    with pytest.raises(ValueError):
        decode_key("!")


def test_a_table_we_do_not_know_shows_its_plain_fields():
    """Columns of another table are the fields of its rows that are neither lists nor objects."""
    rows = [{"a": 1, "b": {}}, {"c": "x", "d": []}]
    assert [each.title for each in columns.columns_of("other", rows)] == ["a", "c"]
    assert columns.key_text("other", rows[0]) == ""


def test_what_was_asked_is_kept_in_addresses():
    """Sorting turns round, keeps search and filters, and begins at the first page."""
    asked = TableView.of("answers", {"prefix": "a&b", "outcome": "ok", "host": "", "cursor": "c", "sort": "key"})
    assert asked.sorted_by("key") == "/tables/answers?prefix=a%26b&outcome=ok&sort=-key"
    assert asked.sorted_by("at") == "/tables/answers?prefix=a%26b&outcome=ok&sort=at"
    assert [asked.order(each) for each in ("key", "at")] == ["ascending", "none"]
    assert asked.but(cursor="d").endswith("&cursor=d")
    assert (asked.value("outcome"), asked.value("host")) == ("ok", "")


def test_a_host_is_as_bad_as_its_worst_breaker():
    """The worst state counts and how many say so; sums are unknown when one is."""
    told = [{"breaker": "closed", "in_flight": 2, "users": 5, "limit": 32}, {"breaker": "half_open", "in_flight": 1,
            "users": 1, "limit": 32, "held_seconds": 3.0}]  # fmt: skip
    both = host_status({"workers": told})
    assert (both.breaker, both.with_it, both.workers, both.in_flight, both.waiting) == ("half-open", 1, 2, 3, 3)
    assert (both.limit, both.held_seconds) == (64, 3.0)
    assert host_status({"workers": [*told, {"breaker": "odd"}]}).breaker == "odd"
    assert host_status({"workers": [*told, {"breaker": "closed"}]}).in_flight is None
    assert host_status({}).breaker is None


def test_a_quantile_of_nothing_is_unknown():
    """Quantiles come from our own kind of histogram, and are unknown of any other."""
    histogram = Histogram()
    assert quantile({"latency": histogram.row()}, "p50") is None
    histogram.add(0.02)
    assert quantile({"latency": histogram.row()}, "p50") == pytest.approx(0.0175)
    for row in ({}, {"latency": None}, {"latency": {"le": [1], "counts": [1, 1], "sum": 1}}):
        assert quantile(row, "p99") is None


def test_a_rate_that_is_shared_is_not_added_up():
    """Of two workers with a limit of 50 each it is 100 a second; with one of 50 for both it is 50."""
    own = [{"breaker": "closed", "rate": 50.0, "share": None}] * 2
    shared = [{"breaker": "closed", "rate": 50.0, "share": share} for share in (30.0, 20.0)]
    assert [host_status({"workers": workers}).rate for workers in (own, shared)] == [100.0, 50.0]
