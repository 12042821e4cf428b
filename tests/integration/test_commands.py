"""The command line, as its users run it: real processes, their output and their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from agents.testing.broker import Apache, Broker, free_port
from tests.integration.stage import PATIENCE, Stage, Upstream, python_of


async def millrace(stage: Stage | None, *arguments: str, stdin: bytes = b"", release: Path | None = None,
                   **settings: str) -> tuple[int, str, str]:  # fmt: skip
    """Run a command to its end, of another release if its folder is given; returns exit code, stdout, stderr."""
    environment = (stage.environment if stage else os.environ) | settings
    process = await asyncio.create_subprocess_exec(
        python_of(release), "-m", "agents", *arguments, env=environment, cwd=release,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(stdin), PATIENCE)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_topics_are_created_and_verified(kafka: Broker) -> None:
    """`topics` says what is missing and ends with 1; `--create` makes it; then it verifies with 0."""
    async with Stage(kafka.servers) as stage:
        code, _, err = await millrace(stage, "topics")
        assert (code, err.count("does not exist"), err.count("redrive creates it")) == (1, 9, 1)
        code, out, err = await millrace(stage, "topics", "--create", "--partitions", "3")
        assert (code, out.count("partitions=3"), err.count("created")) == (0, 7, 9)
        code, out, _ = await millrace(stage, "topics")
        assert (code, len(out.splitlines())) == (0, 9)
        code, _, err = await millrace(stage, "topics", MILLRACE_RESULTS_TOPIC=f"other-{stage.mark}")
        assert (code, "topics --create" in err) == (1, True)


async def test_looking_for_topics_makes_none(kafka: Broker) -> None:
    """On a broker that makes what it is asked for by name, verifying leaves nothing behind and --create has its say."""
    if kafka.apache is None:
        pytest.skip("needs a broker of the test's own")
    with Apache(**{"auto.create.topics.enable": "true"}) as broker:
        stage = Stage(broker.servers)
        for _ in range(2):
            code, _, err = await millrace(stage, "topics")
            assert (code, err.count("does not exist")) == (1, 9)
        code, out, _ = await millrace(stage, "topics", "--create", "--partitions", "3")
        assert (code, out.count("partitions=3"), out.count("partitions=1\t")) == (0, 7, 2)


async def test_topics_say_what_differs(kafka: Broker) -> None:
    """Partition counts and size limits that will not work well together are told."""
    async with Stage(kafka.servers) as stage:
        await stage.create_topics(dead_letters={"max.message.bytes": "1000"}, results={"cleanup.policy": "compact"})
        wider = f"wider-{stage.mark}"
        await millrace(stage, "topics", "--create", "--partitions", "7", MILLRACE_RESULTS_TOPIC=wider)
        code, _, err = await millrace(stage, "topics")
        assert code == 0
        assert "takes 1000 bytes" in err
        assert "compacted" in err


async def test_send_work_and_tail(stage: Stage, upstream: Upstream, tmp_path: Path) -> None:
    """What `send` sends, from options, a file and stdin, the worker answers and `tail` shows; bad lines are named."""
    await stage.start()
    url = f"{upstream.url}/doc/7"
    one = "send", "--url", url, "--schema", "json", "--check", "is_prime:n", "--id", "one", "--key", "k"
    code, out, err = await millrace(stage, *one)
    assert (code, out, err) == (0, "one\n", f"1 sent to {stage.requests}\n")
    lines = tmp_path / "requests.jsonl"
    denied = '{"url": "http://user:word@h/"}'  # no request's line keeps those after it from being sent
    lines.write_text(f'{denied}\n\n{{"url": 5}}\nnonsense\n' + json.dumps({"id": "two", "url": url}) + "\n")
    code, _, err = await millrace(stage, "send", str(lines))
    assert code == 1
    assert "line 1: url: credentials" in err
    assert "line 3: url" in err  # as an editor counts them, empty ones too
    assert "line 4: not JSON" in err
    assert "1 sent" in err
    code, _, err = await millrace(stage, "send", stdin=json.dumps({"id": "three", "url": url}).encode())
    assert (code, "1 sent" in err) == (0, True)
    assert (await millrace(stage, "send", "--raw", stdin=b"not json"))[0] == 0
    code, out, _ = await millrace(stage, "send", "--url", url, "--json", "--max-age", "0", "--timeout", "9.5")
    place = json.loads(out)
    assert (code, place["id"]) == (0, f"{stage.requests}-{place['partition']}-{place['offset']}")
    for wrong in ((str(lines), "--url", url), (str(lines), "--schema", "json"), ("--id", "x"), ("--check", "is_prime"),
                  ("--url", url, "--param", "n=1"), ("--source", "s", "--param", "n"),
                  ("--source", "s", "--url", url)):  # fmt: skip
        code, _, err = await millrace(stage, "send", *wrong)
        assert (code, err.startswith("millrace send: ")) == (2, True)
    tail = "tail", "--from-beginning", "--json", "-n", "5"
    code, out, _ = await millrace(stage, *tail)
    assert code == 0
    results = [json.loads(line) for line in out.splitlines()]
    assert {"one", "two", "three"} < {result["id"] for result in results}
    code, out, _ = await millrace(stage, *tail[:2], "-n", "1", "--outcome", "invalid_request")
    assert "invalid_request" in out
    assert "not JSON" in out
    code, out, _ = await millrace(stage, *tail[:2], "-n", "1", "--key", "k")
    assert "  k  one  ok" in out
    assert "is_prime=True" in out
    code, out, _ = await millrace(stage, "tail", "--since", "1h", "--id", "two", "-n", "1")
    assert (code, "  two  ok" in out) == (0, True)
    code, out, _ = await millrace(stage, "tail", "--since", "1h", "--until", "0s", "--json")
    assert (code, len(out.splitlines())) == (0, 5)
    code, out, _ = await millrace(stage, "tail", "--until", "1h")
    assert (code, out) == (0, "")


async def test_fetch_prints_sizes_and_reasons(upstream: Upstream) -> None:
    """`fetch` prints a line a URL in the order given, and ends with 1 if one of them could not be had."""
    good, bad = f"{upstream.url}/doc/1", f"{upstream.url}/nowhere"
    settings = {"MILLRACE_ALLOW_NETWORKS": "127.0.0.0/8", "MILLRACE_ALLOW_PORTS": "1-65535"}
    code, out, _ = await millrace(None, "fetch", f"{good}?status=206", **settings)
    assert (code, "answered 206 Partial Content to a request without Range" in out) == (1, True)
    code, out, _ = await millrace(None, "fetch", good, **settings)
    assert (code, out) == (0, f"'{good}' page is 8 bytes\n")
    slow = f"{upstream.url}/doc/2?delay=30"
    code, out, _ = await millrace(None, "fetch", slow, bad, good, MILLRACE_TIMEOUT="1", **settings)
    assert code == 1
    first, second, third = out.splitlines()
    assert first.startswith(f"'{slow}' generated an exception: TimedOut")
    assert second.startswith(f"'{bad}' generated an exception: UpstreamError: 127.0.0.1 answered 404")
    assert third == f"'{good}' page is 8 bytes"
    code, out, _ = await millrace(None, "fetch", "--json", good, "nonsense", **settings)
    assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["ok", "invalid_request"]


async def test_check_prints_the_textbook_lines() -> None:
    """`check is_prime` prints `N is prime: True`; other checks their value; a failing one ends with 1."""
    code, out, _ = await millrace(None, "check", "is_prime", "112272535095293", "1099726899285419")
    assert (code, out) == (0, "112272535095293 is prime: True\n1099726899285419 is prime: False\n")
    code, out, _ = await millrace(None, "check", "sha256", "abc")
    assert out == "abc sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
    code, out, _ = await millrace(None, "check", "is_prime", "[1]", "7", "--json")
    assert code == 1
    assert [json.loads(line).get("value") for line in out.splitlines()] == [None, True]
    code, out, _ = await millrace(None, "check", "is_prime", "x")
    assert (code, "generated an exception: TypeError" in out) == (1, True)
    code, out, _ = await millrace(None, "check", "json_schema", "5", "--args", '{"schema":{"type":"string"}}')
    assert (code, out) == (0, "5 json_schema: False\n")
    for wrong in (("nope", "1"), ("is_prime", "1", "--args", "[]"), ("is_prime", "1", "--args", "{")):
        assert (await millrace(None, "check", *wrong))[0] == 2


async def test_config_prints_settings_and_names_wrong_ones(tmp_path: Path) -> None:
    """`config` masks secrets; wrong settings are all named and end with 2, for every command."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    code, out, _ = await millrace(None, "config", KAFKA_SASL_PASSWORD_FILE=str(secret), MILLRACE_PLUGINS="a, b")
    assert code == 0
    assert "KAFKA_SASL_PASSWORD=********" in out
    assert "hunter2" not in out
    assert "MILLRACE_PLUGINS=a,b" in out
    code, out, _ = await millrace(None, "config", "--json")
    assert json.loads(out)["MILLRACE_MAX_IN_FLIGHT"] == 256
    code, _, err = await millrace(None, "config", MILLRACE_TIMEOUT="x", MILLRACE_WEB_PORT="-1")
    assert (code, "MILLRACE_TIMEOUT" in err, "MILLRACE_WEB_PORT" in err) == (2, True, True)
    assert (await millrace(None, "worker", MILLRACE_CACHE="redis://"))[0] == 2
    assert (await millrace(None, "nonsense"))[0] == 2


