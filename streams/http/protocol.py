"""aiohttp's reading of a connection, which ends where an answer ends: bytes behind it were not asked for.

By itself aiohttp fails an answer for what stands behind it in the same segment, and gives what comes while a connection
is idle to the next request as its answer (RFC 9112, section 9.2, forbids both).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from aiohttp import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD

if TYPE_CHECKING:
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader

SWITCHING = 101
NO_CONTENT = 204

CARRIED = 2
"""Bytes in which the end of a head may begin."""

_END = re.compile(rb"\n\r?\n")


class AnswerProtocol(ResponseHandler):
    """Takes one answer for each request, and closes the connection for any byte behind it.

    The overridden methods are private to aiohttp: pinned by tests/unit/streams/test_protocol.py.
    """

    _answered = False
    """Whether the head of the answer has come; its body may be under way."""
    _last = b""
    """The last bytes that were read, in which an end may begin."""
    _left: int | None = None
    """Bytes of the body that are still to come, None if it does not say."""

    def set_response_params(self, **options: Any) -> None:
        """Begin to read the answer of another request."""
        self._answered, self._last, self._left = False, b"", None
        super().set_response_params(**options)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take a message whose head has been read."""
        message, payload = data
        self._answered = message.code >= 200 or message.code == SWITCHING  # noqa: PLR2004  not an interim one
        length = message.headers.get("Content-Length", "")
        if payload is not EMPTY_PAYLOAD and not message.chunked and length.isdecimal():
            self._left = int(length)
        elif message.code == NO_CONTENT and length.strip("0"):
            self.force_close()  # a body may well come behind the answer
        super().feed_data(data, size)

    def set_exception(self, *error: BaseException) -> None:
        """Fail the answer, and its body if that is being read: a bad chunk behind the head would leave its reader
        waiting until the deadline.
        """
        body = self._payload
        super().set_exception(*error)
        if isinstance(error[0], HttpProcessingError) and body is not None and not body.is_eof():
            body.set_exception(ClientPayloadError("the body is not valid HTTP"))

    def data_received(self, data: bytes) -> None:
        """Read up to the end of the head by itself: then what stands behind an answer cannot fail it."""
        while data and not self._answered and (found := _END.search(self._last + data)) is not None:
            end = found.end() - len(self._last)
            head, data = data[:end], data[end:]
            self._last = b""
            super().data_received(head)
            if not data:
                return
        if self._answered and data and not self._upgraded:
            self._read_body(data)
        else:
            self._last = (self._last + data)[-CARRIED:]
            super().data_received(data)

    def _read_body(self, data: bytes) -> None:
        if self._left is not None:
            data, behind = data[: self._left], data[self._left :]
            self._left -= len(data)
            if data:
                super().data_received(data)
            if behind:
                self._end()
        elif self._payload is None or self._payload.is_eof():
            self._end()
        else:
            super().data_received(data)
            self._last = (self._last + data)[-CARRIED - 1 :]
            if self._payload is not None and self._payload.is_eof() and _END.search(self._last[-3:]) is None:
                self._end()  # chunks end with an empty line (RFC 9112, section 7.1)

    def _end(self) -> None:
        """Let the connection end with this answer: at once, if that has been read to its end."""
        self.force_close()
        if self.transport is not None and (self._payload is None or self._payload.is_eof()):
            self.transport.close()
