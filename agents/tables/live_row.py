"""One result as the pages that watch show it: the row that the table `answers` will have of it."""

from __future__ import annotations

import json
import time
from typing import Any

from agents.tables.aggregate import answer_head
from agents.tables.result_parser import InvalidResult, ResultParser
from agents.tables.rows import Row, decode
from models.moment import believed


class LiveRow:
    """Called with a record of the results topic; None for one that is no result."""

    def __init__(self) -> None:
        self._reader = ResultParser()

    def __call__(self, record: Any) -> Row | None:
        """Make the row, without the result itself."""
        try:
            reading = self._reader.parse(record.value)
        except InvalidResult:
            return None
        key = json.loads(reading.id).encode(errors="replace") if record.key is None else record.key
        head = answer_head(record, reading, believed(record.timestamp, time.time()))
        return decode("answers", record.partition, key, head + b"}", heads=True)
