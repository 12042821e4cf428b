from __future__ import annotations

import pytest

from tests.licences import brought, refused


@pytest.mark.slow
def test_no_licence_comes_in_unseen():
    """What an installation brings along, extras included, is under licences that were agreed to."""
    licences = brought()
    assert {"aiohttp", "faust-streaming", "rocksdict", "opentelemetry-sdk", "confluent-kafka"} <= licences.keys()
    assert list(refused(licences)) == []


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("(GPL-3.0-only OR MIT)", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_an_unknown_licence_is_named(text, allowed):
    """Of licences to choose from one is enough; of those that hold together, all must be allowed."""
    assert list(refused({"x": text})) == ([] if allowed else [f"x: {text}"])
