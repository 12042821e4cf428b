"""One engine for all tests here, with the stand-ins and our own image in it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.containers.engine import Engine, EngineError
from tests.containers.images import ROOT, make
from tests.debian import DebianError

IMAGE = "millrace:latest"
"""The name that docker-compose.yml gives to what it builds."""


def pytest_report_header() -> str:
    """Say what these tests do not test."""
    return "images: Debian's packages stand in for upstream's images (tests/containers/images.py); only ours is itself"


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine that has every image, stood in for, and ours, built by the repository's own Dockerfile."""
    try:
        with Engine() as running:
            for step, do in (
                ("stand-ins took the place of upstream's images", lambda: make(running)),
                ("our image was built", lambda: build(running)),
            ):
                began = time.monotonic()
                do()
                print(f"{step}: {time.monotonic() - began:.0f} s")
            yield running
    except (EngineError, DebianError) as exc:
        pytest.fail(f"no Docker engine for these tests: {exc}", pytrace=False)


def build(engine: Engine) -> None:
    """Build the repository's Dockerfile as it is; the host's network, because the package index is reached by that."""
    labels = ["--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc"]
    engine.docker("build", "--quiet", "--network", "host", *labels, "--tag", IMAGE, ROOT)
