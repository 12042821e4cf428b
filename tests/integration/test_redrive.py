"""Dead letters put back on the topic of the requests: each once, whatever happens, with its id and its count."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter

import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from agents.redrive import dead_letters as module
from agents.redrive.dead_letters import BEFORE, DeadLetters
from agents.testing.broker import Broker
from models.dead_letter import DeadLetterFilter
from streams.config.settings import Kafka as KafkaSettings
from streams.config.settings import Settings
from tests.integration.stage import PATIENCE, Stage, Upstream, asked
from tests.integration.test_commands import millrace
from tests.integration.test_contract import NotUtf8

pytestmark = pytest.mark.kafka
DLQ = "__dlq.errors."


async def dead(
    stage: Stage, count: int, *, prefix: str = "d", host: str = "upstream:80", keyed: bool = True, **more: bytes
) -> None:
    """Write dead letters as a worker does."""
    pending = []
    for n in range(count):
        said = {"topic": stage.requests.encode(), "partition": b"%d" % (n % stage.partitions), "offset": b"%d" % n,
                "timestamp": b"1764221265123", "group": stage.group.encode(), "delivery.count": b"1",
                "id": f"{prefix}{n}".encode(), "host": host.encode(), "message": b"no", "outcome": b"timeout",
                "first": b"%b-0-%d" % (stage.requests.encode(), n)} | more  # fmt: skip
        headers = [("mine", b"kept"), ("null", None), *((DLQ + name, content) for name, content in said.items())]
        value = asked("http://upstream/", n) if prefix == "r" else json.dumps({"url": "http://upstream/"}).encode()
        pending.append(
            await stage.producer.send(
                stage.dead_letters, value, b"k%d" % n if keyed else None, n % stage.partitions, headers=headers
            )
        )
    await asyncio.gather(*pending)


async def put_back(stage: Stage) -> list[dict[str, bytes]]:
    """Return the headers of the requests that a worker would see."""
    consumer = AIOKafkaConsumer(bootstrap_servers=stage.servers, isolation_level="read_committed", fetch_max_wait_ms=20)
    await consumer.start()
    try:
        tps = [TopicPartition(stage.requests, number) for number in range(stage.partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(tps)
        found = []
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += [dict(record.headers) for record in records]
        return found
    finally:
        await consumer.stop()


async def test_a_redriven_request_keeps_its_id_and_counts_on(kafka: Broker, stage: Stage) -> None:
    """One that succeeds then has a second result of the same id; one that fails again a new letter that counts 2."""
    upstream, later = Upstream(), {"there": False}

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"n": 1}) if later["there"] else web.Response(status=404)

    upstream.app.router.add_get("/later", answer)
    await stage.start()
    async with upstream:
        await _redrive_after_a_failure(stage, upstream.url, later)


async def _redrive_after_a_failure(stage: Stage, upstream: str, later: dict[str, bool]) -> None:
    asked_now = [{"url": f"{upstream}/later", "max_age": 0}, {"url": f"{upstream}/never", "id": "n", "max_age": 0}]
    await stage.send([*(json.dumps(each).encode() for each in asked_now), b'{"id": "bad", "url": 5}'])
    await stage.until_results(3)
    before = {each.result["id"]: each for each in await stage.read()}
    [unnamed] = set(before) - {"n", "bad"}
    later["there"] = True
    code, out, err = await millrace(stage, "redrive", "--all")
    assert (code, "3 redriven" in err, out.count("  redriven  ")) == (0, True, 3), err
    await stage.until_results(6)
    again = Counter((each.result["id"], each.result["outcome"]) for each in await stage.read())
    assert again == {(unnamed, "upstream_error"): 1, (unnamed, "ok"): 1, ("n", "upstream_error"): 2,
                     ("bad", "invalid_request"): 2}  # fmt: skip
    letters = await stage.read(stage.dead_letters)
    counts = Counter((each.headers[DLQ + "id"].decode(), each.headers[DLQ + "delivery.count"]) for each in letters)
    assert counts == {(unnamed, b"1"): 1, ("n", b"1"): 1, ("n", b"2"): 1, ("bad", b"1"): 1, ("bad", b"2"): 1}
    code, _, err = await millrace(stage, "redrive", "--all", "--dry-run")
    assert "2 would be redriven" in err
    assert "3 not redriven: redriven before" in err


async def test_letters_are_chosen(kafka: Broker, stage: Stage) -> None:
    """By outcome, host, id, place and time; a dry run writes nothing; a limit holds; wrong choices are refused."""
    code, out, err = await millrace(stage, "redrive", "--all")
    assert (code, out, err) == (0, "", f"no dead letter in {stage.dead_letters}\n")  # there are none yet
    await dead(stage, 8)
    await dead(stage, 1, prefix="other", host="elsewhere:8080", outcome=b"denied", offset=b"900")

    async def chosen(*options: str) -> list[str]:
        code, out, err = await millrace(stage, "redrive", "--dry-run", "--json", *options)
        assert code == 0, err
        return sorted(json.loads(line)["id"] for line in out.splitlines())

    everything = sorted([f"d{n}" for n in range(8)] + ["other0"])
    assert await chosen("--all") == everything
    assert await chosen("--outcome", "denied") == ["other0"]
    assert await chosen("--host", "elsewhere") == await chosen("--host", "elsewhere:8080") == ["other0"]
    assert await chosen("--id", "d3", "--id", "d4") == ["d3", "d4"]
    assert await chosen("--letter", "1:0", "--letter", "2:1") == ["d1", "d6"]
    assert await chosen("--since", "1h") == everything
    assert await chosen("--until", "1h") == []
    assert await chosen("--host", "upstream", "--outcome", "denied") == []
    assert len(await chosen("--all", "--limit", "2")) == 2
    assert await put_back(stage) == []
    code, _, err = await millrace(stage, "redrive", "--letter", "1:0", "--letter", "3:77")
    assert (code, "no dead letter 3:77" in err, "1 redriven" in err) == (1, True, True)
    [headers] = await put_back(stage)
    assert headers == {"mine": b"kept", "null": None, DLQ + "delivery.count": b"1", "ce_id": b"d1",
                       DLQ + "first": b"%b-0-1" % stage.requests.encode()}  # fmt: skip
    for wrong in ([], ["--all", "--id", "x"], ["--since", "noon"], ["--letter", "x"], ["--rate", "-1"]):
        assert (await millrace(stage, "redrive", *wrong))[0] == 2


async def test_what_cannot_be_redriven_is_said(kafka: Broker, stage: Stage) -> None:
    """A value that was left out, another installation's letter, a record of nobody's, and one redriven before."""
    await dead(stage, 1, prefix="dropped", **{"value.bytes": b"2000000"})
    await dead(stage, 1, prefix="foreign", topic=b"another")
    await dead(stage, 1, prefix="long" * 40, offset=b"7")
    await dead(stage, 2, prefix="twice")  # the same request, answered again after a crash
    await dead(stage, 1, prefix="twice")
    await (await stage.producer.send(stage.dead_letters, b"nobody's"))
    code, _, err = await millrace(stage, "redrive", "--all")
    assert code == 0
    for said in ("2 redriven", "value of 2000000 bytes was too large to keep", "came from topic 'another'",
                 "lacks the headers of a dead letter", "id is invalid", "1 not redriven: redriven before"):  # fmt: skip
        assert said in err, err


async def test_a_letter_without_key_holds_up_none_where_requests_are_compacted(kafka: Broker) -> None:
    """Kafka would refuse it, and with it the transaction that it is in: it is passed over, the others are redriven."""
    async with Stage(kafka.servers) as stage:
        await stage.create_topics(requests={"cleanup.policy": "compact"})
        await dead(stage, 4)
        await dead(stage, 1, prefix="keyless", keyed=False, offset=b"4")
        code, _, err = await millrace(stage, "redrive", "--all", "--rate", "0")
        assert (code, "4 redriven" in err, "1 not redriven: it has no key, and topic " in err) == (0, True, True), err
        assert {headers["ce_id"] for headers in await put_back(stage)} == {b"d%d" % n for n in range(4)}
        assert (await millrace(stage, "redrive", "--id", "keyless0"))[0] == 1


async def test_a_letter_that_aiokafka_cannot_read_holds_up_none(kafka: Broker, stage: Stage) -> None:
    """A header name that is no UTF-8 ends aiokafka's parser in mid-batch: all letters are redriven all the same."""
    await dead(stage, 4)
    batch = stage.producer.create_batch()
    batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, 1 << 20)
    batch.append(timestamp=None, key=None, value=b"x", headers=[(NotUtf8("x"), b"1")])
    await (await stage.producer.send_batch(batch, stage.dead_letters, partition=1))
    await dead(stage, 4, prefix="e", timestamp=b"1764221265124")
    code, _, err = await millrace(stage, "redrive", "--all")
    assert (code, "8 redriven" in err, "1 not redriven: it lacks the headers" in err) == (0, True, True), err


