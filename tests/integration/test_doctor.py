"""`millrace doctor`, as somebody runs it at 3 a.m.: what is well is said, what is not is said with what to do."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from agents.doctor import counted
from agents.testing.broker import Broker, free_port
from streams.tables.changelogs import TABLES
from tests.integration.stage import Stage, Upstream
from tests.integration.test_commands import millrace

pytestmark = pytest.mark.kafka


async def look(stage: Stage, *options: str, **settings: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Run it; return its exit code and the findings by state."""
    code, out, err = await millrace(stage, "doctor", "--json", *options, **settings)
    found: dict[str, list[dict[str, str]]] = {"ok": [], "warning": [], "problem": []}
    for line in out.splitlines():
        finding = json.loads(line)
        found[finding["state"]].append(finding)
    assert err == f"{counted(len(found['problem']), 'problem')}, {counted(len(found['warning']), 'warning')}\n"
    return code, found


async def test_where_all_is_well_it_says_so(kafka: Broker, stage: Stage, upstream: Upstream, tmp_path: Path) -> None:
    """Everything that a worker needs is looked at and found well, with 0; nothing is sent to an upstream unasked."""
    sources = tmp_path / "sources.toml"
    sources.write_text(f'[sources.a]\nurl = "{upstream.url}/doc/{{n}}"\nheaders.X-Key = {{ env = "A_KEY" }}\n')
    settings = {"MILLRACE_SOURCES": str(sources), "A_KEY": "s3cret", "MILLRACE_CACHE": f"memory:// file://{tmp_path}/c",
                "MILLRACE_ROLE": "all"}  # fmt: skip
    code, found = await look(stage, **settings)
    assert (code, found["problem"]) == (0, [])
    subjects = {finding["subject"] for finding in found["ok"]}
    assert {f"broker {kafka.servers}", f"topic {stage.requests}", f"topic {stage.results}", "access to topics", "clock",
            f"group {stage.group}", f"group {stage.group}-tables", "source a", "host 127.0.0.1", f"cache {tmp_path}/c",
            "pool", "web 127.0.0.1:0", "plugins", "settings", "open files"} <= subjects  # fmt: skip
    assert not upstream.calls
    code, found = await look(stage, "--ask", f"{upstream.url}/doc/7", **settings)
    assert (code, sum(upstream.calls.values())) == (0, 1)
    assert {finding["seen"] for finding in found["ok"]} >= {"answered with 8 bytes", "agrees with that upstream's"}


async def test_what_the_tables_need_is_looked_at(kafka: Broker, stage: Stage) -> None:
    """Changelogs and the workers' topic are missed until they are made; a worker that only answers has none to miss."""
    kept = {f"topic {stage.group}-tables-{table}-changelog" for table in TABLES} | {f"topic workers-{stage.mark}"}
    code, found = await look(stage, MILLRACE_ROLE="all")
    assert (code, {each["subject"] for each in found["warning"]} & kept) == (0, kept)
    _, found = await look(stage)
    assert {each["subject"] for each in found["warning"]} & kept == {f"topic workers-{stage.mark}"}
    assert f"group {stage.group}-tables" not in {each["subject"] for each in found["ok"]}
    assert (await millrace(stage, "topics", "--create"))[0] == 0
    _, found = await look(stage, MILLRACE_ROLE="all")
    assert {each["subject"] for each in found["ok"]} >= kept


async def test_what_is_wrong_is_said_with_what_to_do(kafka: Broker, stage: Stage, tmp_path: Path) -> None:
    """A missing topic or secret, a taken port, a wrong name, no memcached, a clock that is off."""
    sources = tmp_path / "sources.toml"
    sources.write_text('[sources.a]\nurl = "http://localhost/{n}"\nheaders.X-Key = { env = "NOT_SET" }\n')
    future = int((time.time() + 3600) * 1000)
    await (await stage.producer.send(stage.requests, b"{}", timestamp_ms=future))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, found = await look(
            stage, MILLRACE_SOURCES=str(sources), MILLRACE_RESULTS_TOPIC="missing", MILLRACE_MAX_INFLIGHT="3",
            MILLRACE_WEB_PORT=str(taken.getsockname()[1]), MILLRACE_ALLOW_NETWORKS="",
            MILLRACE_CACHE=f"memory:// memcached://127.0.0.1:{free_port()}",
        )  # fmt: skip
    assert code == 1
    problems = {finding["subject"]: finding for finding in found["problem"]}
    warnings = {finding["subject"]: finding for finding in found["warning"]}
    assert problems["topic missing"]["advice"] == "create it: millrace topics --create"
    assert any("cannot listen" in finding["seen"] for finding in found["problem"])
    assert "NOT_SET" in " ".join(finding["seen"] for finding in found["problem"])
    assert (
        warnings["settings"]["seen"] == "MILLRACE_MAX_INFLIGHT is not a setting: did you mean MILLRACE_MAX_IN_FLIGHT?"
    )
    assert "ahead of this machine's clock" in warnings["clock"]["seen"]
    assert any(subject.startswith("memcached 127.0.0.1:") for subject in warnings)


async def test_a_host_that_the_guard_denies_is_named(kafka: Broker, stage: Stage, tmp_path: Path) -> None:
    """A source on a private address would be denied for every request: it is said before; so is a name that is none."""
    sources = tmp_path / "sources.toml"
    sources.write_text('[sources.a]\nurl = "http://localhost/{n}"\n[sources.b]\nurl = "http://no.such.invalid/{n}"\n')
    _, found = await look(stage, MILLRACE_SOURCES=str(sources), MILLRACE_ALLOW_NETWORKS="")
    problems = {finding["subject"]: finding for finding in found["problem"]}
    assert "MILLRACE_ALLOW_NETWORKS=" in problems["host localhost"]["advice"]
    assert "does not resolve" in problems["host no.such.invalid"]["seen"]


async def test_a_broker_that_is_away_is_one_problem(stage: Stage) -> None:
    """What cannot be seen without a broker is not made a problem of its own; the rest is looked at all the same."""
    code, found = await look(stage, KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}")
    assert (code, len(found["problem"])) == (1, 1)
    assert "cannot be reached" in found["problem"][0]["seen"]
    assert "pool" in {finding["subject"] for finding in found["ok"]}
    code, out, _ = await millrace(stage, "doctor", KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}")
    assert (code, out.count("\nproblem  broker") + out.startswith("problem  broker"), "\033" in out) == (1, 1, False)
