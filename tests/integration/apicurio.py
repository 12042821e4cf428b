"""A schema registry of its own for tests: Apicurio Registry from Maven, in memory, on Java 17."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from agents.testing.broker import JVM, STOP_TIMEOUT, free_port, java_found

VERSION = "2.6.13.Final"  # 3.x wants Java 21
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
START_TIMEOUT = 120.0
"""Seconds to start: 16 on an idle machine."""


def found() -> bool:
    """Whether there is a Java that runs it, and the archive or Maven to fetch it."""
    return java_found() and (_folder().is_dir() or shutil.which("mvn") is not None)


def _folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "millrace" / f"apicurio-registry-{VERSION}"


def _fetched() -> Path:
    """Return the folder with the registry, which Maven fetches once: 142 MB."""
    folder = _folder()
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            goal = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={work}"]
            subprocess.run(goal, cwd=work, check=True, capture_output=True)
            [archive] = Path(work).glob("*.tar.gz")
            with tarfile.open(archive) as opened:
                opened.extractall(f"{work}/registry", filter="data")
            with contextlib.suppress(OSError):  # another process was quicker
                Path(work, "registry").rename(folder)
    return folder


@contextlib.contextmanager
def apicurio() -> Iterator[str]:
    """Yield the URL of a registry's Confluent API; stops the registry afterwards."""
    folder, port = _fetched(), free_port()
    with tempfile.TemporaryFile() as log:
        [jar] = folder.glob("*-runner.jar")
        process = subprocess.Popen(
            ["java", *JVM, f"-Dquarkus.http.port={port}", "-Dquarkus.http.host=127.0.0.1", "-jar", jar],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
            deadline = time.monotonic() + START_TIMEOUT
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(log.read().decode(errors="replace")[-1000:])
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/subjects", timeout=2) as answer:
        return answer.status == 200
    return False
