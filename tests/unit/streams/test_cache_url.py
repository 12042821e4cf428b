from __future__ import annotations

from pathlib import Path

import pytest

from streams.config.cache_url import (
    DEFAULT_TTL,
    FileTier,
    MemcachedTier,
    MemoryTier,
    freshness_of,
    parse_bytes,
    parse_tiers,
)
from streams.config.settings import DEFAULT_CACHE


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1048576", 1048576),
        ("7B", 7),
        ("64KiB", 65536),
        ("64 MiB", 67108864),
        (" 2GiB ", 2 << 30),
        ("1kB", 1000),
        ("1MB", 1_000_000),
        ("3GB", 3_000_000_000),
        ("007", 7),
    ],
)
def test_sizes_are_read_with_their_unit(text, size):
    """Bare bytes, powers of two and of ten are all taken."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0MiB",
        "-1",
        "+1",
        "1.5MiB",
        "MiB",
        "1mib",
        "1KB",
        "1 M iB",
        "1TiB",
        "1e6",
        "0x10",
        "1" * 16,
        "1MiB2",
    ],
)
def test_what_is_no_size_is_refused(text):
    """Zero, fractions, signs, unknown units and absurd lengths raise ValueError that shows the text."""
    with pytest.raises(ValueError, match="is not a size: give bytes, or a number with KiB, MiB or GiB") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


def test_the_defaults_are_those_of_the_contract():
    """A URL that says nothing more gives the tier's defaults, and these are what the README promises."""
    assert parse_tiers("memory:// file:///c memcached://a") == (
        MemoryTier(entries=10_000, bytes=64 << 20, ttl=60.0),
        FileTier(Path("/c"), threshold=10_000, timeout=3600.0, fsync=False),
        MemcachedTier((("a", 11_211),), prefix="mr", timeout=0.2),
    )
    assert parse_tiers(DEFAULT_CACHE) == (MemoryTier(),)


@pytest.mark.parametrize(
    ("url", "tier"),
    [
        ("memory://?entries=5&bytes=1KiB&ttl=0.5", MemoryTier(5, 1024, 0.5)),
        ("memory://?ttl=3", MemoryTier(ttl=3.0)),
        ("MEMORY://?entries=1", MemoryTier(entries=1)),
        ("file:///var/cache/millrace", FileTier(Path("/var/cache/millrace"))),
        ("file:///c/", FileTier(Path("/c"))),
        ("file:///a%20b%2Cc", FileTier(Path("/a b,c"))),
        ("file:///c?threshold=7&timeout=0.5&fsync=true", FileTier(Path("/c"), 7, 0.5, fsync=True)),
        ("file:///c?fsync=1", FileTier(Path("/c"), fsync=True)),
        ("file:///c?fsync=False", FileTier(Path("/c"), fsync=False)),
        ("file:///c?fsync=0", FileTier(Path("/c"), fsync=False)),
        ("memcached://a:1,b_2.example,[::1],[::2]:65535", MemcachedTier(
            (("a", 1), ("b_2.example", 11_211), ("::1", 11_211), ("::2", 65_535))
        )),
        ("memcached://h:1,[::1]:2", MemcachedTier((("h", 1), ("::1", 2)))),
        ("memcached://[fd00::5],[::1]:2,h", MemcachedTier((("fd00::5", 11_211), ("::1", 2), ("h", 11_211)))),
        ("memcached://a, b", MemcachedTier((("a", 11_211), ("b", 11_211)))),
        ("memcached://a?prefix=x:y&timeout=1.5", MemcachedTier((("a", 11_211),), "x:y", 1.5)),
        ("memcached://a?prefix=" + "x" * 100, MemcachedTier((("a", 11_211),), "x" * 100)),
    ],
)  # fmt: skip
def test_a_cache_url_says_how_much_is_kept(url, tier):
    """Path, servers and options are those of the URL; an option replaces the default that it names."""
    assert parse_tiers(url) == (tier,)


@pytest.mark.parametrize("between", [" ", ",", ", ", "\n", "  ,  "])
def test_tiers_are_asked_in_the_order_they_are_written(between):
    """Spaces and commas separate tiers, also after a list of servers and an option."""
    text = between.join(["memory://?ttl=5", "memcached://a,b", "memcached://c?timeout=1", "file:///c", "file:///d"])
    assert parse_tiers(f" {text} ") == (
        MemoryTier(ttl=5.0),
        MemcachedTier((("a", 11_211), ("b", 11_211))),
        MemcachedTier((("c", 11_211),), timeout=1.0),
        FileTier(Path("/c")),
        FileTier(Path("/d")),
    )


