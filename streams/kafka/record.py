"""A parcel: one record on its way to Kafka, and who wants to know that it arrived."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

RECORD_OVERHEAD = 96
"""Bytes of batch and record framing beside key, value and headers: 61 of the batch's header, the rest varints."""

Headers = list[tuple[str, bytes]]
"""A list, because that is what aiokafka's batch builder takes."""


class DeliveryListener(Protocol):
    """Who wants to know that a record was delivered: a lease, or a step that comes after."""

    @property
    def alive(self) -> bool:
        """Whether it still matters; records of a dead receipt are dropped unsent."""
        ...

    def finish(self, offset: int) -> None:
        """Take note: the record published for the request at `offset` was acknowledged."""
        ...


class OutgoingRecord(NamedTuple):
    """One record on its way. `shrink` makes a smaller one when Kafka finds it too large; None: it is dropped."""

    listener: DeliveryListener
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    shrink: Callable[[OutgoingRecord], OutgoingRecord | None]

    def size(self) -> int:
        """Return how many bytes Kafka will count."""
        size = RECORD_OVERHEAD + len(self.key or b"") + len(self.value or b"")
        for name, content in self.headers:
            size += len(name) + len(content or b"") + 4
        return size
