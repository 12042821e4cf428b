"""Fetches from the upstream, or calls a function, and loads the document. Nothing is cached here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple

from agents.answer.bulk import BulkFetcher
from agents.answer.pages import PageFetcher
from agents.answer.parsed_requests import ParsedRequest
from models import documents
from models.documents import Document
from models.errors import AnswerError, InvalidDocument, TooLarge
from models.histogram import Histogram
from models.large import LARGE
from models.request import Request
from models.result import Answer
from streams.cache.freshness import Head
from streams.functions import FunctionCaller
from streams.http.client import NOT_MODIFIED, Client
from streams.http.excerpt import chosen, excerpt
from streams.http.limits import Host
from streams.http.policy import UpstreamPolicy
from streams.http.response import Response, refuse_partial, unusable
from streams.http.retry import repeatable
from streams.pool import LargeWork

Headers = Mapping[str, str]

_CONDITIONAL = frozenset({"if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range", "range"})
"""Headers of a conditional request: it gets no validators of ours."""

_REPRESENTATIONS = (200, 203)
"""Statuses of a GET whose body is the representation (RFC 9110, sections 15.3.1 and 15.3.4)."""
_REVALIDATED = ("GET", "HEAD")
"""Methods of conditional requests; to others If-None-Match has a server answer 412 (RFC 9110, section 13.1.2)."""
_BLANKS = b" \t\r\n"


def any_size() -> int:
    """Return the maximum bytes of a result without a limit."""
    return sys.maxsize


class FetchResult(NamedTuple):
    """The upstream's answer, None for a 304: the cached one is still valid.

    `trail` has the heads of redirects and response, for freshness; `headers` are those of a 304 for the result;
    `fetched_at` is in epoch seconds.
    """

    answer: Answer | None
    trail: tuple[Head, ...]
    attempts: int
    fetched_at: float
    headers: Headers | None = None


class Fetcher:
    """Fetches by the `policies` of sources, by name. `load_times`: seconds that documents took to load.

    `large` loads large documents in another process; `limit` returns a result's maximum bytes.
    """

    def __init__(
        self,
        client: Client,
        caller: FunctionCaller,
        policies: Mapping[str, UpstreamPolicy],
        large: LargeWork | None = None,
        limit: Callable[[], int] = any_size,
    ) -> None:
        self._client = client
        self._caller = caller
        self._policies = policies
        self._large = large
        self._limit = limit
        self.load_times = Histogram()
        self.bulk = BulkFetcher(client, caller, policies, large)
        self._pages = PageFetcher(client, policies, large)

    async def close(self) -> None:
        """End what goes on by itself: calls for many keys."""
        await self.bulk.close()

    def on_change(self, changed: Callable[[str, Headers], None]) -> None:
        """Call `changed` with the URL and response headers of each request that changed something at an upstream."""
        self._client.changed = changed

    async def fetch(self, known: ParsedRequest, extra: Headers, deadline: float, validators: Headers) -> FetchResult:
        """Fetch with `extra` headers before `deadline` (monotonic seconds). Raises AnswerError.

        `validators` revalidate a cached answer; without them `FetchResult.answer` is never None.
        """
        request = known.request
        if validators and (
            request.method not in _REVALIDATED or not _CONDITIONAL.isdisjoint(name.lower() for name in request.headers)
        ):
            validators = {}
        response = await self._request(known, extra, deadline, validators)
        fetched_at = time.time()
        trail = response.trail()
        if response.status == NOT_MODIFIED and validators:
            return FetchResult(None, trail, response.attempts, fetched_at, self._response_headers(known, response))
        refuse_partial(request, response)
        headers = self._response_headers(known, response)
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
        """Return the error of a request whose host is not contacted now, None if it may begin."""
        host = self._host(known)
        return None if host is None else host.refusal()

    def pause(self, known: ParsedRequest) -> float:
        """Return the seconds for which its host is left alone: its breaker is open, or it requested a pause."""
        host = self._host(known)
        return 0.0 if host is None else host.left_alone_for

    def overdue(self, known: ParsedRequest) -> None:
        """Note that the request was refused because its host does not keep up."""
        source, host = known.source, self._host(known)
        if host is not None:
            host.overdue(None if source is None or source.call is not None else self._policies[source.name].bulkhead)

    def _host(self, known: ParsedRequest) -> Host | None:
        source = known.source
        if source is not None and source.call is not None:
            return self._caller.hosts.get(source.name)
        own = source.name if source is not None and source.is_apart else None
        return self._client.hosts.get(known.origin.authority, own)

    async def _load(self, known: ParsedRequest, response: Response, headers: Headers | None) -> Document:
        """Return the document. Raises InvalidDocument, with an excerpt of the body, and TooLarge."""
        schema, body = known.request.schema, response.body
        began = time.monotonic()
        try:
            if not body.content and response.status is not None and schema not in documents.TAKE_NOTHING:
                msg = "the body is empty"
                raise InvalidDocument(msg)  # noqa: TRY301  handled below like any other
            # Of a page only the start is parsed.
            if self._large is None or len(body.content) <= LARGE or schema == "page":
                return documents.load(schema, body)
            return Document(await self._large.run("load a document", *body, schema, self._limit()))
        except TooLarge as error:
            error.headers = headers
            raise unusable(response, error) from None
        except InvalidDocument as error:
            error.headers = headers
            error.body, error.body_truncated = excerpt(response.body)
            raise unusable(response, error) from None
        finally:
            self.load_times.add(time.monotonic() - began)

    def _response_headers(self, known: ParsedRequest, response: Response) -> Headers | None:
        """Return the response headers that the source adds to results, None if there are none."""
        if known.source is None or not known.source.response_headers:
            return None
        policy = self._policies[known.source.name]
        return chosen(response.headers, policy.response_headers, policy.credentials)

    def _request(
        self, known: ParsedRequest, extra: Headers, deadline: float, validators: Headers
    ) -> Coroutine[Any, Any, Response]:
        """Return an awaitable of the response. Not a coroutine itself: thousands may wait, and frames cost memory."""
        request, source = known.request, known.source
        if source is not None and source.batch is not None:
            return self.bulk.fetch(known, extra, deadline)
        if source is not None and source.pages is not None:
            return self._pages.fetch(known, extra, deadline)
        if source is not None and source.call is not None:
            return self._caller.call(source, request.params, deadline)
        assert request.url is not None
        policy = self._policies[source.name] if source is not None else None
        headers = {**request.headers, **extra} if extra else request.headers
        again = repeatable(request.method, request.headers)  # our own Idempotency-Key does not count
        return self._client.fetch(
            request.method, request.url, headers, request.body,
            deadline=deadline, policy=policy, validators=validators, again=again,
        )  # fmt: skip


def promises_document(request: Request, response: Response) -> bool:
    """Whether a response has, or should have, a document.

    An empty body, or one of blanks alone as some frameworks send, is a success without a document (RFC 9110, sections
    9.3.2 and 15.3), unless the schema accepts nothing as a document, or it answers GET with 200 or 203. A function has
    no status.
    """
    if response.body.content.strip(_BLANKS) or response.status is None or request.schema in documents.TAKE_NOTHING:
        return True
    return request.method == "GET" and response.status in _REPRESENTATIONS
