"""One connection to one broker, opened for its own sake: to learn why we are not let in, which aiokafka's clients keep
to their log, and to ask what they cannot ask.
"""

from __future__ import annotations

import time
from typing import Any, Self

from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from models.errors import AccessError, BrokerError
from streams.config.settings import Kafka
from streams.kafka.client import connection, explain, places

CONNECTION_TIMEOUT = 10.0
"""Seconds that connecting and each question may take."""


class BrokerConnection:
    """A connection that is open and let in, to the first of the bootstrap servers that does so, or to a given place.

    Opened with `async with`. Raises BrokerError saying why there is none, and what to do about it.
    """

    def __init__(self, kafka: Kafka, place: tuple[str, int] | None = None) -> None:
        self._kafka = kafka
        self._places = places(kafka) if place is None else [place]
        self._connection: AIOKafkaConnection | None = None
        self.place = self._places[0]
        self.latency = 0.0

    async def __aenter__(self) -> Self:
        failures: list[Exception] = []
        for place in self._places:
            try:
                await self._open(place)
            except (KafkaError, OSError, TimeoutError) as exc:
                failures.append(explain(exc, self._kafka, f"{place[0]}:{place[1]}"))
            else:
                return self
        # One that answers and says no tells more than others that are away.
        raise next((each for each in failures if isinstance(each, AccessError)), failures[0])

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _open(self, place: tuple[str, int]) -> None:
        arguments = {name: value for name, value in connection(self._kafka).items() if name != "bootstrap_servers"}
        opened = await create_conn(
            *place, client_id="millrace", request_timeout_ms=int(CONNECTION_TIMEOUT * 1000), **arguments
        )
        self._connection = opened
        asked = time.monotonic()
        try:
            # Only now does a broker that wants a login, or a client's certificate, say so.
            await opened.send(MetadataRequest([]))
        except BaseException:
            opened.close()
            raise
        self.place, self.latency = place, time.monotonic() - asked

    @property
    def versions(self) -> dict[int, tuple[int, int]]:
        """Return the versions of each request that the broker takes, by its number."""
        assert self._connection is not None
        found: dict[int, tuple[int, int]] = self._connection._versions
        return found

    async def send(self, request: Any) -> Any:
        """Send a request and return the answer. Raises BrokerError."""
        assert self._connection is not None
        try:
            return await self._connection.send(request)
        except (KafkaError, OSError, TimeoutError) as exc:
            raise explain(exc, self._kafka, f"{self.place[0]}:{self.place[1]}") from exc


async def reason(exc: Exception, kafka: Kafka) -> BrokerError:
    """Return why one of aiokafka's clients could not connect: it says that to its log alone, so we knock ourselves."""
    try:
        async with BrokerConnection(kafka):
            return explain(exc, kafka)
    except BrokerError as found:
        return found
