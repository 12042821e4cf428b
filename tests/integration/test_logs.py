"""The log of a real worker."""

from __future__ import annotations

import json
from pathlib import Path

from agents.testing.broker import Broker
from tests.integration.stage import Stage, Upstream, asked


async def test_a_workers_log_is_json_and_says_what_matters(stage: Stage, upstream: Upstream, tmp_path: Path) -> None:
    """Every line on stderr is an object; it says when the worker is ready and why a source's function failed, without
    the secret that the failure holds; the same failure a hundred times is written ten times and counted.
    """
    (tmp_path / "calls.py").write_text(
        "import logging, warnings\n"
        "def fails(n):\n"
        "    logging.getLogger('calls').warning('trying %s with hunter22-secret', n)\n"
        "    warnings.warn('old')\n"
        "    raise ConnectionError('http://user:word@host/')\n"
    )
    sources = tmp_path / "sources.toml"
    sources.write_text(
        f'[sources.other]\nurl = "{upstream.url}/doc/{{n}}"\nheaders = {{ X-Key = {{ env = "OTHER_KEY" }} }}\n'
        '[sources.broken]\ncall = "calls:fails"\nretry = { attempts = 1 }\n'
    )
    worker = await stage.start(
        MILLRACE_LOG_FORMAT="json", MILLRACE_SOURCES=str(sources), OTHER_KEY="hunter22-secret", PYTHONPATH=str(tmp_path)
    )
    await worker.logged("ready after")
    values = [json.dumps({"id": f"f{n}", "source": "broken", "params": {"n": n}}).encode() for n in range(100)]
    await stage.send([*values, asked(f"{upstream.url}/doc/1", 1)])
    await stage.results_of({f"f{n}" for n in range(100)} | {"r1"})
    worker.terminate()
    assert await worker.ended() == 0
    lines = [json.loads(line) for line in worker.log]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    messages = [line["message"] for line in lines]
    [ready] = [message for message in messages if message.startswith("ready after")]
    assert f"{stage.group} has {stage.partitions} partitions" in ready
    assert "stopped" in messages[-3:]
    assert not any("threads still run" in message for message in messages)
    assert not any(message.startswith("[^") for message in messages)  # Faust's services that come and go
    tried = [message for message in messages if message.startswith("trying")]
    assert 1 <= len(tried) <= 20
    assert all(message.endswith("with ********") for message in tried)
    assert any("more lines like this were left out: trying" in message for message in messages)
    assert "hunter22" not in "".join(worker.log)
    assert "user:word" not in "".join(worker.log)


async def test_why_a_worker_cannot_start_is_json_too(kafka: Broker, stage: Stage) -> None:
    """The reason of its end is a critical line like the others, with the exit code that it always has."""
    for settings, code, reason in (
        ({"MILLRACE_REQUESTS_TOPIC": "missing"}, 1, "no topic 'missing'"),
        ({"MILLRACE_TRACES": "on", "OTEL_TRACES_EXPORTER": "jaeger"}, 2, "OTEL_TRACES_EXPORTER: 'jaeger'"),
    ):
        worker = await stage.start(ready=False, MILLRACE_LOG_FORMAT="json", **settings)
        assert await worker.ended() == code
        lines = [json.loads(line) for line in worker.log]
        assert [line["message"].startswith(reason) for line in lines if line["level"] == "critical"] == [True]
