"""Asks the upstream: fetch or call, load. What comes back is an answer that nobody has kept yet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from agents.answer.line import authority
from agents.answer.parsed_requests import ParsedRequest
from models import documents
from models.documents import Document
from models.errors import AnswerError, InvalidDocument, TooLarge, UpstreamError
from models.histogram import Histogram
from models.large import LARGE
from models.request import Request
from models.result import Answer
from streams.cache.freshness import PARTIAL, Head
from streams.functions import FunctionCaller
from streams.http.client import NOT_MODIFIED, Client
from streams.http.excerpt import chosen, excerpt
from streams.http.limits import Host
from streams.http.policy import UpstreamPolicy
from streams.http.response import Response
from streams.http.retry import repeatable
from streams.pool import LargeWork

Headers = Mapping[str, str]
E = TypeVar("E", bound=AnswerError)

_CONDITIONAL = frozenset({"if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range", "range"})
"""Headers with which a request makes conditions of its own, that ours would get in the way of."""

_REPRESENTATIONS = (200, 203)
"""Statuses with which GET brings what it asked for (RFC 9110, sections 15.3.1 and 15.3.4)."""


def any_size() -> int:
    """Return the bytes that a result may have where nothing limits it."""
    return sys.maxsize


class FetchResult(NamedTuple):
    """What the upstream said: `answer`, or None if it said that what is at hand still holds.

    `trail` has the heads of redirects and of the response, for its freshness, `told` those headers that results carry;
    `fetched_at` is in seconds since the epoch.
    """

    answer: Answer | None
    trail: tuple[Head, ...]
    attempts: int
    fetched_at: float
    told: Headers | None = None


class Fetcher:
    """Knows how each request is asked: `terms` are those of the sources, by name. `loading` is how long it took.

    `large` loads what would hold up the event loop; `limit` returns the bytes that a result may have.
    """

    def __init__(
        self,
        client: Client,
        caller: FunctionCaller,
        terms: Mapping[str, UpstreamPolicy],
        large: LargeWork | None = None,
        limit: Callable[[], int] = any_size,
    ) -> None:
        self._client = client
        self._caller = caller
        self._terms = terms
        self._large = large
        self._limit = limit
        self.load_times = Histogram()

    def on_change(self, changed: Callable[[str, Headers], None]) -> None:
        """Call `changed` with the URL, and the answer's headers, of each request that changed what an upstream has."""
        self._client.changed = changed

    async def fetch(self, known: ParsedRequest, extra: Headers, deadline: float, validators: Headers) -> FetchResult:
        """Ask with `extra` headers, before `deadline` (monotonic seconds). Raises AnswerError.

        `validators` ask whether an answer at hand still holds; without them there always is an answer.
        """
        request = known.request
        if validators and not _CONDITIONAL.isdisjoint(name.lower() for name in request.headers):
            validators = {}
        response = await self._request(known, extra, deadline, validators)
        fetched_at = time.time()
        trail = response.trail()
        if response.status == NOT_MODIFIED and validators:
            return FetchResult(None, trail, response.attempts, fetched_at, self._told(known, response))
        if _is_partial(request, response):
            host = urlsplit(request.url or "").hostname
            msg = f"{host} answered {PARTIAL} Partial Content to a request without Range"
            raise _of(response, UpstreamError(msg, PARTIAL))
        headers = self._told(known, response)
        document = await self._load(known, response, headers) if promises_document(request, response) else None
        answer = Answer(
            "ok",
            status=response.status,
            document=document and document.value,
            has_document=document is not None,
            encoded=document and document.encoded,
            headers=headers,
            attempts=response.attempts,
            fetched_at=fetched_at,
        )
        return FetchResult(answer, trail, response.attempts, fetched_at)

    def refusal(self, known: ParsedRequest) -> AnswerError | None:
        """Return why nothing is sent for this request now, if that is known before it is begun."""
        host = self._host(known)
        return None if host is None else host.refusal()

    def overdue(self, known: ParsedRequest) -> None:
        """Take note that this request could not even wait for its host."""
        source, host = known.source, self._host(known)
        if host is not None:
            host.overdue(None if source is None or source.call is not None else self._terms[source.name].bulkhead)

    def _host(self, known: ParsedRequest) -> Host | None:
        source, url = known.source, known.request.url
        if source is not None and source.call is not None:
            return self._caller.hosts.get(source.name)
        own = source.name if source is not None and source.is_apart else None
        return None if url is None else self._client.hosts.get(authority(url), own)

    async def _load(self, known: ParsedRequest, response: Response, headers: Headers | None) -> Document:
        """Return the document of a response's body. Raises InvalidDocument, which shows where the body begins, and
        TooLarge for one that no result could bring.
        """
        schema, body = known.request.schema, response.body
        began = time.monotonic()
        try:
            if not body.content and response.status is not None and schema not in documents.TAKE_NOTHING:
                msg = "the body is empty"
                raise InvalidDocument(msg)  # noqa: TRY301  told like any other
            # Of a page only the start is read.
            if self._large is None or len(body.content) <= LARGE or schema == "page":
                return documents.load(schema, body)
            return Document(await self._large.run("load a document", schema, tuple(body), self._limit()))
        except TooLarge as error:
            error.headers = headers
            raise _of(response, error) from None
        except InvalidDocument as error:
            error.headers = headers
            error.body, error.body_truncated = excerpt(response.body)
            raise _of(response, error) from None
        finally:
            self.load_times.add(time.monotonic() - began)

    def _told(self, known: ParsedRequest, response: Response) -> Headers | None:
        """Return the headers of a response that its source has results carry, None if it has none."""
        if known.source is None or not known.source.response_headers:
            return None
        terms = self._terms[known.source.name]
        return chosen(response.headers, terms.response_headers, terms.credentials)

    def _request(
        self, known: ParsedRequest, extra: Headers, deadline: float, validators: Headers
    ) -> Coroutine[Any, Any, Response]:
        """Return what to await for the response. No coroutine of its own: thousands may wait in it, and frames cost."""
        request, source = known.request, known.source
        if source is not None and source.call is not None:
            return self._caller.call(source, request.params, deadline)
        assert request.url is not None
        terms = self._terms[source.name] if source is not None else None
        headers = {**request.headers, **extra} if extra else request.headers
        again = repeatable(request.method, request.headers)  # a key of ours among the extra headers is no reason
        return self._client.fetch(
            request.method, request.url, headers, request.body,
            deadline=deadline, terms=terms, validators=validators, again=again,
        )  # fmt: skip


def _is_partial(request: Request, response: Response) -> bool:
    """Whether it is a part of what was asked for, though not a part was asked for (RFC 9110, section 15.3.7)."""
    if response.status != PARTIAL or request.method != "GET":
        return False
    return not any(name.lower() == "range" for name in request.headers)


def _of(response: Response, error: E) -> E:
    """Return the error of an answer that is of no use."""
    error.attempts, error.trail = response.attempts, response.trail()
    return error


def promises_document(request: Request, response: Response) -> bool:
    """Whether a response has a document, or should have: any has whose body is not empty.

    An empty one is a success without a document (RFC 9110, sections 9.3.2 and 15.3), unless the schema makes one of
    nothing, or it is the answer to GET with 200 or 203, which is to bring what was asked for. A function has no status.
    """
    if response.body.content or response.status is None or request.schema in documents.TAKE_NOTHING:
        return True
    return request.method == "GET" and response.status in _REPRESENTATIONS
