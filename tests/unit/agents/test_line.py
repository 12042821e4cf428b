"""Lines: which requests wait together, and which hosts keep up with what waits."""

from __future__ import annotations

import pytest

from agents.answer.line import SOME, Line, bucket_of, limits_of, line_name
from agents.answer.parsed_requests import parse_request
from models.request import Request
from models.source import Limits, Source, Sources
from models.template import UrlTemplate
from streams.http.bucket import TokenBucket
from streams.http.limits import Bulkhead
from streams.http.url import origin_of
from tests.fakes import Clock

OWN = Limits(concurrency=3, waiting=7)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://example.org/a?b#c", "example.org"),
        ("https://EXAMPLE.org:443", "example.org"),
        ("http://example.org:80/", "example.org"),
        ("http://example.org:8080?x=http://other/", "example.org:8080"),
        ("http://user:pass@example.org/", "example.org"),
        ("http://[::1]:9/a@b", "[::1]:9"),
        ("nonsense", ""),
    ],
)
def test_a_line_is_named_by_host_and_port(url: str, name: str) -> None:
    """However a URL writes them, the same host and port are one line."""
    assert origin_of(url).authority == name


def test_a_source_has_a_line_of_its_own() -> None:
    """What waits for a source, or for its token, is nobody else's wait, also on the same host; its limits hold."""
    sources = Sources({
        "plain": Source("plain", url=UrlTemplate("http://h/a")),
        "own": Source("own", url=UrlTemplate("http://h/b"), limits=OWN),
        "function": Source("function", call="os:getcwd"),
    })  # fmt: skip
    hosts = {"h": Limits(concurrency=5)}
    parsed = [parse_request(Request(source=name), sources) for name in sources.by_name]
    assert [(line_name(each), limits_of(each, hosts).concurrency) for each in parsed] == [
        ("source plain", 5), ("source own", 3), ("source function", 8),
    ]  # fmt: skip
    own, other = parse_request(Request(url="http://h/a")), parse_request(Request(url="http://other/"))
    assert (line_name(own), limits_of(own, hosts)) == ("h", hosts["h"])
    assert (line_name(other), limits_of(other, hosts)) == ("other", Limits())


def crowded(waiting: int = 1_000) -> Line:
    line = Line("h", Limits(concurrency=32), waiting, seconds=30)
    line.answered(90.0)  # before anybody waits: says nothing
    line.crowded(100.0)
    return line


def test_a_host_that_says_nothing_for_a_second_does_not_keep_up() -> None:
    """From when the line is crowded on it has a second for its first answer, and for each one after that."""
    line = crowded()
    assert line.keeps_up(100.99)
    assert not line.keeps_up(101.0)
    for tenth in range(20):
        line.answered(100.0 + tenth / 10)
        line.answered(100.0 + tenth / 10)
        line.answered(100.0 + tenth / 10)
        line.answered(100.0 + tenth / 10)
    assert line.keeps_up(102.8)
    assert not line.keeps_up(102.91)
    assert "h has 1032 requests to answer and none was answered for 1 s: no more may wait for it" in str(
        line.refusal(102.91)
    )


def test_who_is_refused_in_the_same_second_is_told_the_same() -> None:
    """The error is made once for all of them, and anew when what it says has changed."""
    line = crowded()
    line.answered(100.0)
    assert line.refusal(102.0) is line.refusal(102.2)
    assert "for 3 s" in str(line.refusal(103.0))


@pytest.mark.parametrize(("a_second", "keeps_up"), [(100, True), (40, True), (30, False), (5, False)])
def test_a_host_has_to_answer_what_waits_before_its_deadline(a_second: int, keeps_up: bool) -> None:
    """A thousand that wait for 30 s need 34 answers a second, whenever one looks."""
    line = crowded()
    verdicts = []
    for number in range(60 * a_second):
        now = 100.0 + number / a_second
        line.answered(now)
        if now > 105 and number % a_second == 0:
            verdicts.append(line.keeps_up(now))
    assert set(verdicts) == {keeps_up}


def test_a_host_that_stops_answering_is_noticed_however_fast_it_was() -> None:
    """A thousand answers a second ago count for nothing once it hangs."""
    line = crowded()
    for number in range(3_000):
        line.answered(100.0 + number / 1000)
    assert line.keeps_up(103.9)
    assert not line.keeps_up(104.0)


def test_a_host_with_a_rate_keeps_up_by_its_rate() -> None:
    """What limits.rate lets through is no slowness of the host: what it may not have yet waits in Kafka, unrefused."""
    slow = Line("h", Limits(rate=0.5), 1_000, seconds=30)
    assert slow.most == 7
    slow.crowded(100.0)
    verdicts = []
    for second in range(200):
        if second % 2 == 1:
            slow.answered(100.0 + second)
        verdicts.append(slow.keeps_up(100.5 + second))
    assert all(verdicts)
    assert not slow.keeps_up(299.0 + 1 + SOME / 0.5), "one that hangs is noticed nevertheless"
    assert Line("h", Limits(rate=500), 1_000, seconds=30).most == 1_032


def test_a_worker_that_waits_for_its_share_does_not_blame_the_host() -> None:
    """Without a share nothing is asked, so nothing is refused; once it is there the host has its second."""
    clock = Clock(100.0)
    bucket = TokenBucket(50, 1, clock)
    bucket.share(0.0, expected=25.0)
    line = Line("h", Limits(rate=50, shared=True), 1_000, 30, bucket)
    line.crowded(clock.now)
    for _ in range(60):
        clock.now += 1
        assert line.keeps_up(clock.now)
    bucket.share(25.0, expected=25.0)
    assert line.keeps_up(clock.now + 1)
    assert line.most == 375
    assert not line.keeps_up(clock.now + 2)


def test_a_host_that_hangs_is_found_out_though_the_share_is_small() -> None:
    """Others use the rate, and nothing here waits for it: what is in flight has no answer, so no more may wait."""
    clock = Clock(100.0)
    bucket = TokenBucket(50, 1, clock)
    bucket.share(4.0, expected=25.0)
    line = Line("h", Limits(rate=50, shared=True), 1_000, 30, bucket)
    line.crowded(clock.now)
    assert line.keeps_up(100.9)
    clock.now = 102.0
    assert not line.keeps_up(102.0)


def test_a_request_s_bucket_is_that_of_its_source_or_of_its_host() -> None:
    """By the name under which it is shared; a source without limits of its own has its host's."""
    shared = {name: Bulkhead(Limits(rate=5, shared=True)) for name in ("source own", "h")}
    sources = Sources({
        "plain": Source("plain", url=UrlTemplate("http://h/a")),
        "own": Source("own", url=UrlTemplate("http://h/b"), limits=OWN),
        "function": Source("function", call="os:getcwd"),
    })  # fmt: skip
    found = {name: bucket_of(parse_request(Request(source=name), sources), shared) for name in sources.by_name}
    assert found == {"plain": shared["h"].bucket, "own": shared["source own"].bucket, "function": None}
    assert bucket_of(parse_request(Request(url="http://h/x")), shared) is shared["h"].bucket
    assert bucket_of(parse_request(Request(url="http://other/x")), shared) is None