async def test_killed_in_the_middle_it_goes_on_where_it_was(kafka: Broker, stage: Stage) -> None:
    """After kill -9 in mid-run, and another run, every letter is back on the requests topic exactly once."""
    await dead(stage, 400)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agents", "redrive", "--all", "--rate", "200", "--json", env=stage.environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        for _ in range(120):
            assert await process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    await process.wait()
    done = len(await put_back(stage))
    assert 100 <= done < 400
    code, _, err = await millrace(stage, "redrive", "--all", "--rate", "0")
    assert (code, f"{400 - done} redriven" in err, f"{done} not redriven: redriven before" in err) == (0, True, True), (
        err
    )
    assert Counter(headers["ce_id"] for headers in await put_back(stage)) == {b"d%d" % n: 1 for n in range(400)}


async def test_two_at_once_do_it_once(kafka: Broker, stage: Stage) -> None:
    """The one that begins later takes over; together they put every letter back exactly once, and the first says so."""
    await dead(stage, 300)
    first = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agents", "redrive", "--all", "--rate", "10", "--json", env=stage.environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert first.stdout is not None
    async with asyncio.timeout(PATIENCE):
        await first.stdout.readline()
        second = asyncio.create_task(millrace(stage, "redrive", "--all", "--rate", "0"))
        _, said = await first.communicate()
        code, _, err = await second
    assert code == 0, err
    assert (first.returncode, b"another redrive has begun" in said) == (1, True), said
    assert Counter(headers["ce_id"] for headers in await put_back(stage)) == {b"d%d" % n: 1 for n in range(300)}


