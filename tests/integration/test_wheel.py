"""The service as who installs it has it: from the built wheel, in an environment of its own, from an empty folder."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.testing.broker import Broker
from tests.integration.stage import PATIENCE, Stage, Upstream

ROOT = Path(__file__).parents[2]
PACKAGES = ("agents", "millrace", "models", "streams")
OURS = re.compile("PYTHON|VIRTUAL_ENV|COVERAGE|KAFKA_|MILLRACE_")
"""Variables by which this environment would reach into that one."""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Installed:
    """A wheel, and an environment that has it and what it needs."""

    wheel: Path
    millrace: Path
    folder: Path

    async def start(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        """Start the command from a folder that has nothing in it."""
        return await asyncio.create_subprocess_exec(
            self.millrace, *arguments, cwd=self.folder, env=environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    uv = shutil.which("uv") or shutil.which("uv", path=ROOT / ".tools" / "bin")
    assert uv, "uv: `make setup` gets it"
    folder = tmp_path_factory.mktemp("wheel")
    run(uv, "build", "--quiet", "--wheel", "--out-dir", folder / "dist", ROOT, cwd=folder)
    [wheel] = (folder / "dist").glob("millrace_kafka-*.whl")
    locked = "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--output-file", folder / "locked.txt"
    run(uv, *locked, cwd=ROOT)
    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    install = uv, "pip", "install", "--quiet", "--python", python
    run(*install, "--require-hashes", "--requirements", folder / "locked.txt", cwd=folder)
    run(*install, "--no-deps", wheel, cwd=folder)
    run(uv, "pip", "check", "--quiet", "--python", python, cwd=folder)  # what it says it needs is there
    (folder / "empty").mkdir()
    return Installed(wheel, python.with_name("millrace"), folder / "empty")


def test_the_wheel_has_all_that_the_packages_have(installed: Installed) -> None:
    """Each file of the packages is in it, templates and examples too, and nothing of tests or bench."""
    found = {name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name}
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    assert found == {str(path.relative_to(ROOT)) for path in files if path.parent.name != "__pycache__"}


def test_a_project_is_written_from_the_wheel(installed: Installed, tmp_path: Path) -> None:
    """`millrace init` has its templates, and the manifests that are links in the repository."""
    named = run(installed.millrace, "init", tmp_path / "project", cwd=tmp_path).splitlines()
    assert str(tmp_path / "project" / "sources.toml") in named
    base = tmp_path / "project" / "kubernetes" / "base"
    ours = ROOT / "deploy" / "kubernetes" / "base"
    assert {path.name: path.read_text() for path in base.iterdir()} == {p.name: p.read_text() for p in ours.iterdir()}


async def test_worker_send_and_tail_from_an_empty_folder(
    installed: Installed, broker: Broker, stage: Stage, upstream: Upstream
) -> None:
    """Installed from the wheel, a worker answers what `send` sends, with a check; `tail` shows it; SIGTERM ends it."""
    settings = {name: text for name, text in stage.environment.items() if re.match("KAFKA_B|MILLRACE_", name)}
    settings["PATH"] = "/usr/bin:/bin"
    worker = await installed.start("worker", **settings)
    try:
        assert worker.stderr is not None
        sent = await installed.start(
            "send", "--url", f"{upstream.url}/doc/7", "--check", "is_prime:n", "--id", "wheel", **settings
        )
        assert (await sent.communicate(), sent.returncode)[1] == 0
        tail = await installed.start("tail", "--from-beginning", "--json", "-n", "1", **settings)
        out, _ = await asyncio.wait_for(tail.communicate(), PATIENCE)
        result = json.loads(out)
        assert (result["id"], result["outcome"], result["checks"][0]["value"]) == ("wheel", "ok", True)
        worker.terminate()
        _, log = await asyncio.wait_for(worker.communicate(), PATIENCE)
        assert worker.returncode == 0, log.decode()
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    assert list(installed.folder.iterdir()) == []
