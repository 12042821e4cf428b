"""What a command line asks of memcached servers. None of it needs Kafka."""

from __future__ import annotations

import pytest

from models.errors import MillraceError, PurgeError
from streams.cache import memcached_admin as memcached_console
from tests.integration.memcached import HANG_UP, Fake, Memcached, key, on_both_loops, opened, within


async def put(server, stored):
    """Store a key as another program would."""
    assert await server.ask(b"set %b 0 60 1\r\n1\r\n" % stored) == b"STORED\r\n"


@on_both_loops
async def test_purge_takes_what_matches_and_is_ours():
    """Of entries on two servers those go whose key matches; others of ours and all of other programs stay."""
    foreign = [b"x:" + key(1), b"mr", b"mrs:" + key(1), b"mr:other:" + key(1), b"xmr:" + key(1), b"a%b=/"]
    async with Memcached() as one, Memcached() as other, opened(one, other) as cache:
        for number in range(1200):
            await cache.set(key(number), b"1", ttl=60)
        for stored in foreign:
            await put(one, stored)
            await put(other, stored)
        assert await cache.purge(lambda name: int(name[-40:], 16) % 2) == 600
        assert [await cache.get(key(n)) for n in range(1200)] == [None if n % 2 else b"1" for n in range(1200)]
        assert await cache.clear() is True
        assert [await cache.get(key(n)) for n in range(1200)] == [None] * 1200
        for stored in foreign:
            assert await one.holds(stored)
            assert await other.holds(stored)


@on_both_loops
@pytest.mark.parametrize("prefix", ["mr", "a:b", "%41=&+"])
async def test_purge_sees_keys_without_their_prefix(prefix):
    """The listing's URL-encoding and the prefix are taken off; a hashed key is seen as its hash."""
    async with Memcached() as memcached, opened(memcached, prefix=prefix) as cache:
        for name in (key(1), b"100%=+&/?", b"not plain"):
            await cache.set(name, b"1", ttl=60)
        seen = []
        assert await cache.purge(lambda name: bool(seen.append(name))) == 0
        assert {key(1), b"100%=+&/?"} < set(seen)
        assert [name[:1] for name in sorted(seen)].count(b"#") == 1
        assert await cache.get(b"not plain") == b"1"
        assert await cache.purge(lambda _: True) == 3
        assert await cache.get(b"not plain") is None


@on_both_loops
async def test_purge_says_which_server_it_could_not_ask():
    """The servers that can be asked are purged before the error that names the others."""
    async with Memcached() as dead, Memcached() as memcached, opened(dead, memcached) as cache:
        for number in range(20):
            await cache.set(key(number), b"1", ttl=60)
        kept = int((await cache.stats())[1]["items"])
        await dead.kill()
        with pytest.raises(PurgeError) as caught:
            await cache.purge(lambda _: True)
        assert str(caught.value).startswith(f"memcached 127.0.0.1:{dead.port}: not reachable: ")
        assert caught.value.removed == kept
        assert 0 < kept < 20
        assert (await cache.stats())[1]["items"] == 0


@on_both_loops
@pytest.mark.parametrize("option", [("-X",), ("-o", "no_lru_crawler")], ids=["no dumping", "no crawler"])
async def test_purge_says_when_a_server_does_not_list(option):
    """Without metadump nothing can be found: an error says what it needs, and get and set go on."""
    async with Memcached(*option) as memcached, opened(memcached) as cache:
        await cache.set(key(), b"1", ttl=60)
        with pytest.raises(MillraceError, match=r"not list its keys, which needs memcached 1\.4\.31 and"):
            await cache.clear()
        assert await cache.get(key()) == b"1"


ENTRY = b"key=mr%%3A%b exp=1 la=1 cas=1 fetch=no cls=1 size=70\n" % key()