async def test_the_newest_that_match_are_found_behind_others(
    kafka: Broker, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter looks further back than without one, as far as SEARCHED says."""
    await dead(stage, 1, prefix="other", outcome=b"denied", source=b"s", status=b"403", offset=b"900")
    await dead(stage, 40)
    settings = Settings(kafka=KafkaSettings(bootstrap_servers=stage.servers), group=stage.group,
                        requests_topic=stage.requests, dead_letters_topic=stage.dead_letters)  # fmt: skip
    letters = DeadLetters(settings)
    for selected in (DeadLetterFilter(sources=frozenset({"s"})), DeadLetterFilter(statuses=frozenset({403}))):
        assert [each.request_id for each in await letters.latest(2, selected)] == ["other0"]
    assert len(await letters.latest(2, DeadLetterFilter(retryable=True))) == 2
    assert await letters.latest(2, DeadLetterFilter(since=time.time() + 60)) == []
    whole = await letters.whole((0, 0))
    assert whole is not None
    assert (whole.request_id, whole.key, dict(whole.headers)["mine"]) == ("other0", b"k0", b"kept")
    assert [await letters.whole(gone) for gone in ((0, 999), (99, 0))] == [None, None]
    monkeypatch.setattr(module, "SEARCHED", 4)
    assert await letters.latest(2, DeadLetterFilter(sources=frozenset({"s"}))) == []


async def test_the_newest_letters_come_first(kafka: Broker, stage: Stage) -> None:
    """`latest` returns as many as asked for, newest first, and says at once which were redriven."""
    await dead(stage, 30)
    kafka_settings = KafkaSettings(bootstrap_servers=stage.servers)
    settings = Settings(kafka=kafka_settings, group=stage.group, requests_topic=stage.requests,
                        dead_letters_topic=stage.dead_letters)  # fmt: skip
    letters = DeadLetters(settings)
    report = await letters.redrive(DeadLetterFilter(positions=frozenset({(1, 7)})))
    assert (report.redriven, report.missing) == (1, [])
    everything, latest = await letters.latest(100), await letters.latest(10)
    assert {letter.request_id for letter in everything if letter.redriven} == {"d29"}
    assert [letter.at for letter in everything] == sorted((letter.at for letter in everything), reverse=True)
    assert (len(everything), [letter.at for letter in latest]) == (30, [letter.at for letter in everything[:10]])
    again = await letters.redrive(DeadLetterFilter(positions=frozenset({(1, 7)})))
    assert again.refused == {BEFORE: 1}


async def test_marks_of_letters_that_kafka_deleted_are_taken_back(
    kafka: Broker, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tombstones, in a transaction like all else: whoever reads the marks then has those of letters there are."""
    monkeypatch.setattr(module, "MANY_MARKS", 0)
    monkeypatch.setattr(module, "MARK_AGE", -60.0)  # none is young
    await dead(stage, 12)
    settings = Settings(kafka=KafkaSettings(bootstrap_servers=stage.servers), group=stage.group,
                        requests_topic=stage.requests, dead_letters_topic=stage.dead_letters)  # fmt: skip
    letters = DeadLetters(settings)
    assert (await letters.redrive(DeadLetterFilter(), rate=0)).redriven == 12
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.servers)
    await admin.start()
    gone = {TopicPartition(stage.dead_letters, n): RecordsToDelete(before_offset=3 if n else 2) for n in range(4)}
    await admin.delete_records(gone)
    await admin.close()
    assert (await letters.redrive(DeadLetterFilter())).refused == {BEFORE: 1}
    fresh = DeadLetters(settings)
    assert (await fresh.redrive(DeadLetterFilter())).refused == {BEFORE: 1}
    assert len(fresh._marked) == 1
    assert len(await put_back(stage)) == 12
