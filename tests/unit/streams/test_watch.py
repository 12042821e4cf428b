"""What a consumer makes of topics that are made again, cut, gone or out of reach."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError, NodeNotReadyError
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from streams.config.settings import Kafka
from streams.kafka import commit_metadata as memo
from streams.kafka import watch as module
from streams.kafka.commit_metadata import Identity
from streams.kafka.errors import may_pass
from streams.kafka.holdings import Holdings
from streams.kafka.lease import Member
from streams.kafka.watch import AWAY_AFTER, TopicWatch

PLACE = TP("requests", 0)
FORMER, CURRENT = Identity("c", "former"), Identity("c", "current")
OWNER = memo.owner("group", "requests", 0)


class Thread:
    """As much of the consumer's thread as the watch uses."""

    def __init__(self) -> None:
        self.found: Any = {"requests": FORMER}
        self.commits: dict[TP, OffsetAndMetadata] = {}
        self.log = (0, 100)
        self.sought: list[Any] = []

    async def call(self, coroutine: Any) -> Any:
        return await coroutine

    async def identities(self) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    async def outlook(self, _: Any) -> Any:
        return self.found, self.commits

    async def span(self, _: TP) -> tuple[int, int]:
        return self.log

    async def begins(self, tps: Any) -> Any:
        return dict.fromkeys(tps, self.log[0])

    async def seek_all(self, positions: Any) -> None:
        self.sought.append(positions)


class Scene:
    def __init__(self) -> None:
        self.now = 0.0
        self.thread = Thread()
        self.leases = Holdings("group")
        self.watch = TopicWatch(cast("Any", self.thread), self.leases, Kafka(), clock=lambda: self.now)

    def hold(self, offset: int) -> None:
        commit = OffsetAndMetadata(offset, memo.sign(OWNER, FORMER))
        self.thread.commits[PLACE] = commit
        self.leases[PLACE] = self.leases.lease(PLACE, FORMER, commit)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_broker_that_is_away_is_told_with_the_reason(scene: Scene) -> None:
    """Not ready after 15 s without an answer, and again with the first one."""
    scene.thread.found = NodeNotReadyError("no")
    scene.now = AWAY_AFTER - 1
    await scene.watch.look()
    assert scene.watch.state() == "ok"
    scene.now = AWAY_AFTER
    assert scene.watch.state().startswith("no answer for 15 s: Kafka at localhost:9092 cannot be reached")
    scene.thread.found = {"requests": FORMER}
    await scene.watch.look()
    assert scene.watch.state() == "ok"


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[asyncio.Server]:
    """Open a server that accepts connections and says nothing."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0, **options)
    async with server:
        yield server
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def test_a_certificate_that_is_not_trusted_is_named(scene: Scene, tmp_path: Path) -> None:
    """A broker that comes back with one of another authority is there: what is wrong, and which setting to check."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with listening(ssl=context) as broker:
        servers = f"127.0.0.1:{broker.sockets[0].getsockname()[1]}"
        kafka = Kafka(servers, "SSL", ssl_cafile=str(tmp_path / "ca.pem"))
        watch = TopicWatch(cast("Any", scene.thread), scene.leases, kafka, clock=lambda: scene.now)
        scene.thread.found, scene.now = NodeNotReadyError("no"), AWAY_AFTER
        await watch.look()
    assert watch.state().startswith(f"no answer for 15 s: Kafka at {servers} has a certificate that is not trusted: ")
    assert watch.state().endswith("; check KAFKA_SSL_CAFILE")


