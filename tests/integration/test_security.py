"""On a Kafka that is secured: every way in works, and whoever is not let in is told why at once.

One broker for all of it, with a listener of each kind.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from confluent_kafka.admin import ResourceType

from agents.testing.broker import Broker
from models.errors import AccessError, BrokerError
from streams.config.settings import Kafka
from streams.kafka.topics import Admin
from tests.integration.secured import DESCRIBE, READ, SESSION_MS, WRITE, Secured, TokenEndpoint, everything, issue
from tests.integration.secured import secured as make_secured
from tests.integration.stage import PATIENCE, Stage, Upstream, Worker, asked
from tests.integration.test_commands import millrace
from tests.turns import slowness

pytestmark = pytest.mark.kafka
QUICK = 15.0
"""Seconds in which a process must have ended that is not let in; it takes 1."""
TOPIC, GROUP = ResourceType.TOPIC, ResourceType.GROUP
COMMANDS = (["worker"], ["send", "--url", "http://h/"], ["tail", "-n", "1"], ["topics"], ["redrive", "--all"])


@pytest.fixture(scope="module")
def secured(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """The secured broker of this module."""
    if broker.apache is None:
        pytest.skip("needs a broker of its own")
    folder = tmp_path_factory.mktemp("tls")
    with make_secured(folder, ["worker", "nobody", "part", "tables"]) as apache:
        yield Secured(apache, folder)


@pytest.fixture
async def stage(secured: Secured) -> AsyncIterator[Stage]:
    """Topics of one test's own, with ACLs for the user `worker`."""
    async with Stage(secured.apache.servers) as opened:
        async with Admin(Kafka(bootstrap_servers=opened.servers)) as admin:
            for name in (opened.requests, opened.results, opened.dead_letters):
                await admin.create(name, opened.partitions, 1)
            await admin.create(f"workers-{opened.mark}", 1, 1, **{"cleanup.policy": "compact"})
            await admin.settled(opened.requests, opened.results, opened.dead_letters)
        needs = everything(opened.group, opened.requests, opened.results, opened.dead_letters)
        await asyncio.to_thread(
            secured.grant, "worker", *needs, (TOPIC, opened.results, READ), (TOPIC, opened.requests, WRITE),
            (GROUP, f"{opened.group}-tables", READ), (TOPIC, f"workers-{opened.mark}", READ),
            (TOPIC, f"workers-{opened.mark}", WRITE), (TOPIC, opened.dead_letters, READ),
        )  # fmt: skip
        opened.settings["MILLRACE_ROLE"] = "answer"
        opened.settings["MILLRACE_WORKERS_TOPIC"] = f"workers-{opened.mark}"
        yield opened


@pytest.fixture
async def tokens() -> AsyncIterator[TokenEndpoint]:
    async with TokenEndpoint() as opened:
        yield opened


COMMANDS_TOO = ("SASLTLS OAUTHBEARER", "MTLS")
"""Where `tail` reads as well: the connection is the same for every command."""
WAYS = ("SASL PLAIN", "SASLTLS PLAIN", "SASL SCRAM-SHA-256", "SASLTLS SCRAM-SHA-512", "SASLTLS OAUTHBEARER", "MTLS")


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_in_works(
    secured: Secured, stage: Stage, upstream: Upstream, tokens: TokenEndpoint, way: str
) -> None:
    """Worker, send and tail get in by each protocol and mechanism, and the request is answered. A password that
    travels in the clear is said once, not at each connection.
    """
    settings = tokens.way(secured, "SASLTLS") if way.endswith("OAUTHBEARER") else secured.way(way)
    stage.settings |= settings
    sending = ("send", "--url", f"{upstream.url}/doc/7", "--id", "one")
    worker, (code, _, err) = await asyncio.gather(stage.start(), millrace(stage, *sending))
    assert (code, "1 sent" in err) == (0, True), err
    await stage.results_of({"one"})
    assert worker.process.returncode is None
    cautions = [line for line in worker.log if "in the clear" in line]
    assert ["KAFKA_SECURITY_PROTOCOL" in line for line in cautions] == [True] * (way == "SASL PLAIN")
    if way in COMMANDS_TOO:
        code, out, err = await millrace(stage, "tail", "--from-beginning", "-n", "1")
        assert (code, "  one  ok" in out) == (0, True), err


async def told(stage: Stage, *command: str, **settings: str) -> str:
    """Run a command that is not let in; return the one line that it says, having ended with 1 at once."""
    started = time.monotonic()
    code, out, err = await millrace(stage, *command, **settings)
    lines = [line for line in err.splitlines() if line.startswith("millrace: ")]
    assert (code, out, len(lines)) == (1, "", 1), err
    assert "Traceback" not in err
    if command[0] != "worker":
        assert err.splitlines() == lines, err
    assert time.monotonic() - started < QUICK * slowness()
    return lines[0]


