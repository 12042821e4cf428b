"""How long an answer may be used, by what its upstream says and its source allows."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from models.source import MAX_STALE, CachePolicy
from streams.cache.freshness import HEURISTIC, Freshness, Head, failure_lifetime, freshness, http_date, parse_directives

NOW = 1_800_000_000.0
DAY = 86_400.0
USUAL = CachePolicy(ttl=60.0)


def head(cache_control: str | None = None, status: int = 200, delay: float = 0.0, **others: str) -> Head:
    """Make a head; of headers given by name, `_` stands for a hyphen."""
    headers = CIMultiDict({name.replace("_", "-"): value for name, value in others.items()})
    if cache_control is not None:
        headers["cache-control"] = cache_control
    return Head(status, headers, delay)


def read(cache_control: str | None = None, policy: CachePolicy = USUAL, **others: Any) -> Freshness | None:
    """Read one answer's head."""
    return freshness([head(cache_control, **others)], policy, NOW)


def date(seconds: float) -> str:
    """Write a time so many seconds from now as HTTP does."""
    return formatdate(NOW + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, (60, 0, MAX_STALE)),
        ("", (60, 0, MAX_STALE)),
        ("public", (60, 0, MAX_STALE)),
        ("max-age=5", (5, 0, MAX_STALE)),
        ("Max-Age=5", (5, 0, MAX_STALE)),
        ('max-age="7"', (7, 0, MAX_STALE)),
        ("max-age=100000", (60, 0, MAX_STALE)),
        ("max-age=5, s-maxage=9", (9, 0, 0)),
        ("s-maxage=9,max-age=5, stale-while-revalidate=7, stale-if-error=7", (9, 0, 0)),
        ("max-age=0", (0, 0, MAX_STALE)),
        ("max-age=5, max-age=5", (5, 0, MAX_STALE)),
        (", ,max-age=5,", (5, 0, MAX_STALE)),
        ("max-age=0005", (5, 0, MAX_STALE)),
        ("x-max-age=5", (60, 0, MAX_STALE)),
        ('extension="max-age=5"', (60, 0, MAX_STALE)),
        ("no-cache", (0, 0, 0)),
        ("no-cache, max-age=50", (0, 0, 0)),
        ('no-cache="Set-Cookie"', (0, 0, 0)),
        ("max-age=5,stale-if-error=20", (5, 0, 20)),
        ("stale-if-error=99999", (60, 0, MAX_STALE)),
        ("max-age=5, stale-while-revalidate=20", (5, 20, MAX_STALE)),
        ("max-age=5, stale-while-revalidate=99999", (5, MAX_STALE, MAX_STALE)),
        ("max-age=5, must-revalidate", (5, 0, 0)),
        ("max-age=5, must-revalidate, stale-while-revalidate=9, stale-if-error=9", (5, 0, 0)),
        ("proxy-revalidate", (60, 0, 0)),
        ("no-store", None),
        ("max-age=5, No-Store", None),
        ("private", None),
        ('private="x-user", max-age=5', None),
        ('extension="no-store, private", max-age=5', (5, 0, MAX_STALE)),
        ("max-age=99999999999999999999999", (60, 0, MAX_STALE)),
    ],
)
def test_cache_control_is_honoured_within_our_limits(said: str | None, expected: tuple[float, ...] | None) -> None:
    """Directives of RFC 9111 and RFC 5861, as a shared cache reads them."""
    found = read(said)
    assert (found and found[:3]) == expected


@pytest.mark.parametrize(
    "said",
    [
        "max-age=soon", "max-age=-5", "max-age=5, max-age=9", "max-age=1.5", "max-age", "max-age=", "max-age='5'",
        "max-age =5", "max-age= 5", "max-age=5s", "max-age=5;x=y", "max-age=\u0665", 'max-age="5', "s-maxage=-1",
        "s-maxage=soon, max-age=5",
    ],
)  # fmt: skip
def test_freshness_that_is_not_valid_is_none(said: str) -> None:
    """RFC 9111, section 4.2.1: what is no number of seconds, or two of them, makes an answer stale, not silent."""
    found = read(said, expires=date(20))
    assert found is not None
    assert (found.fresh, found.shared) == (0, False)