async def test_a_broker_that_takes_no_connection_in_time_is_said_to_be_away(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts and says nothing holds up no look for longer than its limit."""
    monkeypatch.setattr(module, "LOOK_TIMEOUT", 0.1)
    async with listening() as broker:
        kafka = Kafka(f"127.0.0.1:{broker.sockets[0].getsockname()[1]}")
        watch = TopicWatch(cast("Any", scene.thread), scene.leases, kafka, clock=lambda: scene.now)
        scene.thread.found, scene.now = NodeNotReadyError("no"), AWAY_AFTER
        await watch.look()
    assert "cannot be reached" in watch.state()


async def test_a_topic_that_is_not_there_is_named(scene: Scene) -> None:
    """Its name, and what to do about it, once two brokers in a row do not know it: one that has just started may not
    yet, and while a topic counts as missing nothing of it is committed.
    """
    scene.thread.found = {"requests": None}
    await scene.watch.look()
    assert (scene.watch.state(), scene.watch.missing) == ("ok", frozenset())
    await scene.watch.look()
    assert scene.watch.state() == "no topic 'requests'; create it with: millrace topics --create"


async def test_a_topic_made_again_is_begun_anew(scene: Scene) -> None:
    """The former lease ends, the new one begins at the first record, and commits nothing before an answer."""
    scene.hold(50)
    former = scene.leases[PLACE]
    scene.thread.found = {"requests": CURRENT}
    await scene.watch.look()
    lease = scene.leases[PLACE]
    assert (former.alive, lease.position, lease.anew, scene.thread.sought) == (False, None, True, [{PLACE: 0}])
    assert lease.commit_point() is None


async def test_a_topic_that_stayed_is_left_alone(scene: Scene) -> None:
    """The same id, or none that can be had, changes nothing."""
    scene.hold(50)
    for found in ({"requests": FORMER}, {"requests": None}, {}):
        scene.thread.found = found
        await scene.watch.look()
    assert (scene.leases[PLACE].alive, scene.thread.sought) == (True, [])


async def test_what_retention_took_is_counted(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Reading goes on where the log begins, and the number of offsets between is said and kept."""
    scene.hold(50)
    scene.thread.log = (80, 100)
    await scene.watch.resume({TopicPartition(*PLACE): 50})
    assert (scene.watch.skipped, scene.leases[PLACE].point, scene.thread.sought) == (30, 80, [{PLACE: 80}])
    assert "requests-0: 30 offsets, from 50 on, went from the log unread" in caplog.text


async def test_a_log_of_which_nothing_was_read_has_lost_nothing(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Its lease was taken before its leader said where it begins: what it had before was nobody's."""
    scene.leases[PLACE] = scene.leases.lease(PLACE, FORMER, None)
    scene.leases[PLACE].start = 0
    scene.thread.log = (80, 100)
    scene.watch.guessed = {PLACE}
    await scene.watch.resume({TopicPartition(*PLACE): 0})
    assert (scene.watch.skipped, scene.leases[PLACE].position, scene.thread.sought) == (0, None, [{PLACE: 80}])
    assert (caplog.text, scene.watch.guessed) == ("", set())
    scene.leases[PLACE].start = 80  # its beginning is known now: what goes is told
    scene.thread.log = (90, 100)
    await scene.watch.resume({TopicPartition(*PLACE): 80})
    assert scene.watch.skipped == 10


async def test_a_log_that_lost_its_end_is_read_from_its_beginning(scene: Scene) -> None:
    """Nobody knows where it was cut: nothing is skipped, and the commit goes back with the first answer."""
    scene.hold(500)
    await scene.watch.resume({TopicPartition(*PLACE): 500})
    lease = scene.leases[PLACE]
    assert (lease.position, lease.committed, lease.anew, scene.watch.skipped) == (0, None, True, 0)


async def test_a_lease_on_a_log_that_lost_its_end_is_still_of_its_member(scene: Scene) -> None:
    """Else no transaction would take its offsets, and its results would wait for the next rebalance."""
    scene.hold(500)
    scene.leases[PLACE].member = Member(3, "me")
    await scene.watch.resume({TopicPartition(*PLACE): 500})
    assert scene.leases[PLACE].member == Member(3, "me")


async def test_what_a_lost_member_finished_is_known_unless_somebody_has_committed(scene: Scene) -> None:
    """A lease taken again goes on from what its predecessor knew, also if the group's commit is gone, but not past
    what another owner, or an operator, has committed meanwhile.
    """
    for commit, position in (
        (OffsetAndMetadata(50, memo.sign(OWNER, FORMER)), 60),
        (None, 60),
        (OffsetAndMetadata(55, memo.sign(OWNER, FORMER)), 55),
        (OffsetAndMetadata(20, ""), 20),
    ):
        scene.hold(50)
        scene.leases[PLACE].deliver((), 60)
        scene.leases.give_up(PLACE)
        assert scene.leases.lease(PLACE, FORMER, commit).position == position


async def test_bounds_that_nobody_tells_in_time_are_looked_up_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that is away when a log has lost its beginning is waited for, and not for as long as aiokafka would."""
    monkeypatch.setattr(module, "LOOK_TIMEOUT", 0.05)
    scene.hold(10)

    async def silent(_: TP) -> tuple[int, int]:
        await asyncio.sleep(60)
        raise AssertionError

    scene.thread.span = silent  # type: ignore[method-assign]
    with pytest.raises(KafkaTimeoutError, match="requests-0 begins and ends is not known") as caught:
        await scene.watch.resume({PLACE: 10})
    assert may_pass(caught.value)


async def test_bounds_of_what_is_not_ours_any_more_move_nothing(scene: Scene) -> None:
    """A rebalance may come while they are looked up."""
    scene.hold(10)

    async def taken(_: TP) -> tuple[int, int]:
        del scene.leases[PLACE]
        return 0, 5

    scene.thread.span = taken  # type: ignore[method-assign]
    await scene.watch.resume({PLACE: 10})
    assert scene.thread.sought == []


async def test_a_topic_made_again_with_fewer_partitions_ends_no_worker(scene: Scene) -> None:
    """Where the former ones began aiokafka cannot find out, and says that at last it timed out."""
    scene.hold(10)
    scene.thread.found = {"requests": CURRENT}

    async def begins(_: Any) -> Any:
        raise KafkaTimeoutError

    scene.thread.begins = begins  # type: ignore[method-assign]
    await scene.watch.look()