@on_both_loops
async def test_purge_waits_for_a_busy_crawler(monkeypatch):
    """A server that is crawling is asked again until it lists; what was gone by then does not count."""
    monkeypatch.setattr(memcached_console, "BUSY_PAUSE", 0.001)
    busy, listing = b"BUSY currently processing crawler request\r\n", ENTRY * 2 + b"END\r\n"
    answers = [busy, busy, busy, listing, b"DELETED\r\n", b"NOT_FOUND\r\n"]
    async with Fake(lambda _: answers.pop(0)) as fake, opened(fake) as cache:
        assert await cache.purge(lambda _: True) == 1
        assert fake.asked == [b"lru_crawler metadump all\r\n"] * 4 + [b"delete mr:%b\r\n" % key()] * 2
        assert fake.connections == 1


@on_both_loops
@pytest.mark.parametrize(
    ("said", "message"),
    [
        (ENTRY * 100, "its keys take more than 1000 bytes to list"),
        (b"BUSY\r\n", "no answer within 0.1 s"),
        (None, "no answer within 0.1 s"),
        (HANG_UP, "the connection ended in mid-answer"),
        (ENTRY[:10] + HANG_UP, "the connection ended in mid-answer"),
        (b"x" * 100_000, "it does not speak memcached's protocol: a line without an end"),
        (b"ERROR\r\n", "it says b'ERROR'"),
        (ENTRY + b"END\r\nERROR\r\n", "it does not speak memcached's protocol: b'ERROR'"),
    ],
    ids=["endless", "busy for ever", "silent", "ended", "cut off", "no line", "no command", "no delete"],
)
async def test_purge_ends_whatever_a_server_says(monkeypatch, said, message):
    """Time and bytes of a listing are bounded, and every surprise is an error that says what it was."""
    monkeypatch.setattr(memcached_console, "LISTING_BYTES", 1000)
    monkeypatch.setattr(memcached_console, "LISTING_TIMEOUT", 0.1)
    async with Fake(lambda _: said) as fake, opened(fake) as cache:
        with within(0.1), pytest.raises(MillraceError) as caught:
            await cache.purge(lambda _: True)
        assert message in str(caught.value)


@on_both_loops
async def test_a_fault_of_who_asks_is_not_blamed_on_the_server():
    """What the caller's function raises comes through as it is."""
    async with Memcached() as memcached, opened(memcached) as cache:
        await cache.set(key(), b"1", ttl=60)
        with pytest.raises(KeyError, match="mine"):
            await cache.purge(lambda _: {}["mine"])


@on_both_loops
async def test_servers_shows_figures(monkeypatch):
    """A server that is up has its version and figures, one that is not its reason, in the order they are written."""
    monkeypatch.setattr(memcached_console, "STATS_TIMEOUT", 0.3)
    async with Memcached() as up, Memcached() as hanging, Memcached() as dead, Fake(lambda _: b"END\r\n") as fake:
        async with opened(up) as alone:
            await alone.set(key(), b"1" * 50, ttl=60)
            await alone.get(key())
            await alone.get(key(1))
        hanging.hang()
        await dead.kill()
        async with opened(up, hanging, dead, fake) as cache:
            rows = await cache.stats()
        hanging.go_on()
    assert [row["address"] for row in rows[:3]] == [f"127.0.0.1:{each.port}" for each in (up, hanging, dead)]
    assert rows[0].pop("version", "")[0].isdigit()
    assert rows[0].pop("bytes") > 50
    figures = {"items": 1, "get_hits": 1, "get_misses": 1, "evictions": 0}
    assert rows[0] == {"tier": "memcached", "address": f"127.0.0.1:{up.port}", "state": "up", **figures}
    assert [row["state"] for row in rows[1:]] == ["away"] * 3
    assert rows[1]["reason"] == "no answer within 0.3 s"
    assert rows[2]["reason"].startswith("not reachable: ")
    assert rows[3]["reason"] == "it does not speak memcached's protocol: figures are missing"


@on_both_loops
@pytest.mark.parametrize("said", [b"STAT version 1\r\n" * 2000, b"HTTP/1.1 400\r\n", b"STAT curr_items x\r\nEND\r\n"])
async def test_figures_are_read_with_care(said):
    """A server that has no figures, or no end of them, is away, and says so in time."""
    async with Fake(lambda _: said) as fake, opened(fake) as cache:
        (row,) = await cache.stats()
        assert row["state"] == "away"
        assert row["reason"].startswith("it does not speak memcached's protocol")