@pytest.mark.parametrize(
    ("said", "policy", "expected"),
    [
        (None, CachePolicy(60, 10, 20), (10, 20)),
        ("stale-while-revalidate=5, stale-if-error=6", CachePolicy(60, 10, 20), (5, 6)),
        ("stale-while-revalidate=50, stale-if-error=60", CachePolicy(60, 10, 20), (10, 20)),
        ("stale-while-revalidate=50, stale-if-error=60", CachePolicy(60, 0, 0), (0, 0)),
        ("stale-while-revalidate=5000, stale-if-error=5000", CachePolicy(60, 1000, 2000), (1000, 2000)),
        (None, CachePolicy(60, 1000, 2000), (1000, 2000)),
        ("must-revalidate", CachePolicy(60, 10, 20), (0, 0)),
        ("s-maxage=5", CachePolicy(60, 10, 20), (0, 0)),
        ("stale-if-error=soon", CachePolicy(60, 10, 20), (10, 20)),
    ],
)
def test_a_source_says_how_stale_an_answer_may_get(
    said: str | None, policy: CachePolicy, expected: tuple[float, float]
) -> None:
    """What the source says holds where the upstream is silent, and bounds it where it is not; a ban stays a ban."""
    found = read(said, policy)
    assert found is not None
    assert found[1:3] == expected


@pytest.mark.parametrize(
    ("age", "left", "shared"), [(30, 60, True), (60, 60, True), (100, 20, True), (3_600, 0, False)]
)
def test_what_comes_stale_has_the_rest_of_its_time(age: int, left: int, shared: bool) -> None:
    """The seconds of RFC 5861 count from when an answer became stale, wherever it was kept by then."""
    found = read("max-age=60, stale-while-revalidate=60, stale-if-error=60", age=str(age))
    assert found is not None
    assert (found.while_revalidate, found.if_error, found.shared) == (left, left, shared)


@pytest.mark.parametrize(
    ("said", "expires", "others", "fresh"),
    [
        (None, 20, {}, 20),
        (None, 20, {"date": date(-10)}, 21),
        (None, 20, {"date": "yesterday"}, 20),
        (None, -20, {}, 0),
        (None, 100_000, {}, 60),
        ("max-age=5", 20, {}, 5),
        ("max-age=soon", 20, {}, 0),
        ("public", 20, {}, 20),
        (None, 20, {"age": "15"}, 5),
        ("max-age=50", None, {"age": "15"}, 35),
        ("s-maxage=50", None, {"age": "15"}, 35),
        ("max-age=50", None, {"age": "51"}, 0),
        ("max-age=50", None, {"age": "old"}, 50),
        ("max-age=50", None, {"age": "-3"}, 50),
        ("max-age=100", None, {"age": "15"}, 60),
        ("max-age=50", None, {"age": "15, 0"}, 35),
        ("max-age=50", None, {"age": "0, 15"}, 50),
        ("max-age=50", None, {"age": "15;x"}, 50),
        ("max-age=50", None, {"age": "15.0"}, 50),
        ("max-age=50", None, {"date": date(-21)}, 30),
        ("max-age=50", None, {"date": date(-21), "age": "40"}, 10),
        ("max-age=50", None, {"date": date(100)}, 50),
        ("max-age=50", None, {"age": "15", "delay": 3.0}, 32),
        (None, 20, {"date": date(10)}, 10),
    ],
)
def test_expires_and_age_are_honoured(
    said: str | None, expires: float | None, others: dict[str, Any], fresh: float
) -> None:
    """Expires counts from the answer's Date where there is no max-age, and time spent on the way is spent."""
    if expires is not None:
        others = others | {"expires": date(expires)}
    found = read(said, USUAL, **others)
    assert found is not None
    assert found.fresh == fresh


@pytest.mark.parametrize(
    "expires",
    [
        "0", "-1", "", "soon", "Mon, 99 Foo 2026 00:00:00 GMT", "Thu, 18 Aug 2050 02:01:18 AEST",
        "Thu, 18 Aug 2050 02:01:18 UTC", "Thu, 18 Aug 50 02:01:18 GMT", "Thu 18 Aug 2050 02:01:18 GMT",
        "Thu, 18  Aug 2050 02:01:18 GMT", "Thu, 18-Aug-2050 02:01:18 GMT", "Thu, 18 Aug 2050 02.01.18 GMT",
        "Thu, 18 Aug 2050 2:01:18 GMT", "Thu, 31 Feb 2050 02:01:18 GMT", "Thu, 18 Aug 2050 02:01:18 +0000",
        "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT",
    ],
)  # fmt: skip
def test_an_expires_that_is_no_date_is_past(expires: str) -> None:
    """RFC 9111, section 5.3: such an answer has expired already."""
    found = read(expires=expires)
    assert found is not None
    assert found.fresh == 0


@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT"])
def test_an_old_form_of_date_is_read(form: str) -> None:
    """RFC 9110, section 5.6.7: a recipient takes the obsolete forms too."""
    found = read(expires=time.strftime(form, time.gmtime(NOW + 20)))
    assert found is not None
    assert found.fresh == 20


def test_a_date_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The asctime form of RFC 9110, section 5.6.7, has no zone: the worker's must not change what it means."""
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    try:
        found = read(expires=time.asctime(time.gmtime(NOW - 20)))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found is not None
    assert found.fresh == 0


