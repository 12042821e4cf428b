"""Secrets in what upstreams answer: found in every spelling, in any charset, at any size, in short turns."""

from __future__ import annotations

import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.documents import Body
from streams.http.secret_scan import (
    MIN_SECRET,
    OVERLAP,
    TAIL,
    WINDOW,
    _spellings,
    contains_secret,
    large_contains_secret,
)
from tests.turns import allowed, longest_turn

pytestmark = pytest.mark.slow

SECRET = "s3cr3t/Tok&n+def=="
SPELLINGS = [
    SECRET,
    quote(SECRET, safe=""),
    quote(quote(SECRET, safe=""), safe=""),
    html.escape(SECRET),
    "".join(f"&#{ord(each)};" for each in SECRET),
    "".join(f"\\u{ord(each):04x}" for each in SECRET),
    SECRET.replace("/", "\\/"),
    json.dumps(json.dumps(SECRET.replace("/", "\\/"))),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("around", [b"", b"\xff\x00", b"\\\\\\", b"%25"])
def test_a_secret_is_seen_however_it_is_written(spelling, around):
    """Plain, escaped or escaped twice, among whatever bytes."""
    assert contains_secret(["other-secret", SECRET], around + spelling.encode() + around)
    assert not contains_secret(["other-secret"], around + spelling.encode() + around)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=MIN_SECRET, max_size=TAIL))
def test_any_secret_is_looked_for_as_it_is(secret):
    """No character of a secret means anything to the pattern."""
    assert contains_secret([secret], f"<{secret}>".encode())
    assert not contains_secret([secret], f"<{secret[:-1]}\n".encode())


def test_long_tokens_take_no_more_memory_or_time_than_short_ones():
    """What is looked for is their end: a pattern of the whole takes 39 MiB for five tokens, and too long ones fail."""
    _spellings.cache_clear()
    tokens = ["eyJhbGciOiJSUzI1NiJ9." + f"{number}xyz" * 750 for number in range(5)]
    assert contains_secret(tokens, b'{"echo": "Bearer %b"}' % tokens[3].encode())
    assert not contains_secret(tokens[:3], b'{"echo": "Bearer %b"}' % tokens[3].encode())
    _spellings(tuple(token[-TAIL:] for token in tokens))
    assert _spellings.cache_info().hits == 1


async def large(body):
    return await large_contains_secret(lambda text: contains_secret([SECRET], text), body.content, body.codec())


@pytest.mark.parametrize("place", [0, WINDOW - 9, WINDOW, WINDOW - OVERLAP, 3 * WINDOW - 30, 5 * WINDOW])
@pytest.mark.parametrize("spelling", [SPELLINGS[0], SPELLINGS[5]])
@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "utf-32-be"])
async def test_a_secret_is_seen_wherever_it_stands(place, spelling, codec):
    """At the edges of what is looked at in one turn, and in JSON of any UTF, whatever its charset says."""
    text = '"' + "x" * place + spelling + "y" * WINDOW + '"'
    assert await large(Body(text.encode(codec), "application/json", None))
    assert not await large(Body(text.replace(spelling, "z" * 9).encode(codec), "application/json", None))


@pytest.mark.parametrize("filling", [b"a", b"\\", b"%25", b"&#0000", b"s", SECRET[:-1].encode(), b"\\\\\\\\s"])
async def test_no_answer_holds_up_the_event_loop(filling):
    """8 MiB of what looks most like a secret take no turn of 20 ms."""
    content = filling * ((8 << 20) // len(filling))
    found, longest = await longest_turn(large(Body(content)))
    assert not found
    assert longest < allowed()


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le"])
async def test_utf_16_that_says_nothing_of_it_is_looked_through(codec):
    """No charset is given, and neither its first characters nor a byte order mark tell."""
    assert await large(Body(f"\u65e5\u672c {SECRET}".encode(codec), "text/plain", None))
