"""A batch: consecutive records of one partition that travel through Faust as ONE event, and the topic that lets them.

Private parts of Faust: see streams/kafka/transport.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import faust
from aiokafka import ConsumerRecord
from faust.types import EventT

from streams.kafka.lease import Lease


class RecordBatch(NamedTuple):
    """The value of one event: consecutive records of one partition, the lease they are held by, and the
    monotonic time at which they were received.
    """

    records: Sequence[ConsumerRecord[bytes, bytes]]
    lease: Lease
    received_at: float


def size_of(record: ConsumerRecord[bytes, bytes]) -> int:
    """Return the bytes of a record's key, value and headers."""
    size: int = record.serialized_key_size + record.serialized_value_size
    for name, content in record.headers:
        size += len(name) + len(content or b"")
    return size


class BatchTopic(faust.Topic):
    """A topic whose events carry record batches; anything else (changelogs) is decoded as ever."""

    decode: Any

    def _compile_decode(self) -> None:
        super()._compile_decode()
        decode_record: Any = self.decode

        async def decode(message: Any, *, propagate: bool = False) -> EventT[Any]:
            if type(message.value) is RecordBatch:
                return self._create_event(None, message.value, None, message=message)
            return cast("EventT[Any]", await decode_record(message, propagate=propagate))

        self.decode = decode
