"""Every command of README.md and docs/, as it stands there, with this test's broker, worker and upstream in the places
of the reader's.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web

from agents.testing.broker import Broker
from streams.config.docs import unknown_names
from tests.integration.stage import PATIENCE, Stage, Upstream

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES.remove(ROOT / "docs" / "tutorial.md")  # tests/integration/test_tutorial.py runs it in a folder of its own
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
SETTING = re.compile(r"(export )?([A-Z_]+=\S*|[A-Z_]+=\"[^\"]*\")( +[A-Z_]+=\S*)*")
NOT_RUN = {
    "make demo": "tests/integration/test_wheel.py and tests/containers run the demo",
    "make test": "it runs this test",
    "millrace init": "tests/integration/test_tutorial.py makes a project in a folder of its own",
    "millrace routes try": "tests/unit/test_examples.py tries the page's route on the page's record",
    "PYTHONPATH=. python -m pytest": "tests/unit/test_cookbook.py runs the cookbook's tests",
    "kubectl": "there is no cluster; tests/unit/deploy judges the manifests by their schemas",
    "docker": "tests/containers runs image and compose file where there is an engine",
}
"""How commands begin that are not run, and why."""
FOLLOWS = "millrace worker", "millrace tail"
"""What goes on until it is stopped."""
COOKBOOK = {
    "PYTHONPATH": f"{ROOT}:{ROOT}/docs/cookbook",
    "MILLRACE_PLUGINS": "quotes",
    "MILLRACE_SOURCES": "sources.toml",
}
"""What the page of plugins exports, in the cookbook's folder."""
LOOK = 6
"""Seconds for which that is watched."""
STOPPED = 124
"""Exit code of `timeout` when it had to stop something."""
FAIL_ON_ERRORS = "fail\nmax-time = 20\n"
"""Of curl: an answer of 400 or more is an exit code."""


def commands() -> Iterator[tuple[str, Path]]:
    """Yield the commands, lines that go on put together, and whose they are."""
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", "").splitlines():
                text = line.partition(" # ")[0].strip() if not line.startswith("#") else ""
                if text:
                    yield text, page


def settings() -> set[str]:
    """Return the names of the settings that stand alone, for the commands that follow."""
    return {name for text, _ in commands() if SETTING.fullmatch(text) for name in re.findall(r"([A-Z_]+)=", text)}


def test_the_settings_are_known(monkeypatch):
    """No name is misspelt."""
    assert len(settings()) > 10
    for name in settings():
        monkeypatch.setenv(name, "x")
    assert [line for line in unknown_names() if any(name in line for name in settings())] == []


async def test_every_command_does_what_it_says(kafka: Broker, stage: Stage, tmp_path: Path) -> None:
    """It ends with 0, or goes on where it is to follow; an HTTP answer that is an error is none."""
    upstream = Upstream()
    upstream.app.router.add_get("/", _page)
    upstream.app.router.add_get("/numbers/7", _number)
    stage.settings |= {"MILLRACE_ROLE": "all", "MILLRACE_WEB_TOKEN": "t0ken"}
    (tmp_path / ".curlrc").write_text(FAIL_ON_ERRORS)
    async with upstream:
        worker = await stage.start()
        here = {"https://example.com": upstream.url, "localhost:6066": worker.url.removeprefix("http://"),
                "WORKER:6066": worker.url}  # fmt: skip
        home = {"CURL_HOME": str(tmp_path)}
        run = {text: home | (COOKBOOK if page.name == "plugins.md" else {}) for text, page in reversed([*commands()])
               if not SETTING.fullmatch(text) and not text.startswith(tuple(NOT_RUN))}  # fmt: skip
        assert len(run) > 10
        redrives = [text for text in run if "redrive" in text]  # one after the other: each ends the one before it
        others = [_failure(text, here, stage, run[text]) for text in run if text not in redrives]
        done = await asyncio.gather(*others)
        done += [await _failure(text, here, stage, run[text]) for text in redrives]
    assert [failure for failure in done if failure] == []


async def _page(_: web.Request) -> web.Response:
    return web.Response(text="<title>A page</title><p>text", content_type="text/html")


async def _number(_: web.Request) -> web.Response:
    return web.json_response({"n": 7})


async def _failure(text: str, here: dict[str, str], stage: Stage, settings: dict[str, str]) -> str:
    """Run a command; returns what went wrong, if anything did."""
    follows = text.startswith(FOLLOWS)
    for theirs, ours in here.items():
        text = text.replace(theirs, ours)
    path = f"{Path(sys.executable).parent}:{stage.environment['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *(("timeout", str(LOOK)) if follows else ()), "bash", "-c", f"exec {text}" if follows else text,
        env=stage.environment | settings | {"PATH": path}, cwd=ROOT / "docs/cookbook",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    right = process.returncode == (STOPPED if follows else 0) or (process.returncode == 0 and "--until" in text)
    return "" if right else f"{text}\nended with {process.returncode}: {said.decode()}"