async def test_a_worker_that_cannot_start_says_why(stage: Stage, kafka: Broker) -> None:
    """No broker, no topic, a taken port, a bad plugin: one sentence and an exit code, no traceback."""
    nowhere = f"127.0.0.1:{free_port()}"
    code, _, err = await millrace(stage, "worker", KAFKA_BOOTSTRAP_SERVERS=nowhere)
    assert (code, "cannot be reached" in err, "Traceback" in err) == (1, True, False), err
    code, _, err = await millrace(stage, "worker", MILLRACE_REQUESTS_TOPIC="missing")
    assert (code, "topics --create" in err, "Traceback" in err) == (1, True, False), err
    gone = {"MILLRACE_RESULTS_TOPIC": "missing", "MILLRACE_DEAD_LETTERS_TOPIC": "gone", "MILLRACE_GROUP": "unborn"}
    workers = {"MILLRACE_WORKERS_TOPIC": f"workers-{stage.mark}"}
    code, _, err = await millrace(stage, "worker", **gone, **workers)
    assert (code, "no topic 'missing', 'gone' at" in err, "Traceback" in err) == (1, True, False), err
    code, _, err = await millrace(stage, "topics", **workers)
    assert f"{workers['MILLRACE_WORKERS_TOPIC']!r} does not exist" in err  # nothing was made by who could not start
    code, _, err = await millrace(stage, "worker", MILLRACE_PLUGINS="no_such_module")
    assert (code, "no_such_module" in err, "Traceback" in err) == (2, True, False), err
    running = await stage.start()
    port = running.url.rpartition(":")[2]
    code, _, err = await millrace(stage, "worker", MILLRACE_WEB_PORT=port)
    assert (code, f"cannot listen on 127.0.0.1:{port}" in err, "Traceback" in err) == (2, True, False), err
    for command in (("send", "--url", "http://h/"), ("tail", "-n", "1"), ("topics",)):
        code, _, err = await millrace(stage, *command, KAFKA_BOOTSTRAP_SERVERS=nowhere)
        assert (code, "cannot be reached" in err, "Traceback" in err) == (1, True, False), err


