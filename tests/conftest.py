from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from models.errors import BrokerError
from streams.kafka.broker import Broker
from streams.kafka.broker import broker as give_broker

# A busy machine is no slow code.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """The best broker found, for the whole run. In CI it must be Kafka itself."""
    try:
        with give_broker(need_real=bool(os.environ.get("CI"))) as found:
            print(f"broker: {found.kind}")
            yield found
    except BrokerError as exc:
        pytest.fail(str(exc), pytrace=False)
