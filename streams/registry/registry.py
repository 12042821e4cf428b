"""`Registry`: decodes and encodes records by a schema registry, and keeps the schemas that it has met."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar

from models.errors import InvalidDocument, InvalidRequest, RegistryUnavailable, SettingsError
from streams.config.settings import Settings
from streams.registry.client import Registered, RegistryClient, UnknownSchema
from streams.registry.framing import Headers, SchemaId, framed, locate
from streams.registry.sizes import larger_than

FORMATS: Final[Mapping[str, str]] = {"avro": "AVRO", "protobuf": "PROTOBUF", "json-schema": "JSON"}
"""The formats, each with the registry's name for its schemas."""
MISSING: Final = object()
"""What the synchronous methods return where there is something to wait for."""
LOOKUP_THREADS = 4
LOOKUP_DEADLINE = 10.0
"""Seconds that a record waits for one look-up in the registry."""
MAX_SCHEMAS = 500
"""Schemas kept, the least recently used out first."""
UNKNOWN_TTL = 10.0
"""Seconds for which a schema that is not in the registry is not requested again."""
LATEST_TTL = 60.0
"""Seconds after which a subject's latest schema is looked up again, in the background."""

T = TypeVar("T")


class Codec(Protocol):
    """Reads and writes values by one schema. What `is_large`, and to write a value of more than so many `parts`, takes
    some milliseconds, and is done `in_steps`, in a thread. Reading raises ValueError, writing InvalidDocument.
    """

    number: int | None
    parts: int

    def is_large(self, data: bytes) -> bool: ...  # noqa: D102
    def decode(self, data: bytes) -> Any: ...  # noqa: D102
    def decode_in_steps(self, data: bytes) -> Any: ...  # noqa: D102
    def encode(self, value: Any) -> bytes: ...  # noqa: D102
    def encode_in_steps(self, value: Any) -> bytes: ...  # noqa: D102


Key = tuple[str, SchemaId | str]
"""A format, with a schema's id or a subject."""


class _Latest(NamedTuple):
    codec: Codec
    prefix: bytes
    until: float


