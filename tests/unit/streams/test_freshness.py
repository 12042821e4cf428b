"""How long an answer may be used, by what its upstream says and its source allows."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from models.source import MAX_STALE, CachePolicy
from streams.cache.freshness import Freshness, directives, freshness, says_anything

NOW = 1_800_000_000.0
DAY = 86_400.0
USUAL = CachePolicy(ttl=60.0)


def read(cache_control: str | None = None, policy: CachePolicy = USUAL, **others: str) -> Freshness | None:
    """Read headers; of those given by name, `_` stands for a hyphen."""
    headers = CIMultiDict({name.replace("_", "-"): value for name, value in others.items()})
    if cache_control is not None:
        headers["cache-control"] = cache_control
    return freshness(headers, policy, NOW)


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
        ("max-age=soon", (60, 0, MAX_STALE)),
        ("max-age=-5", (60, 0, MAX_STALE)),
        ("max-age=5, max-age=9", (5, 0, MAX_STALE)),
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
    """Directives of RFC 9111 and RFC 5861, as a shared cache reads them; nonsense counts as not said."""
    assert read(said) == (expected and Freshness(*expected))


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
    assert found[1:] == expected


@pytest.mark.parametrize(
    ("said", "expires", "others", "fresh"),
    [
        (None, 20, {}, 20),
        (None, 20, {"date": date(-10)}, 30),
        (None, 20, {"date": "yesterday"}, 20),
        (None, -20, {}, 0),
        (None, 100_000, {}, 60),
        ("max-age=5", 20, {}, 5),
        ("max-age=soon", 20, {}, 20),
        ("public", 20, {}, 20),
        (None, 20, {"age": "15"}, 5),
        ("max-age=50", None, {"age": "15"}, 35),
        ("s-maxage=50", None, {"age": "15"}, 35),
        ("max-age=50", None, {"age": "51"}, 0),
        ("max-age=50", None, {"age": "old"}, 50),
        ("max-age=50", None, {"age": "-3"}, 50),
        ("max-age=100", None, {"age": "15"}, 60),
    ],
)
def test_expires_and_age_are_honoured(
    said: str | None, expires: float | None, others: dict[str, str], fresh: float
) -> None:
    """Expires counts from the answer's Date where there is no max-age, and time spent in other caches is spent."""
    if expires is not None:
        others = others | {"expires": date(expires)}
    found = read(said, USUAL, **others)
    assert found is not None
    assert found.fresh == fresh


@pytest.mark.parametrize("expires", ["0", "-1", "", "soon", "Mon, 99 Foo 2026 00:00:00 GMT"])
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
    assert freshness(CIMultiDict(lines), USUAL, NOW) is None


def test_an_answer_speaks_of_its_freshness_or_does_not() -> None:
    """Cache-Control and Expires do; a Date, an Age or an ETag do not."""
    assert says_anything(CIMultiDict({"cache-control": "public"}))
    assert says_anything(CIMultiDict({"expires": "0"}))
    assert not says_anything(CIMultiDict({"Date": date(0), "Age": "5", "ETag": '"1"'}))


def test_of_a_repeated_directive_the_first_counts() -> None:
    """RFC 9111, section 4.2.1; names are compared without case, values of both forms are read."""
    assert directives('A=1, b="x y", a=2, C') == {"a": "1", "b": "x y", "c": ""}
    assert directives("") == {}


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
    found = freshness(CIMultiDict(headers), CachePolicy(ttl, revalidate, error), NOW)
    if found is not None:
        assert 0 <= found.fresh <= ttl
        assert 0 <= found.while_revalidate <= (MAX_STALE if revalidate is None else revalidate)
        assert 0 <= found.if_error <= (MAX_STALE if error is None else error)


@given(st.text(st.characters(codec="latin-1", exclude_characters='"'), max_size=60))
def test_no_store_is_seen_behind_anything(said: str) -> None:
    """No nonsense before it hides that an answer must not be kept."""
    assert read(f"{said}, no-store") is None