@pytest.mark.parametrize("text", ["memory:// memory://", "file:///c memory://", "memory://,file:///c,memory://"])
def test_memory_comes_first_or_not_at_all(text):
    """A memory tier behind another would only be asked for what is not there."""
    with pytest.raises(ValueError, match="memory:// comes once, and first"):
        parse_tiers(text)


NO_CACHE = "is not a cache URL: give memory://, file:///folder or memcached://host:port"
NO_FOLDER = "names no folder: give file:///var/cache/millrace"
NO_SERVER = "is not a memcached server: give host or host:port"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", f"'' {NO_CACHE}"),
        ("memory", f"'memory' {NO_CACHE}"),
        ("redis://x", f"'redis://x' {NO_CACHE}"),
        ("memory:// redis://x", f"'redis://x' {NO_CACHE}"),
        ("memory://[", "has more than a memory:// URL takes"),
        ("memory://?entries", "bad query field"),
        ("memory://?max=3", "'max' is not an option of memory://; known: entries, bytes, ttl"),
        ("memory://?entries=0", "entries=0 must be a number more than 0"),
        ("memory://?entries=-1", "entries=-1 must be a number more than 0"),
        ("memory://?entries=1.5", "entries=1.5 must be a number more than 0"),
        ("memory://?bytes=0", "bytes=0 must be a number more than 0"),
        ("memory://?bytes=many", "bytes=many must be a number more than 0"),
        ("memory://?ttl=0", "ttl=0 must be a number more than 0"),
        ("memory://?ttl=-1", "ttl=-1 must be a number more than 0"),
        ("memory://?ttl=nan", "ttl=nan must be a number more than 0"),
        ("memory://?ttl=inf", "ttl=inf must be a number more than 0"),
        ("memory://?ttl=", "ttl= must be a number more than 0"),
        ("memory://?ttl=soon", "ttl=soon must be a number more than 0"),
        ("file://", f"'file://' {NO_FOLDER}"),
        ("file:///", f"'file:///' {NO_FOLDER}"),
        ("file://c/d", f"'file://c/d' {NO_FOLDER}"),
        ("file:c", f"'file:c' {NO_CACHE}"),
        ("file:///c?ttl=3", "'ttl' is not an option of file://; known: threshold, timeout, fsync"),
        ("file:///c?threshold=0", "threshold=0 must be a number more than 0"),
        ("file:///c?threshold=2.5", "threshold=2.5 must be a number more than 0"),
        ("file:///c?timeout=nan", "timeout=nan must be a number more than 0"),
        ("file:///c?fsync=yes", "'yes' is neither true nor false"),
        ("file:///c?fsync=", "'' is neither true nor false"),
        ("memcached://", f"'' {NO_SERVER}"),
        ("memcached://a,,b", f"'' {NO_SERVER}"),
        ("memcached://a:0", f"'a:0' {NO_SERVER}"),
        ("memcached://a:65536", f"'a:65536' {NO_SERVER}"),
        ("memcached://a:x", f"'a:x' {NO_SERVER}"),
        ("memcached://::1", f"'::1' {NO_SERVER}"),
        ("memcached://user:password@a", "memcached://: no login is supported"),
        ("file:///a;memory://", "'file:///a;memory://': tiers are separated by spaces or commas"),
        ("memcached://a?ttl=3", "'ttl' is not an option of memcached://; known: prefix, timeout"),
        ("memcached://a?timeout=0", "timeout=0 must be a number more than 0"),
        ("memcached://a?prefix=", "prefix='' must be 1 to 100 visible ASCII characters"),
        ("memcached://a?prefix=a%20b", "prefix='a b' must be 1 to 100 visible ASCII characters"),
        ("memcached://a?prefix=ä", "prefix='ä' must be 1 to 100 visible ASCII characters"),
        ("memcached://a?prefix=" + "x" * 101, "must be 1 to 100 visible ASCII characters"),
    ],
)
def test_a_wrong_cache_url_is_refused_with_the_reason(url, reason):
    """Another scheme, no folder, no server, an unknown option or a bad value raises ValueError that says which."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_tiers(url)
    assert reason in str(caught.value)


def test_how_long_an_answer_is_fresh_is_the_memory_tiers_to_say():
    """Where the source says nothing the memory tier's ttl holds, and without one the default."""
    assert freshness_of(parse_tiers("memory://?ttl=5 file:///c?timeout=9")) == 5.0
    assert freshness_of(parse_tiers("file:///c?timeout=9")) == DEFAULT_TTL == 60.0