@pytest.mark.parametrize("vary", ["*", " * "])
def test_an_answer_that_varies_with_anything_is_not_kept(vary: str) -> None:
    """Vary: * matches no other request; any other names headers, which are part of the key."""
    assert read(vary=vary) is None
    assert read(vary="Accept, Origin") is not None


@pytest.mark.parametrize("vary", ["Accept, *", "*, Accept", "Accept,*"])
def test_a_star_among_other_names_counts_too(vary: str) -> None:
    """RFC 9111, section 4.1: a Vary with a member * always fails to match."""
    assert read(vary=vary) is None


@pytest.mark.parametrize(
    "lines",
    [
        [("Cache-Control", "max-age=60"), ("Cache-Control", "no-store")],
        [("Cache-Control", "public"), ("cache-control", "private")],
        [("Vary", "Accept"), ("Vary", "*")],
    ],
)
def test_what_later_header_lines_say_counts_too(lines: list[tuple[str, str]]) -> None:
    """RFC 9110, section 5.3: several lines of one name are one list."""
    assert freshness([Head(200, CIMultiDict(lines))], USUAL, NOW) is None


def test_repeated_directives_and_their_values() -> None:
    """Names are compared without case, values of both forms are read; two that differ are none (section 4.2.1)."""
    assert parse_directives('A=1, b="x y", a=2, C') == {"a": "", "b": "x y", "c": ""}
    assert parse_directives('a=1, A="1"') == {"a": "1"}
    assert parse_directives("") == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
        ("sun, 06 nov 1994 08:49:37 gmt", 784_111_777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
        ("Sun Nov  6 08:49:37 1994", 784_111_777),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_799),
        ("Sunday, 06-Nov-33 08:49:37 GMT", 2_014_879_777),
        ("Sun Foo  6 08:49:37 1994", None),
    ],
)
def test_dates_are_read_in_the_three_forms(text: str, seconds: float | None) -> None:
    """RFC 9110, section 5.6.7, with its example; a year of two digits is the nearest that is not too far ahead."""
    assert http_date(text) == seconds


@pytest.mark.parametrize(
    ("others", "age"),
    [
        ({}, 0),
        ({"age": "1800"}, 1800),
        ({"age": "1800", "date": date(-5)}, 1800),
        ({"age": "3", "date": date(-11)}, 10),
        ({"age": "99999999999999999999999"}, 2**31),
        ({"age": "-1"}, 0),
        ({"delay": 2.5}, 2.5),
    ],
)
def test_how_old_an_answer_is(others: dict[str, Any], age: float) -> None:
    """By its Age, its Date and the time that it took, whichever says more (section 4.2.3)."""
    for said in (None, "max-age=5"):
        found = read(said, **others)
        assert found is not None
        assert found.age == age


def test_what_says_nothing_is_kept_by_its_status() -> None:
    """RFC 9110, section 15.1, names the statuses; others are kept for what they say, and 206 never."""
    for status in range(200, 600):
        for said in (None, "must-revalidate"):
            assert (read(said, status=status) is not None) == (status in HEURISTIC)
        for said in ("max-age=5", "s-maxage=5", "public"):
            assert (read(said, status=status) is not None) == (status != 206)
        assert (read(expires=date(5), status=status) is not None) == (status != 206)


@pytest.mark.parametrize(
    ("status", "kept"), [(200, True), (404, True), (302, True), (201, False), (500, False), (599, False)]
)
def test_no_store_yields_to_must_understand_for_statuses_that_are_understood(status: int, *, kept: bool) -> None:
    """RFC 9111, section 5.2.2.3; `private` does not yield."""
    assert (read("no-store, must-understand, max-age=5", status=status) is not None) is kept
    assert read("no-store, must-understand, private, max-age=5", status=status) is None


@pytest.mark.parametrize("name", ["traceparent", "Cache-Control", "Idempotency-Key"])
def test_an_answer_that_varies_with_what_is_in_no_key_is_not_kept(name: str) -> None:
    """Two requests with one key may differ in it."""
    assert read(vary=f"Accept, {name}") is None