class Registry:
    """Opened with `async with`, which raises SettingsError if there is no registry or the extra is missing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._codecs: OrderedDict[Key, Codec] = OrderedDict()
        self._latest: dict[Key, _Latest] = {}
        self._unknown: dict[Key, tuple[str, float]] = {}
        self._loading: dict[Key, asyncio.Future[Any]] = {}
        self.lookups = self.failures = 0

    async def __aenter__(self) -> Self:
        if not self._settings.registry_url:
            msg = "MILLRACE_REGISTRY_URL: needed for the formats avro, protobuf and json-schema"
            raise SettingsError(msg)
        self._client = RegistryClient(self._settings)
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="registry")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="registry-large")
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in (self._threads, self._large):
            each.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def check(self) -> None:
        """Look whether the registry answers. Raises RegistryUnavailable."""
        await self._in_time(asyncio.get_running_loop().run_in_executor(self._threads, self._client.check))

    def decode_cached(self, format: str, topic: str, data: bytes, headers: Headers, *, key: bool = False) -> Any:  # noqa: A002  routes call it so
        """Do what `decode` does if there is nothing to wait for, else return MISSING."""
        found, content = self._locate(topic, data, headers, key=key)
        codec = self._known((format, found))
        if codec is None or codec.is_large(content):
            return MISSING
        try:
            return codec.decode(content)
        except ValueError as exc:
            raise _invalid(topic, f"it does not fit schema {found}: {exc}", key=key) from None

    async def decode(self, format: str, topic: str, data: bytes, headers: Headers, *, key: bool = False) -> Any:  # noqa: A002
        """Return what a record's value, or its key, holds, by the schema that it names.

        Raises InvalidRequest if it names none that is known, or is none of its values; RegistryUnavailable if nobody
        can say: wait, and try again.
        """
        found, content = self._locate(topic, data, headers, key=key)
        try:
            codec = self._known((format, found)) or await self._load((format, found), self._fetch)
            if not codec.is_large(content):
                return codec.decode(content)
            return await asyncio.get_running_loop().run_in_executor(self._large, codec.decode_in_steps, content)
        except UnknownSchema as exc:
            raise _invalid(topic, str(exc), key=key) from None
        except ValueError as exc:
            raise _invalid(topic, f"it does not fit schema {found}: {exc}", key=key) from None

    def encode_cached(self, format: str, subject: str, value: Any) -> Any:  # noqa: A002
        """Do what `encode` does if there is nothing to wait for, else return MISSING."""
        latest = self._latest_of(format, subject)
        if latest is None or larger_than(value, latest.codec.parts):
            return MISSING
        return _written(subject, latest, latest.codec.encode, value)

    async def encode(self, format: str, subject: str, value: Any) -> bytes:  # noqa: A002
        """Return a value's bytes by the latest schema of a subject, framed.

        Raises InvalidDocument naming the field that does not fit, and RegistryUnavailable, also where the subject is
        unknown or its schema of another format: what is to be written waits until that is mended.
        """
        latest = self._latest_of(format, subject)
        if latest is None:
            try:
                latest = await self._load((format, subject), self._fetch_latest)
            except UnknownSchema as exc:
                msg = f"nothing can be written for subject {subject!r}: {exc}"
                raise RegistryUnavailable(msg) from None
        if not larger_than(value, latest.codec.parts):
            return _written(subject, latest, latest.codec.encode, value)
        write = partial(_written, subject, latest, latest.codec.encode_in_steps, value)
        return await asyncio.get_running_loop().run_in_executor(self._large, write)

    def _locate(self, topic: str, data: bytes, headers: Headers, *, key: bool) -> tuple[SchemaId, bytes]:
        try:
            return locate(data, headers, key=key)
        except ValueError as exc:
            raise _invalid(topic, str(exc), key=key) from None

    def _known(self, key: Key) -> Codec | None:
        codec = self._codecs.get(key)
        if codec is not None:
            self._codecs.move_to_end(key)
        return codec

    def _latest_of(self, format: str, subject: str) -> _Latest | None:  # noqa: A002
        """Return a subject's schema if it is known. One that was looked up long ago is used while it is looked up
        again, or as long as the registry does not answer.
        """
        latest = self._latest.get((format, subject))
        if latest is not None and monotonic() >= latest.until:
            self._latest[format, subject] = latest._replace(until=monotonic() + LATEST_TTL)
            self._begin((format, subject), self._fetch_latest)
        return latest

    async def _load(self, key: Key, fetch: Callable[[Any], Any]) -> Any:
        """Look something up once for all who want it. Raises UnknownSchema, RegistryUnavailable."""
        reason, until = self._unknown.get(key, ("", 0.0))
        if monotonic() < until:
            raise UnknownSchema(reason)
        return await self._in_time(self._loading.get(key) or self._begin(key, fetch))

    async def _in_time(self, future: asyncio.Future[T]) -> T:
        try:
            async with asyncio.timeout(LOOKUP_DEADLINE):
                return await asyncio.shield(future)
        except TimeoutError:
            msg = f"the schema registry has not answered within {LOOKUP_DEADLINE:g} s"
            raise RegistryUnavailable(msg) from None
        except (UnknownSchema, RegistryUnavailable) as exc:
            raise type(exc)(str(exc)) from None  # one of their own for all who wait

    def _begin(self, key: Key, fetch: Callable[[Any], Any]) -> asyncio.Future[Any]:
        self.lookups += 1
        future = self._loading[key] = asyncio.get_running_loop().run_in_executor(self._threads, fetch, key)
        future.add_done_callback(partial(self._loaded, key))
        return future

    def _loaded(self, key: Key, future: asyncio.Future[Any]) -> None:
        del self._loading[key]
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or isinstance(error, RegistryUnavailable):
            self.failures += 1
        elif error is not None:
            if len(self._unknown) >= MAX_SCHEMAS:
                self._unknown.clear()
            self._unknown[key] = (str(error), monotonic() + UNKNOWN_TTL)
        elif isinstance(found := future.result(), _Latest):
            self._latest[key] = found
        else:
            self._codecs[key] = found
            if len(self._codecs) > MAX_SCHEMAS:
                self._codecs.popitem(last=False)

    def _fetch(self, key: tuple[str, SchemaId]) -> Codec:
        """Fetch a schema, in a thread."""
        form, number = key
        return _codec(form, self._client.fetch(number, _form(form)), f"schema {number}")

    def _fetch_latest(self, key: tuple[str, str]) -> _Latest:
        form, subject = key
        found = self._client.latest(subject, _form(form))
        codec = _codec(form, found, f"the latest schema of subject {subject!r}")
        assert found.number is not None
        return _Latest(codec, framed(found.number), monotonic() + LATEST_TTL)


def _form(format_: str) -> str | None:
    return "serialized" if format_ == "protobuf" else None


def _codec(format_: str, schema: Registered, what: str) -> Codec:
    """Return what reads and writes by a schema. Raises UnknownSchema if it is of another format, or none at all."""
    if schema.kind != FORMATS[format_]:
        msg = f"{what} is of type {schema.kind}, not {FORMATS[format_]}"
        raise UnknownSchema(msg)
    try:
        if format_ == "avro":
            from streams.registry.avro import AvroCodec  # noqa: PLC0415  the extra

            return AvroCodec(schema)
        if format_ == "protobuf":
            from streams.registry.protobuf import ProtobufCodec  # noqa: PLC0415  the extra

            return ProtobufCodec(schema)
        from streams.registry.json_schema import JsonCodec  # noqa: PLC0415  the extra

        return JsonCodec(schema)
    except (ValueError, RecursionError) as exc:
        msg = f"{what} cannot be used: {exc}"
        raise UnknownSchema(msg) from None


def _written(subject: str, latest: _Latest, encode: Callable[[Any], bytes], value: Any) -> bytes:
    try:
        return latest.prefix + encode(value)
    except InvalidDocument as exc:
        msg = f"it does not fit schema {latest.codec.number}, the latest of subject {subject!r}: {exc.whole_text()}"
        raise InvalidDocument(msg) from None


def _invalid(topic: str, reason: str, *, key: bool) -> InvalidRequest:
    return InvalidRequest(f"the {'key' if key else 'value'} of a record of topic {topic!r} cannot be decoded: {reason}")
