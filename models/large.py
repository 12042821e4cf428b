"""Work on large values, done in a process of the pool (`models/process.py`): a megabyte of JSON would block the event
loop of the worker for 20 to 200 ms, also from a thread.
"""

from __future__ import annotations

import ctypes
import gc
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from models import batch, documents, large_records, pages
from models import request as requests
from models.errors import AnswerError, InternalError, InvalidDocument
from models.large_records import text_of
from models.result import is_shared, read_result, too_large

LARGE = 64 << 10
"""Bytes of JSON from which on another process does the work: some milliseconds of the event loop."""
MANY = 2_000
"""Values in a request from which on another process reads it, however short they are."""
MAX_REASON = 600
"""Bytes of an error message."""


_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def trim() -> None:
    """Give free pages back to the system, where the C library can (glibc)."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def is_large(request: bytes) -> bool:
    """Whether to read a request in another process: it has many bytes, or many values."""
    return len(request) > LARGE or (len(request) > MANY and sum(map(request.count, (b",", b"[", b"{"))) > MANY)


def _load(content: bytes, media_type: str, charset: str | None, schema: str, limit: int) -> bytes:
    encoded = documents.load(schema, documents.Body(content, media_type, charset)).encoded
    if len(encoded) > limit:
        raise too_large(len(encoded), limit)
    return encoded


def _is_shared(shared: bytes) -> bytes:
    return b"true" if is_shared(shared) else b"false"


def _is_result(value: bytes) -> bytes:
    try:
        read_result(value)
    except ValueError:
        return b"false"
    return b"true"


def _read_request(value: bytes) -> bytes:
    """Read a request; nested values stay text, which is all that the worker needs."""
    request_id, request = requests.parse(value)
    checks = tuple(replace(call, args=_as_text(call.args)) for call in request.checks)
    request = request._replace(params=_as_text(request.params), body=text_of(request.body), checks=checks)
    return pickle.dumps((request_id, request._replace(headers=dict(request.headers))), pickle.HIGHEST_PROTOCOL)


def _as_text(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: text_of(value) for name, value in values.items()}


TASKS: Mapping[str, Callable[..., bytes]] = {
    "load a document": _load,
    "take a batch apart": batch.take_apart_large,
    "read a page": pages.read_large_page,
    "look at an entry": _is_shared,
    "look at a result": _is_result,
    "read a request": _read_request,
    "evaluate over a record": large_records.evaluate,
    "merge into a record": large_records.merge,
    "pick from a document": large_records.pick,
}
"""Tasks by name, which has a blank, unlike the name of a check. Each takes the large value first, and returns bytes."""


def run(task: str, content: bytes, arguments: Sequence[Any]) -> tuple[bytes | None, str, float]:
    """Run a task; returns its result, or None and the error's name and message, and the seconds."""
    began = time.perf_counter()
    gc.disable()  # it would scan a million new lists again and again
    try:
        done, reason = TASKS[task](content, *arguments), ""
    except AnswerError as exc:
        done, reason = None, f"{type(exc).__name__}: {exc}"
    except MemoryError:
        done, reason = None, f"{InvalidDocument.__name__}: it takes more memory than there is for one document"
    except BaseException as exc:  # noqa: BLE001  a plugin's schema may raise anything
        done, reason = None, f"{InternalError.__name__}: {type(exc).__name__}"
    finally:
        gc.enable()
    return done, reason[:MAX_REASON], time.perf_counter() - began
