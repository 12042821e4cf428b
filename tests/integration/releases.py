"""The last release in an environment of its own: its files from git, its packages from its own uv.lock."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

LAST_RELEASE = "15cd2ac850f4d838f93f337b87acdbeba266ca9b"
"""There are no tags before 0.1.0, so a commit stands for the last release. Its settings have today's names, and what
came since is as much as a minor release brings: later tries, limits that workers share, exactly once, order by key,
lower tiers that are read in batches. With each release, set it to the one before."""
ROOT = Path(__file__).parents[2]
KEPT = Path.home() / ".cache/millrace/releases"


def last_release() -> Path:
    """Return its folder, with its environment in `.venv`; both are made once for each machine. Skips the test if git
    does not have the commit.
    """
    if _git("cat-file", "-e", f"{LAST_RELEASE}^{{commit}}").returncode:
        pytest.skip(f"needs commit {LAST_RELEASE[:7]}, the last release, which a shallow clone lacks: "
                    "git fetch --unshallow")  # fmt: skip
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = KEPT / f"{LAST_RELEASE[:12]}-{sys.version_info.major}.{sys.version_info.minor}"
        if not (folder / ".venv/complete").exists():
            _install(folder)
        return folder


def _install(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    files = _git("archive", LAST_RELEASE)
    assert not files.returncode, files.stderr
    with tarfile.open(fileobj=io.BytesIO(files.stdout)) as archive:
        archive.extractall(folder, filter="data")
    subprocess.run(
        [_uv(), "sync", "--frozen", "--quiet", "--no-dev", "--all-extras", "--python", sys.executable],
        cwd=folder, check=True, env=_environment() | {"UV_PROJECT_ENVIRONMENT": str(folder / ".venv")},
    )  # fmt: skip
    (folder / ".venv/complete").touch()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}


def _git(*command: str) -> subprocess.CompletedProcess[bytes]:
    """Run git on the clone, also where its files belong to another user, as they do in a container."""
    return subprocess.run(["git", "-c", f"safe.directory={ROOT}", *command], cwd=ROOT, capture_output=True, check=False)


def _uv() -> str:
    found = shutil.which("uv") or shutil.which(str(ROOT / ".tools/bin/uv"))
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("uv is not on PATH, nor in .tools/bin: make setup puts it there", pytrace=False)
        pytest.skip("needs uv on PATH or in .tools/bin")
    return found
