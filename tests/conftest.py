from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from agents.testing.broker import Broker
from agents.testing.broker import broker as give_broker
from models.errors import BrokerError
from streams.http import outage

# A busy machine is no slow code.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


LONGEST_FIRST = ("integration", "browser", "unit")
"""Folders by how long a file of theirs takes: those that come last fill what the others leave of the processes."""
LONGEST_FILES = ("test_security.py", "test_topics_anew.py", "test_tables.py", "test_delivery.py", "test_commands.py",
                 "test_web.py")  # fmt: skip
"""The files that take longest: a process that begins with one of them at the end keeps the others waiting."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out whole files that are marked slow, where no slow test is wanted: they need not even be imported."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return "\npytestmark = pytest.mark.slow\n" in collection_path.read_text(encoding="utf-8") or None


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs many examples as slow, and let the files begin first that take longest, so that no process ends
    long before the other.
    """
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.slow)
    root = Path(__file__).parent

    def place(item: pytest.Item) -> tuple[int, bool]:
        folder = item.path.relative_to(root).parts[0]
        number = LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)
        return number, item.path.name not in LONGEST_FILES or folder != "integration"

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _first_outages() -> None:
    """Let each test see the lines about hosts that fail, however many hosts failed in tests before it."""
    vars(outage._LEDGER).update(vars(outage.Ledger()))


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """The best broker found, for the whole run. In CI it must be Kafka itself."""
    try:
        with give_broker(need_real=bool(os.environ.get("CI"))) as found:
            print(f"broker: {found.kind}")
            yield found
    except BrokerError as exc:
        pytest.fail(str(exc), pytrace=False)