async def test_tail_waits_for_a_broker_that_goes_away(kafka: Broker, upstream: Upstream) -> None:
    """It says once that the broker is away and once that it is back, and goes on; with --give-up it ends with 1."""
    if kafka.apache is None:
        pytest.skip("needs a broker of the test's own")
    with Apache() as broker:
        async with Stage(broker.servers) as stage:
            await stage.create_topics()

            async def tail(*options: str) -> asyncio.subprocess.Process:
                return await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "agents", "tail", *options, env=stage.environment,
                    stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip

            waiting = await tail("--from-beginning", "-n", "2", "--json")
            giving_up = await tail("--from-beginning", "--give-up", "1")
            await (await stage.producer.send(stage.results, b'{"id": "a", "outcome": "ok"}', partition=0))
            assert waiting.stdout is not None
            assert waiting.stderr is not None
            assert giving_up.stdout is not None
            async with asyncio.timeout(PATIENCE):
                for each in (waiting, giving_up):
                    assert re.search(rb'"a"|  a  ok', await each.stdout.readline())
                await asyncio.to_thread(broker.stop)
                assert b"cannot be reached" in await waiting.stderr.readline()
                _, err = await giving_up.communicate()
                assert (giving_up.returncode, b"millrace: Kafka at" in err, len(err.splitlines())) == (1, True, 2), err
                await asyncio.to_thread(broker.start)
                assert b"reachable again" in await waiting.stderr.readline()
                await (await stage.producer.send(stage.results, b'{"id": "b", "outcome": "ok"}', partition=0))
                out, err = await waiting.communicate()
            assert (waiting.returncode, b'"b"' in out, err) == (0, True, b"")


