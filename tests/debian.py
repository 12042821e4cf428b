"""Debian in a folder: a release with a few packages, and this machine's own way to packages, authorities and names."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PATH = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
ENVIRONMENT = {"SSL_CERT_FILE": CERTIFICATES, "PIP_CERT": CERTIFICATES}
COMMAND_LIMIT = 600.0
"""Seconds that one command may take: a build is the longest."""


class DebianError(Exception):
    """Debian cannot be had here; the message says what is missing."""


def bootstrap(root: Path, suite: str, packages: tuple[str, ...]) -> None:
    """Install a release of Debian with `packages` into the folder `root`. Needs root and debootstrap.

    Raises DebianError if the machine cannot, CalledProcessError if a package cannot be had.
    """
    if shutil.which("debootstrap", path=PATH) is None:
        msg = "apt-get install debootstrap"
        raise DebianError(msg)
    if os.geteuid() != 0:
        msg = "debootstrap needs root"
        raise DebianError(msg)
    debian = dict(os.environ) | {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    run("debootstrap", "--variant=minbase", suite, root, mirror(), env=debian)
    for path in (Path("/etc/resolv.conf"), Path("/etc/pip.conf")):
        if path.exists():
            shutil.copy(path, root / path.relative_to("/"))
    install = ["apt-get", "install", "-qq", "--no-install-recommends"]
    run("chroot", root, *install, *packages, env=debian)
    run("chroot", root, "apt-get", "clean", env=debian)
    shutil.copy(CERTIFICATES, root / CERTIFICATES.lstrip("/"))  # its package has made its own


def kept(name: str, recipe: str) -> Path:
    """Return where a file made by `recipe` is kept between runs: another recipe has another place."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millrace"
    return folder / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}.tar"


@contextlib.contextmanager
def new(path: Path) -> Iterator[Path]:
    """Give a file to write that is at `path` once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        yield Path(name) / path.name
        (Path(name) / path.name).rename(path)


def own_suite() -> str:
    """Return the name of the release that this machine runs. Raises DebianError on another system."""
    found = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    if found is None:
        msg = "/etc/os-release names no release of Debian"
        raise DebianError(msg)
    return found[1]


def mirror() -> str:
    """Return where the machine gets Debian from. Raises DebianError if it does not."""
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        text = path.read_text() if path.is_file() else ""
        for found in re.findall(r"^(?:deb(?: \[[^\]]*\])? |URIs: *)(\S+/debian/?)(?:\s|$)", text, re.MULTILINE):
            return str(found)
    msg = "no mirror of Debian in /etc/apt: this needs a Debian machine"
    raise DebianError(msg)


def run(*command: str | Path, stdin: bytes | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command to its end and return its stdout. What it says on stderr is printed when it fails."""
    found = subprocess.run(command, input=stdin, capture_output=True, check=False, env=env or {"PATH": PATH},
                           timeout=COMMAND_LIMIT)  # fmt: skip
    if found.returncode:
        print(*command, found.stdout.decode()[-4000:], found.stderr.decode()[-4000:], sep="\n")
        raise subprocess.CalledProcessError(found.returncode, command, found.stdout, found.stderr)
    return found.stdout.decode().strip()
