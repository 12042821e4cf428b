"""Stand-ins for the images of registries, which these tests do not reach.

Debian's packages take the place of upstream's images, under the very names that Dockerfile and docker-compose.yml give:
Python, nginx, memcached and Prometheus from Debian, Apache Kafka's own jars with an entrypoint of ours that understands
the variables we set, and for Grafana, which Debian does not have, no more than its health check. So what is tested is
our image and our compose file, not the images that they name.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import yaml

from agents.testing.broker import jars
from tests import debian
from tests.containers.engine import Engine
from tests.debian import run

ROOT = Path(__file__).parents[2]
STANDINS = Path(__file__).parent / "standins"
RECIPE = STANDINS / "common.Dockerfile"
PYTHON = ("ca-certificates", "python3", "python3-pip", "python3-venv")
"""What a slim image of Python has."""
PYTHON_IMAGE = "millrace-standin-python"
COMMON = "millrace-standins"
LOGGING = "org.slf4j:slf4j-simple:1.7.36"
"""So that Kafka's log says when it has started, as upstream's image does."""


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
    """Make every stand-in and give it the name of what it stands in for. Raises DebianError."""
    suite = debian.own_suite()
    kept = debian.kept("standins", repr((suite, PYTHON)) + RECIPE.read_text())
    if kept.exists():
        engine.docker("load", "--quiet", "--input", kept)
    else:
        _bootstrap(engine, suite)
        engine.docker("build", "--quiet", "--network", "host", "--file", RECIPE, "--tag", COMMON, STANDINS)
        with debian.new(kept) as file:
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


def _bootstrap(engine: Engine, suite: str) -> None:
    """Make an image of Debian with Python."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        debian.bootstrap(root, suite, PYTHON)
        for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()  # an image of Python lets pip install
        run("tar", "--create", "--directory", root, "--file", Path(name) / "root.tar", ".")
        environment = " ".join(f"{key}={value}" for key, value in debian.ENVIRONMENT.items())
        engine.docker("import", "--change", f"ENV {environment}", Path(name) / "root.tar", PYTHON_IMAGE)