@pytest.mark.parametrize(
    ("trail", "expected"),
    [
        ([head("max-age=5", 302), head("max-age=50")], (5, 0, MAX_STALE)),
        ([head("max-age=50", 302), head("max-age=5")], (5, 0, MAX_STALE)),
        ([head("no-store", 302), head("max-age=31536000")], None),
        ([head("max-age=31536000", 302), head("no-store")], None),
        ([head("private", 301), head("max-age=50")], None),
        ([head(status=302), head("max-age=50")], None),
        ([head(status=307), head()], None),
        ([head(status=301), head("max-age=50")], (50, 0, MAX_STALE)),
        ([head(status=308), head(status=301), head()], (60, 0, MAX_STALE)),
        ([head("max-age=9, must-revalidate", 301), head("max-age=50, stale-while-revalidate=20")], (9, 0, 0)),
        ([head("max-age=50", 301), head("max-age=9, stale-while-revalidate=20")], (9, 20, MAX_STALE)),
        ([head("max-age=9", 301), head("max-age=50, stale-while-revalidate=20")], (9, 0, MAX_STALE)),
        ([head("max-age=9", 301, age="6"), head("max-age=50")], (3, 0, MAX_STALE)),
        ([head("no-cache", 301), head("max-age=50")], (0, 0, 0)),
    ],
)
def test_what_came_by_redirects_lives_as_long_as_the_shortest(
    trail: list[Head], expected: tuple[float, ...] | None
) -> None:
    """Each of them would have been asked again at its own end, and by default no 302, 303 or 307 is kept."""
    found = freshness(trail, USUAL, NOW)
    assert (found and found[:3]) == expected


@pytest.mark.parametrize(
    ("said", "others", "shared"),
    [
        (None, {}, True),
        ("max-age=5", {}, True),
        ("max-age=0", {}, False),
        ("max-age=5", {"age": "9"}, False),
        ("max-age=0, stale-while-revalidate=5", {}, True),
        ("no-cache", {}, False),
        ("no-cache, max-age=5", {}, False),
    ],
)
def test_who_asks_at_the_same_time_may_have_what_is_of_use_again(
    said: str | None, others: dict[str, str], *, shared: bool
) -> None:
    """RFC 9111, section 4: an answer is also another request's if it may be reused; whatever the source makes of it."""
    for ttl in (0.0, 60.0):
        found = read(said, CachePolicy(ttl=ttl), **others)
        assert found is not None
        assert found.shared is shared


@pytest.mark.parametrize(
    ("trail", "seconds"),
    [
        ([], None),
        ([head(status=404)], None),
        ([head("must-revalidate", 500)], None),
        ([head("no-store", 404)], 0),
        ([head("private", 404)], 0),
        ([head("no-cache", 503)], 0),
        ([head("max-age=600", 404)], 600),
        ([head("max-age=600", 404, age="100")], 500),
        ([head("max-age=soon", 404)], 0),
        ([head(status=404, expires=date(30))], 30),
        ([head(status=404, expires="0")], 0),
        ([head(status=404, vary="*")], 0),
        ([head("no-store", 302), head(status=404)], 0),
        ([head("max-age=9", 302), head("max-age=600", 404)], 9),
        ([head(status=302), head("max-age=600", 404)], 5),
        ([head(status=302), head("max-age=2", 404)], 2),
        ([head(status=302), head(status=404)], 5),
        ([head("max-age=90", 302), head("max-age=600", 404)], 90),
        ([head(status=301), head("max-age=600", 404)], 600),
    ],
)
def test_how_long_a_failure_holds_is_said_by_its_upstream(trail: list[Head], seconds: float | None) -> None:
    """What says nothing leaves it to the source and the worker."""
    assert failure_lifetime(trail, NOW) == seconds


HEADER = st.text(st.characters(codec="latin-1"), max_size=60) | st.sampled_from(
    ["max-age=5", 'private="', "no-store", "s-maxage=0", date(9), date(-9), "0", "Thu, 01 Jan 0001 00:00:00 GMT", "*"]
)


@settings(deadline=None, max_examples=400)
@given(
    st.dictionaries(st.sampled_from(["Cache-Control", "Expires", "Date", "Age", "Vary"]), HEADER),
    st.floats(0.001, DAY),
    st.none() | st.floats(0, DAY),
    st.none() | st.floats(0, DAY),
)
def test_no_header_makes_an_answer_last_longer_than_we_allow(
    headers: dict[str, str], ttl: float, revalidate: float | None, error: float | None
) -> None:
    """Whatever the upstream writes, all times stay within the source's limits, and nothing is raised."""
    found = freshness([Head(200, CIMultiDict(headers))], CachePolicy(ttl, revalidate, error), NOW)
    if found is not None:
        assert 0 <= found.fresh <= ttl
        assert 0 <= found.while_revalidate <= (MAX_STALE if revalidate is None else revalidate)
        assert 0 <= found.if_error <= (MAX_STALE if error is None else error)


@given(st.text(st.characters(codec="latin-1", exclude_characters='"'), max_size=60))
def test_no_store_is_seen_behind_anything(said: str) -> None:
    """No nonsense before it hides that an answer must not be kept, but for the word that says so."""
    if "must-understand" not in said.lower():
        assert read(f"{said}, no-store") is None
        assert read(f"{said}; no-store") is None