async def test_whoever_is_not_let_in_is_told_why(secured: Secured, stage: Stage, tokens: TokenEndpoint) -> None:
    """Wrong password, user, CA, protocol, token or no certificate: one line each that says what to look at."""
    tls = secured.way("MTLS") | {"KAFKA_BOOTSTRAP_SERVERS": secured.apache.listening["TLS"]}
    bare = {name: value for name, value in secured.way("MTLS").items() if name.startswith(("KAFKA_B", "KAFKA_SEC"))}
    login = secured.way("SASL PLAIN")
    wrong = [
        (login | {"KAFKA_SASL_PASSWORD": "wrong"}, "refuses the login of 'worker' by PLAIN: check KAFKA_SASL_*"),
        (secured.way("SASL SCRAM-SHA-256", "stranger"), "refuses the login of 'stranger' by SCRAM-SHA-256"),
        (tls | {"KAFKA_SSL_CAFILE": str(secured.folder / "other-ca.pem")}, "not trusted: "),
        (bare | {"KAFKA_SSL_CAFILE": str(secured.folder / "ca.pem")}, "may require a client certificate"),
        (tls | {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, "may require TLS or a login"),
        (
            login | {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
            "it may require a client certificate (KAFKA_SSL_CERTFILE), or no TLS",
        ),
        (tokens.way(secured, secret="wrong"), "it answered 401: invalid_client; check KAFKA_SASL_OAUTHBEARER_*"),
        (tokens.way(secured, client="garbage"), "refuses the login of 'garbage' by OAUTHBEARER"),
        (tokens.way(secured) | {"KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL": "http://127.0.0.1:1/"}, "no token from "),
    ]
    for settings, sentence in wrong:
        passing = "may" in sentence or "no token from" in sentence  # an endpoint that is away may come back
        with pytest.raises(BrokerError, match=re.escape(sentence)) as caught:
            async with Admin(Kafka(**{name.removeprefix("KAFKA_").lower(): text for name, text in settings.items()})):
                pass
        assert isinstance(caught.value, AccessError) is not passing
    assert tokens.asked["worker"] <= 2  # a refusal is remembered for a while
    for said in await asyncio.gather(*(told(stage, *command, **wrong[0][0]) for command in COMMANDS)):
        assert "refuses the login" in said


async def test_what_may_not_be_done_is_named(secured: Secured, stage: Stage) -> None:
    """A user without the ACLs is told which to grant, by every command; one that lacks some, just those."""
    settings = secured.way("SASL SCRAM-SHA-512", "nobody")
    said = await told(stage, "worker", **settings)
    for each in (f"grant User:nobody Read on topic '{stage.requests}'", f"Write on topic '{stage.results}'",
                 f"Write on topic '{stage.dead_letters}'", f"Read on group '{stage.group}'"):  # fmt: skip
        assert each in said
    assert f"grant User:nobody Write on topic '{stage.requests}'" in await told(stage, *COMMANDS[1], **settings)
    assert f"grant User:nobody Read on topic '{stage.results}'" in await told(stage, *COMMANDS[2], **settings)
    code, out, _ = await millrace(stage, "doctor", **settings)
    assert code == 1
    for each in (f"topic {stage.requests}: missing, or hidden by ACLs",
                 f"Write on topic {stage.results} is not granted", "grant it to User:nobody",
                 f"group {stage.group}: permission Read is not granted"):  # fmt: skip
        assert each in out
    part = secured.way("SASL PLAIN", "part")
    needs = everything(stage.group, stage.requests, stage.results, stage.dead_letters)
    await asyncio.to_thread(secured.grant, "part", *needs[:1], *needs[2:], (TOPIC, stage.requests, WRITE))
    assert (await told(stage, "worker", **part)).endswith(f"grant User:part Read on group '{stage.group}'")
    redrive = "redrive", "--all"
    assert f"grant User:part Read on topic '{stage.dead_letters}'" in await told(stage, *redrive, **part)
    await asyncio.to_thread(secured.grant, "part", (TOPIC, stage.dead_letters, READ))
    marks = f"{stage.group}-redriven"
    assert f"{marks!r} could not be created" in await told(stage, *redrive, **part)
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        await admin.create(marks, 1, 1, **{"cleanup.policy": "compact"})
        await admin.settled(marks)
    await asyncio.to_thread(secured.grant, "part", (TOPIC, marks, READ), (TOPIC, marks, WRITE))
    assert f"transactional id {marks}" in await told(stage, *redrive, **part)
    await asyncio.to_thread(
        secured.grant, "part", (ResourceType.TRANSACTIONAL_ID, marks, WRITE),
        (ResourceType.TRANSACTIONAL_ID, marks, DESCRIBE),
    )  # fmt: skip
    assert (await millrace(stage, *redrive, **part))[0] == 0


async def test_exactly_once_names_the_acl_that_it_lacks(secured: Secured, stage: Stage, upstream: Upstream) -> None:
    """Worker and doctor name the transactional id that may not be used; with it, the worker answers."""
    settings = secured.way("SASL PLAIN") | {"MILLRACE_DELIVERY": "exactly-once", "MILLRACE_WORKER_ID": "w1"}
    name = f"{stage.group}-w1"
    said = await told(stage, "worker", **settings)
    assert f"refuses access to transactional id {name}: grant User:worker Write and Describe on it" in said
    code, out, _ = await millrace(stage, "doctor", **settings)
    assert (code, f"Write on the transactional id {name} is not granted" in out) == (1, True)
    acls = [(ResourceType.TRANSACTIONAL_ID, name, operation) for operation in (WRITE, DESCRIBE)]
    await asyncio.to_thread(secured.grant, "worker", *acls)
    await stage.start(**settings)
    await stage.send([asked(f"{upstream.url}/doc/7", 1)])
    await stage.results_of({"r1"})
    code, out, _ = await millrace(stage, "doctor", **settings)
    assert "offsets are fenced by generation" in out


async def test_the_tables_name_what_they_may_not_do(secured: Secured, stage: Stage) -> None:
    """A worker of the tables is told which ACLs it lacks, step by step, and then it runs."""
    tables = secured.way("SASL PLAIN", "tables") | {"MILLRACE_ROLE": "tables"}
    said = await told(stage, "worker", **tables)
    assert f"Read on topic '{stage.results}'" in said
    assert f"Read on group '{stage.group}-tables'" in said
    needs = (TOPIC, stage.results, READ), (GROUP, f"{stage.group}-tables", READ)
    await asyncio.to_thread(secured.grant, "tables", *needs)
    names = [f"{stage.group}-tables-{table}-changelog" for table in ("answers", "hosts", "outcomes", "checks")]
    said = await told(stage, "worker", **tables)
    assert "millrace topics --create" in said or all(f"topic {name!r}" in said for name in names)
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        for name in names:
            await admin.create(name, stage.partitions, 1, **{"cleanup.policy": "compact"})
        await admin.settled(*names)
    said = await told(stage, "worker", **tables)
    assert all(f"topic {name!r}" in said for name in names)
    acls = [(TOPIC, name, operation) for name in names for operation in (READ, WRITE)]
    await asyncio.to_thread(secured.grant, "tables", *acls)
    worker = await stage.start(**tables)  # without the right to tell of itself
    worker.terminate()
    assert await worker.ended() == 0


@pytest.mark.parametrize("kind", ["results", "requests"])
async def test_what_is_taken_away_ends_a_worker(secured: Secured, stage: Stage, upstream: Upstream, kind: str) -> None:
    """An ACL that is revoked under a running worker ends it with 1 and the reason, not with a storm of tries."""
    stage.settings |= secured.way("SASL PLAIN")
    worker, topic = await stage.start(), getattr(stage, kind)
    await asyncio.to_thread(secured.revoke, "worker", TOPIC, topic)
    await stage.send([json.dumps({"url": f"{upstream.url}/doc/1"}).encode()])
    started = time.monotonic()
    assert await worker.ended() == 1
    assert time.monotonic() - started < QUICK * slowness()
    assert any("millrace: Kafka at" in line and f"refuses access to topic {topic}" in line for line in worker.log)
    assert sum("not acknowledged" in line for line in worker.log) == 0  # not sent again


PATTERN = """
[sources.none]
url = "http://127.0.0.1:1/{{id}}"

[routes.r]
topics = ['^eu-{mark}-.*']
results = "out-{mark}"
when = "value.wanted"
lookups = [{{ source = "none", params = {{ id = "value.id" }} }}]
"""


async def test_a_topic_that_a_pattern_matches_is_read_once_that_is_granted(
    secured: Secured, stage: Stage, tmp_path: Path
) -> None:
    """One that may only be described holds up nobody: the log names it, until it may be read."""
    (tmp_path / "sources.toml").write_text(PATTERN.format(mark=stage.mark))
    open_, closed, out = (f"{name}-{stage.mark}{suffix}" for name, suffix in (("eu", "-a"), ("eu", "-b"), ("out", "")))
    async with Admin(Kafka(bootstrap_servers=stage.servers)) as admin:
        for name in (open_, closed, out):
            await admin.create(name, stage.partitions, 1)
        await admin.settled(open_, closed, out)
    await asyncio.to_thread(
        secured.grant, "worker", (TOPIC, open_, READ), (TOPIC, closed, DESCRIBE), (TOPIC, out, WRITE),
        (GROUP, f"{stage.group}-r", READ),
    )  # fmt: skip
    for name in (open_, closed):
        await stage.producer.send(name, b"{}", key=name.encode())
    stage.settings |= secured.way("SASL PLAIN") | {"MILLRACE_SOURCES": str(tmp_path / "sources.toml")}
    worker = await stage.start()
    await worker.logged(f"route r: not read, as Read is not granted: {closed}")
    async with asyncio.timeout(PATIENCE):
        while await stage.count(out) < 1:
            await asyncio.sleep(0.1)
    assert [each.key for each in await stage.read(out)] == [open_.encode()]
    await asyncio.to_thread(secured.grant, "worker", (TOPIC, closed, READ))
    async with asyncio.timeout(PATIENCE):
        while await stage.count(out) < 2:
            await asyncio.sleep(0.1)
    worker.terminate()
    assert await worker.ended() == 0


async def test_a_token_is_renewed_before_it_ends(secured: Secured, stage: Stage, upstream: Upstream) -> None:
    """Past the end of token and session, twice, every request is answered, once, and few tokens were asked for."""
    async with TokenEndpoint(life=SESSION_MS // 1000) as tokens:
        stage.settings |= tokens.way(secured)
        worker = await stage.start()
        started, sent = time.monotonic(), 0
        while time.monotonic() - started < 2.5 * SESSION_MS / 1000:
            await stage.send([json.dumps({"id": f"t{sent}", "url": f"{upstream.url}/doc/{sent}"}).encode()])
            sent += 1
            await asyncio.sleep(0.2)
        seen = await stage.results_of({f"t{n}" for n in range(sent)})
        assert len(seen) == sent
        assert worker.process.returncode is None
        assert 2 <= tokens.asked["worker"] <= 20


async def test_certificates_that_are_replaced_need_no_restart(
    secured: Secured, stage: Stage, upstream: Upstream
) -> None:
    """A new authority and new certificates, and a broker that comes back with them: the worker goes on by itself."""
    stage.settings |= secured.way("MTLS")
    worker = await stage.start()
    await stage.send([json.dumps({"id": "before", "url": f"{upstream.url}/doc/1"}).encode()])
    await stage.results_of({"before"})
    before = await _ends(worker)
    issue(secured.folder)
    await asyncio.to_thread(secured.apache.stop, kill=True)
    await asyncio.to_thread(secured.apache.start)
    await stage.send([json.dumps({"id": "after", "url": f"{upstream.url}/doc/2"}).encode()])
    await stage.results_of({"after"})
    assert worker.process.returncode is None
    assert sum("new connections use the replaced" in line for line in worker.log) == 1
    assert (
        (await _ends(worker)).keys()
        == before.keys()
        == {str(secured.folder / name) for name in ("ca.pem", "worker.pem")}
    )


async def test_a_broker_that_comes_back_with_a_certificate_that_is_not_trusted_is_named(
    secured: Secured, stage: Stage
) -> None:
    """Readiness says that the certificate is not trusted, not that the broker is away, until the worker has its CA."""
    trusted = secured.folder / "trusted.pem"
    trusted.write_bytes((secured.folder / "ca.pem").read_bytes())
    stage.settings |= secured.way("SASLTLS PLAIN") | {"KAFKA_SSL_CAFILE": str(trusted)}
    worker = await stage.start()
    issue(secured.folder)
    await asyncio.to_thread(secured.apache.stop, kill=True)
    await asyncio.to_thread(secured.apache.start)
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
        text = ""
        while "not trusted" not in text:
            await asyncio.sleep(0.2)
            async with session.get(f"{worker.url}/readyz?verbose") as response:
                text = await response.text()
    assert re.search(r"connected: no answer for .*a certificate that is not trusted: .*check KAFKA_SSL_CAFILE\n", text)
    trusted.write_bytes((secured.folder / "ca.pem").read_bytes())
    await stage.until_ready(worker)


async def _ends(worker: Worker) -> dict[str, float]:
    """Return when each file of the worker's ends, as its metrics have it."""
    async with aiohttp.ClientSession() as session, session.get(f"{worker.url}/metrics") as response:
        text = await response.text()
    found = re.findall(r'^millrace_certificate_expiry_timestamp_seconds\{file="(.+)"\} (\S+)$', text, re.MULTILINE)
    return {file: float(at) for file, at in found}
