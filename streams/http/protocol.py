"""aiohttp's reading of a connection, which ends with the response: bytes behind it belong to no request.

By itself aiohttp fails a response for bytes behind it in the same segment, and takes bytes that arrive on an idle
connection for the next response (RFC 9112, section 9.2, forbids both).
"""

from __future__ import annotations

import re
import select
from typing import TYPE_CHECKING, Any

from aiohttp import ClientConnectionResetError, ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD

if TYPE_CHECKING:
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader

MAX_FIELD = 32_768
"""Bytes of a status line, or of a name or value, in the head of an answer."""
MAX_FIELDS = 256
"""Fields in it: at their largest, no more than a body may have."""
SWITCHING = 101
NO_CONTENT = 204

MAX_INTERIM = 32
"""Interim responses (RFC 9110, section 15.2) before the final one; a server that sends more is not waited for."""
CARRIED = 2
"""Bytes in which the end of a head may begin."""

_END = re.compile(rb"\n\r?\n")
_LENGTH = b"\ncontent-length:"
MAX_DIGITS = 12
"""Digits of a length that is looked at before the response is parsed."""
_BODILESS = (b"204", b"304")
"""Statuses of responses without a body, whatever length they declare."""


class AnswerProtocol(ResponseHandler):
    """Takes one response per request, and closes the connection on any byte behind it.

    The overridden methods are private to aiohttp: see the package's docstring.
    """

    _answered = False
    """Whether the head of the response has arrived."""
    _interim = 0
    """How many heads arrived before it."""
    _last = b""
    """The last bytes read, in which an end may begin."""
    _left: int | None = None
    """Remaining bytes of the body, None if unknown."""
    _poll: select.poll | None = None
    used = False
    """Whether the connection has served a request before."""
    _kept: Any = None
    """The parser of the last response, if it may read another: not after chunks, whose trailers it would add to it."""

    def set_response_params(self, **options: Any) -> None:
        """Begin to read the response to another request."""
        self._answered, self._last, self._left, self._kept, self._interim = False, b"", None, None, 0
        super().set_response_params(**options)
        self.used = True

    def begin(self, *, skip_payload: bool, read_timeout: float | None) -> None:
        """Begin to read a response, within our limits. `read_timeout`: seconds of silence that end it."""
        if self._kept is not None and self._kept is self._parser and not skip_payload:
            self._answered, self._last, self._left, self._kept, self._interim = False, b"", None, None, 0
            self.read_timeout = read_timeout
            return
        self.set_response_params(
            skip_payload=skip_payload,
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=read_timeout,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
        )

    def send(self, request: bytes) -> None:
        """Write a request. Silence counts from when all of it is written."""
        transport = self.transport
        if transport is None or transport.is_closing():
            msg = "Cannot write to closing transport"
            raise ClientConnectionResetError(msg)
        transport.write(request)
        if not self.writing_paused:
            self.start_timeout()

    def has_input(self) -> bool:
        """Whether there is something to read, of which the event loop may not know yet."""
        if self._poll is None:
            assert self.transport is not None
            self._poll = select.poll()
            self._poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(self._poll.poll(0))

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002  aiohttp's signature
        """Read on after a pause. Without one there is nothing to do: aiohttp would run the parser on no bytes."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def resume_writing(self) -> None:
        """Note that the rest of a long request is about to leave."""
        super().resume_writing()
        if self.transport is not None and not self._answered:
            self.start_timeout()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take a message whose head has been read."""
        message, payload = data
        self._interim += 1
        self._answered = message.code >= 200 or message.code == SWITCHING  # noqa: PLR2004  not an interim one
        length = message.headers.get("Content-Length", "")
        if payload is not EMPTY_PAYLOAD and not message.chunked and length.isdecimal():
            self._left = int(length)
        elif message.code == NO_CONTENT and length.strip("0"):
            self.force_close()  # a body may follow all the same
        super().feed_data(data, size)

    def set_exception(self, *error: BaseException) -> None:
        """Fail the response, and its body if that is being read: after a bad chunk its reader would wait until the
        deadline.
        """
        body = self._payload
        super().set_exception(*error)
        if isinstance(error[0], HttpProcessingError) and body is not None and not body.is_eof():
            body.set_exception(ClientPayloadError("the body is not valid HTTP"))

    def data_received(self, data: bytes) -> None:
        """Pass on the head separately, so that bytes behind the response cannot fail it."""
        while data and not self._answered and (found := _END.search(self._last + data)) is not None:
            end = found.end() - len(self._last)
            if not self._last and not self._skip_payload and _is_whole(data, end):
                super().data_received(data)
                self._left, self._kept = 0, self._parser
                return
            head, data = data[:end], data[end:]
            self._last = b""
            super().data_received(head)
            if self._interim > MAX_INTERIM:
                self._give_up()
                return
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

    def _give_up(self) -> None:
        """Fail the response: of 1xx, however many there are, none is one."""
        self.set_exception(HttpProcessingError(code=0, message=f"more than {MAX_INTERIM} interim responses"))
        self.force_close()
        if self.transport is not None:
            self.transport.abort()

    def _end(self) -> None:
        """Close the connection after this response: at once if it was read to its end."""
        self.force_close()
        if self.transport is not None and (self._payload is None or self._payload.is_eof()):
            self.transport.close()


def _is_whole(data: bytes, end: int) -> bool:
    """Whether this is a response whose head has so many bytes, with a body of the length that it declares, and nothing
    behind it. Most are, and are parsed in one go.
    """
    head = data[:end].lower()
    if head[9:10] == b"1" or head[9:12] in _BODILESS or b"\ntransfer-encoding" in head:
        return False
    _, _, rest = head.partition(_LENGTH)
    length = rest[: rest.find(b"\n")].strip(b" \t\r")
    if len(length) > MAX_DIGITS or not length.isdigit() or _LENGTH in rest:
        return False
    return int(length) == len(data) - end
