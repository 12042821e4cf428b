"""Stand-ins for the images of registries, which these tests do not reach.

Debian's packages take the place of upstream's images, under the very names that Dockerfile and docker-compose.yml give:
Python, nginx, memcached and Prometheus from Debian, Apache Kafka's own jars with an entrypoint of ours that understands
the variables we set, and for Grafana, which Debian does not have, no more than its health check. So what is tested is
our image and our compose file, not the images that they name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from agents.testing.broker import jars
from tests.containers.engine import PATH, Engine, EngineError, run

ROOT = Path(__file__).parents[2]
STANDINS = Path(__file__).parent / "standins"
RECIPE = STANDINS / "common.Dockerfile"
PYTHON = ("ca-certificates", "python3", "python3-pip", "python3-venv")
"""What a slim image of Python has."""
PYTHON_IMAGE = "millrace-standin-python"
COMMON = "millrace-standins"
LOGGING = "org.slf4j:slf4j-simple:1.7.36"
"""So that Kafka's log says when it has started, as upstream's image does."""
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
ENVIRONMENT = f"SSL_CERT_FILE={CERTIFICATES} PIP_CERT={CERTIFICATES}"


def base() -> str:
    """Return the name of the image that the Dockerfile begins with."""
    found = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def others() -> dict[str, str]:
    """Return the image names of docker-compose.yml but our own, by the last part of their names: what they are."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    names = {service["image"] for service in services if "build" not in service}
    return {name.partition(":")[0].rpartition("/")[2]: name for name in names}


def make(engine: Engine) -> None:
    """Make every stand-in and give it the name of what it stands in for. Raises EngineError."""
    mirror, suite = _mirror()
    recipe = repr((suite, PYTHON)) + RECIPE.read_text()
    kept = _cache() / f"standins-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}.tar"
    if kept.exists():
        engine.docker("load", "--quiet", "--input", kept)
    else:
        _bootstrap(engine, mirror, suite)
        engine.docker("build", "--quiet", "--network", "host", "--file", RECIPE, "--tag", COMMON, STANDINS)
        with _new(kept) as file:
            engine.docker("save", "--output", file, PYTHON_IMAGE, COMMON)
    engine.docker("tag", PYTHON_IMAGE, base())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(STANDINS, folder, dirs_exist_ok=True)
        shutil.copytree(jars(), folder / "jars", ignore=shutil.ignore_patterns("slf4j-nop*"))
        copy = ["dependency:copy", f"-Dartifact={LOGGING}", f"-DoutputDirectory={folder / 'jars'}"]
        run("mvn", "-q", "-B", *copy, env=dict(os.environ))
        for target, image in others().items():
            engine.docker("build", "--quiet", "--target", target, "--tag", image, folder)


def _bootstrap(engine: Engine, mirror: str, suite: str) -> None:
    """Make an image of Debian with Python."""
    if shutil.which("debootstrap", path=PATH) is None:
        msg = "apt-get install debootstrap"
        raise EngineError(msg)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        debian = dict(os.environ) | {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
        run("debootstrap", "--variant=minbase", suite, root, mirror, env=debian)
        # The machine's own way to packages: its authorities and its configuration of pip.
        for path in (Path("/etc/resolv.conf"), Path("/etc/pip.conf")):
            if path.exists():
                shutil.copy(path, root / path.relative_to("/"))
        install = ["apt-get", "install", "-qq", "--no-install-recommends"]
        run("chroot", root, *install, *PYTHON, env=debian)
        run("chroot", root, "apt-get", "clean", env=debian)
        shutil.copy(CERTIFICATES, root / CERTIFICATES.lstrip("/"))  # its package has made its own
        for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()  # an image of Python lets pip install
        run("tar", "--create", "--directory", root, "--file", Path(name) / "root.tar", ".")
        engine.docker("import", "--change", f"ENV {ENVIRONMENT}", Path(name) / "root.tar", PYTHON_IMAGE)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millrace"


@contextlib.contextmanager
def _new(path: Path) -> Iterator[Path]:
    """Give a file to write that is at `path` once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        yield Path(name) / path.name
        (Path(name) / path.name).rename(path)


def _mirror() -> tuple[str, str]:
    """Return where the machine gets Debian from, and which."""
    suite = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        text = path.read_text() if path.is_file() else ""
        for mirror in re.findall(r"^(?:deb(?: \[[^\]]*\])? |URIs: *)(\S+/debian/?)(?:\s|$)", text, re.MULTILINE):
            if suite:
                return mirror, suite[1]
    msg = "no mirror of Debian in /etc/apt: this needs a Debian machine"
    raise EngineError(msg)
