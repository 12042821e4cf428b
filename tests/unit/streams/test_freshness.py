"""How long an answer may be used, by what its upstream says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.cache.freshness import STALE_IF_ERROR, Freshness, freshness

DAY = 86_400.0


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, Freshness(60, STALE_IF_ERROR)),
        ("", Freshness(60, STALE_IF_ERROR)),
        ("public", Freshness(60, STALE_IF_ERROR)),
        ("max-age=5", Freshness(5, STALE_IF_ERROR)),
        ("Max-Age=5", Freshness(5, STALE_IF_ERROR)),
        ('max-age="7"', Freshness(7, STALE_IF_ERROR)),
        ("max-age=100000", Freshness(60, STALE_IF_ERROR)),
        ("max-age=5, s-maxage=9", Freshness(9, 0)),
        ("max-age=0", Freshness(0, STALE_IF_ERROR)),
        ("max-age=soon", Freshness(60, STALE_IF_ERROR)),
        ("max-age=-5", Freshness(60, STALE_IF_ERROR)),
        ("no-cache", Freshness(0, 0)),
        ("max-age=5,stale-if-error=20", Freshness(5, 20)),
        ("stale-if-error=99999", Freshness(60, STALE_IF_ERROR)),
        ("max-age=5, must-revalidate", Freshness(5, 0)),
        ("proxy-revalidate", Freshness(60, 0)),
        ("no-store", None),
        ("max-age=5, No-Store", None),
        ("private", None),
        ('private="x-user", max-age=5', None),
        ("max-age=99999999999999999999999", Freshness(60, STALE_IF_ERROR)),
    ],
)
def test_cache_control_is_honoured_within_our_limits(said: str | None, expected: Freshness | None) -> None:
    """Directives of RFC 9111 and RFC 5861, as a shared cache reads them; nonsense counts as not said."""
    assert freshness(said, 60) == expected


@given(st.text(max_size=200), st.floats(0.001, DAY))
def test_no_header_makes_an_answer_fresh_for_longer_than_we_allow(said: str, longest: float) -> None:
    """Whatever the upstream writes, both times stay within the limits, and nothing is raised."""
    found = freshness(said, longest)
    assert found is None or (0 <= found.fresh <= longest and 0 <= found.stale_if_error <= STALE_IF_ERROR)
    assert freshness(f"{said}, no-store", longest) is None or '"' in said or said.endswith(("-", "="))