async def test_a_member_that_the_group_refuses_ends_with_the_reason(kafka: Broker, stage: Stage) -> None:
    """Aiokafka gives up joining in the background; the worker notices, says why and ends: its group has a member that
    shares partitions by another rule.
    """
    group = f"other-{stage.mark}"
    other = AIOKafkaConsumer(
        stage.requests, bootstrap_servers=kafka.servers, group_id=group,
        partition_assignment_strategy=(RangePartitionAssignor,),
    )  # fmt: skip
    await other.start()
    try:
        code, _, err = await millrace(stage, "worker", MILLRACE_GROUP=group)
    finally:
        await other.stop()
    assert code == 1
    assert "millrace: Kafka at" in err


async def test_health(stage: Stage) -> None:
    """/livez answers at once; /readyz when the partitions are assigned and results can be published."""
    worker = await stage.start()
    async with aiohttp.ClientSession() as session:
        async with session.get(worker.url + "/livez") as response:
            assert (response.status, await response.text()) == (200, "ok\n")
        async with session.get(worker.url + "/readyz?verbose") as response:
            text = await response.text()
    assert text == "connected: ok\nassigned: ok\nrecovered: ok\ncommitting: ok\npublishing: ok\nchecks: ok\nready\n"


async def test_faust_users_start_it_their_way(stage: Stage, upstream: Upstream) -> None:
    """`faust -A agents.worker worker` is the same worker, without Faust's web server."""
    worker = await stage.start("-m", "faust", "-A", "agents.worker", "worker", "-l", "info", ready=False)
    await stage.until_ready(worker)
    await stage.send([json.dumps({"id": "f", "url": f"{upstream.url}/doc/1"}).encode()])
    await stage.results_of({"f"})
    worker.terminate()
    assert await worker.ended() == 0
    assert not any("6066" in line for line in worker.log)


