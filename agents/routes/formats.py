"""How a route's records are read, and what it publishes is written: by itself, or by a schema registry."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiokafka import ConsumerRecord

from agents.routes.large import LargeValue, Merging
from agents.routes.record import scope_of
from agents.routes.waits import FIRST_WAIT, LONGEST_WAIT, Waits
from models import strictjson
from models.errors import InvalidRequest, RegistryUnavailable
from models.expression import plain
from models.framing import framing
from models.large_records import is_large_record, is_large_value
from models.route import REGISTERED, Route
from streams.pool import LargeWork

if TYPE_CHECKING:
    from streams.registry.registry import Registry

UNKNOWN: Any = object()
"""What is returned where the registry has to answer first."""


MAX_TEXT = 1 << 28
"""Bytes of JSON that a large record by a registry may become."""


class Formats:
    """The formats of one route. `registry` is None where none is needed; without `large`, large JSON is read here."""

    def __init__(self, route: Route, registry: Registry | None = None, large: LargeWork | None = None) -> None:
        self._route = route
        self._large = None if route.results_format in REGISTERED else large
        self._registry = registry
        self._missing: Any = None
        if registry is not None:
            from streams.registry.registry import MISSING  # noqa: PLC0415  the extra

            self._missing = MISSING

    def scope(self, record: ConsumerRecord[bytes, bytes]) -> Any:
        """Return what expressions see of a record, or UNKNOWN. Raises InvalidRequest."""
        value = self.read(record)
        if value is UNKNOWN:
            return UNKNOWN
        scope = scope_of(record, value)
        if self._route.key_format != "text":
            scope["key"] = self._key(record)
        return UNKNOWN if scope["key"] is UNKNOWN else scope

    async def scope_later(self, record: ConsumerRecord[bytes, bytes], waits: Waits) -> dict[str, Any]:
        """Do the same once the registry has answered; large JSON is a LargeValue."""
        route, registry, data = self._route, self._registry, record.key
        value = self.read(record)
        scope = scope_of(record, await self.read_later(record, waits) if value is UNKNOWN else value)
        if route.key_format in REGISTERED and data is not None:
            assert registry is not None
            scope["key"] = plain(await _patiently(
                lambda: registry.decode(route.key_format, record.topic, data, record.headers, key=True), waits
            ))  # fmt: skip
        elif route.key_format != "text":
            scope["key"] = self._key(record)
        return scope

    def _key(self, record: ConsumerRecord[bytes, bytes]) -> Any:
        """Return a record's key by its format, or UNKNOWN. Raises InvalidRequest."""
        data, route = record.key, self._route
        if data is None:
            return None
        if route.key_format == "bytes":
            return base64.b64encode(data).decode()
        if route.key_format == "json":
            return self._json(data, exact=True, what="key")
        assert self._registry is not None
        found = self._registry.decode_cached(route.key_format, record.topic, data, record.headers, key=True)
        return UNKNOWN if found is self._missing else plain(found)

    def read(self, record: ConsumerRecord[bytes, bytes]) -> Any:
        """Return a record's value, or UNKNOWN; numbers of JSON may have lost digits, see `exact`.

        Raises InvalidRequest for one that is not of the route's format.
        """
        data, route = record.value, self._route
        if data is None:
            return None
        if route.format in REGISTERED:
            assert self._registry is not None
            found = self._registry.decode_cached(route.format, record.topic, data, record.headers)
            return UNKNOWN if found is self._missing else plain(found)
        if route.format == "bytes":
            return base64.b64encode(data).decode()
        if route.format == "text":
            return self._text(data)
        if self._large is not None and is_large_record(data):
            return UNKNOWN
        return self._json(data, exact=False)

    def exact(self, record: ConsumerRecord[bytes, bytes], value: Any) -> Any:
        """Return a record's value with all the digits of its numbers. Raises InvalidRequest."""
        if self._route.format != "json" or record.value is None:
            return value
        return self._json(record.value, exact=True)

    def exactly(self, scope: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what expressions see, with all the digits of the value's numbers. Raises InvalidRequest."""
        if scope["exact"]:
            return scope
        return {**scope, "value": self.exact(scope["record"], scope["value"]), "exact": True}

    def _json(self, data: bytes, *, exact: bool, what: str = "value") -> Any:
        try:
            return strictjson.loads(data, exact=exact, quick=not exact)
        except ValueError as exc:
            msg = f"route {self._route.name}: the {what} is not JSON: {framing(data) or exc}"
            raise InvalidRequest(msg) from None

    async def read_later(self, record: ConsumerRecord[bytes, bytes], waits: Waits) -> Any:
        """Do the same once the registry has answered; return a large value as a LargeValue."""
        registry, data = self._registry, record.value or b""
        if self._route.format not in REGISTERED:
            assert self._large is not None
            return LargeValue(self._route, self._large, data)
        assert registry is not None
        found = await _patiently(lambda: registry.decode(self._route.format, record.topic, data, record.headers), waits)
        if not is_large_value(found):
            return plain(found)
        if self._large is None:
            return await asyncio.to_thread(plain, found)
        text = await asyncio.to_thread(lambda: strictjson.dumps_in_steps(plain(found), MAX_TEXT))
        return LargeValue(self._route, self._large, text)

    def write(self, value: Any) -> Any:
        """Return the bytes of an output, or UNKNOWN. Raises InvalidDocument for one that does not fit its schema."""
        route = self._route
        if isinstance(value, LargeValue):
            return value.text
        if isinstance(value, Merging):
            return UNKNOWN
        if route.results_format not in REGISTERED:
            return strictjson.dumps(value, exact=True)
        assert self._registry is not None
        assert route.results_subject is not None
        written = self._registry.encode_cached(route.results_format, route.results_subject, value)
        return UNKNOWN if written is self._missing else written

    async def write_later(self, value: Any, waits: Waits) -> bytes:
        """Do the same once the registry has answered, or another process."""
        if isinstance(value, Merging):
            return await value.value.merge(value.answers)
        registry, route = self._registry, self._route
        assert registry is not None
        assert route.results_subject is not None
        subject = route.results_subject
        written: bytes = await _patiently(lambda: registry.encode(route.results_format, subject, value), waits)
        return written

    def _text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as exc:
            msg = f"route {self._route.name}: the value is not UTF-8 at byte {exc.start}, but its format is text"
            raise InvalidRequest(msg) from None


async def _patiently(work: Callable[[], Awaitable[Any]], waits: Waits) -> Any:
    """Do something as soon as the registry can be had: its absence is no fault of the record."""
    wait = FIRST_WAIT
    while True:
        try:
            return await work()
        except RegistryUnavailable as exc:
            with waits.because(str(exc)):
                await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