async def test_a_plugin_adds_checks_and_schemas(stage: Stage, upstream: Upstream, tmp_path: Path) -> None:
    """A module named in MILLRACE_PLUGINS registers a schema, loaded by its post_load, and a check run in the pool."""
    (tmp_path / "my_checks.py").write_text(
        "import os\n"
        "from dataclasses import dataclass\n"
        "from marshmallow import fields, post_load\n"
        "from models.checks import check\n"
        "from models.documents import schema\n"
        "from models.schema import StrictSchema\n"
        "PARENT = os.getppid()\n"
        "@dataclass\n"
        "class Number:\n"
        "    n: int\n"
        "    @property\n"
        "    def doubled(self): return self.n * 2\n"
        "@schema('number')\n"
        "class NumberSchema(StrictSchema):\n"
        "    n = fields.Integer(required=True)\n"
        "    doubled = fields.Integer(dump_only=True)\n"
        "    @post_load\n"
        "    def _number(self, data, **_): return Number(**data)\n"
        "@check\n"
        "def process(value): return os.getpid()\n"
    )
    worker = await stage.start(MILLRACE_PLUGINS="my_checks", PYTHONPATH=str(tmp_path))
    await stage.send([json.dumps({"id": "p", "url": f"{upstream.url}/doc/21", "schema": "number",
                                  "checks": ["process"]}).encode()])  # fmt: skip
    [seen] = await stage.results_of({"p"})
    assert seen.result["document"] == {"n": 21, "doubled": 42}
    assert seen.result["checks"][0]["value"] not in (worker.process.pid, None)


async def test_the_demo_answers_everything_and_leaves_nothing_behind(broker: Broker) -> None:
    """`demo` ends with 0 and a table that says nothing was lost."""
    settings = {"KAFKA_BOOTSTRAP_SERVERS": broker.servers} if broker.real else {}
    code, out, err = await millrace(None, "demo", **settings)
    assert code == 0, out + err
    assert "requests lost" in out
    assert "2,000" in out
    assert "millrace worker" in err


async def test_the_demo_of_routes_shows_what_comes_out(broker: Broker) -> None:
    """`demo --routes` ends with 0 and prints an order of each kind, as it was sent and as it came out."""
    settings = {"KAFKA_BOOTSTRAP_SERVERS": broker.servers} if broker.real else {}
    code, out, err = await millrace(None, "demo", "--routes", **settings)
    assert code == 0, out + err
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert [name for name, _ in lines] == ["orders", "orders-enriched", "orders", "orders-failed"]
    order, enriched = (json.loads(lines[at][1]) for at in (0, 1))
    assert enriched == order | {"risk": enriched["risk"], "prices": enriched["prices"]}
    assert (len(enriched["prices"]), "404" in lines[3][1]) == (2, True)
    assert ": 190 enriched, 10 failed, 0 lost" in err


async def test_a_broker_to_throw_away() -> None:
    """`python -m agents.testing.broker` prints where it is, is there, and is no more after Ctrl-C."""
    environment = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agents.testing.broker", env=environment, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        servers = (await process.stdout.readline()).decode().strip()
        code, _, err = await millrace(None, "topics", KAFKA_BOOTSTRAP_SERVERS=servers)
        assert (code, "does not exist" in err) == (1, True), err
        process.send_signal(signal.SIGINT)
        _, err_bytes = await process.communicate()
    assert (process.returncode, b"Traceback" in err_bytes) == (0, False), err_bytes
    host, _, port = servers.rpartition(":")
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection(host, int(port))


UNHEEDING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
"""Runs a command with SIGINT ignored, as a shell without job control starts what is in its background."""


async def test_ctrl_c_ends_the_demo_and_all_it_started(broker: Broker) -> None:
    """SIGINT in mid-run ends worker, broker and demo, in a shell's background too; no process of theirs is left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", UNHEEDING, sys.executable, "-m", "agents", "demo", "--requests", "100000"),
        start_new_session=True, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(2 * PATIENCE):
        while b"worker: process" not in (line := await process.stderr.readline()):
            assert line, "the demo ended before it started a worker"
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        await process.stderr.read()
        assert await process.wait() == 130
    _, left = psutil.wait_procs(children, timeout=10)
    assert not left
