"""Answers in pages: all pages of an answer are fetched, one after the other, and make one response with all items."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from yarl import URL

from agents.answer.parsed_requests import ParsedRequest
from models.documents import Body
from models.errors import AnswerError, InvalidDocument, TooLarge, UpstreamError
from models.large import LARGE
from models.pages import Page, Pages, next_link, read_page, with_field
from models.request import Request
from models.url import MAX_URL
from streams.cache.freshness import Head, all_of
from streams.http.client import Client
from streams.http.excerpt import excerpt
from streams.http.policy import UpstreamPolicy
from streams.http.request import OutgoingRequest, harmless, redirected
from streams.http.response import Response, refuse_partial, unusable
from streams.http.retry import IDEMPOTENCY_KEY, repeatable
from streams.http.url import parse, resolve
from streams.pool import LargeWork

_SAME_METHOD = 307
"""The status of a redirect that repeats method and body, as the next page does."""


class _Place(NamedTuple):
    """Where a page is, and what goes there. `own`: the way there led through the source's own origin alone."""

    url: str
    headers: Mapping[str, str]
    own: bool = True


class PageFetcher:
    """Fetches from sources that have `pages`; `large` reads large pages in another process."""

    def __init__(self, client: Client, policies: Mapping[str, UpstreamPolicy], large: LargeWork | None = None) -> None:
        self._client = client
        self._policies = policies
        self._large = large

    async def fetch(self, known: ParsedRequest, extra: Mapping[str, str], deadline: float) -> Response:
        """Return a response with the items of all pages as its body, and the heads of all as its trail. Raises
        AnswerError, if one page fails.
        """
        request, source = known.request, known.source
        assert source is not None
        assert source.pages is not None
        assert request.url is not None
        # Without an Idempotency-Key of ours: an upstream that heeds it would take the next page for a repeat.
        headers = {**request.headers, **{name: value for name, value in extra.items() if name != IDEMPOTENCY_KEY}}
        reading = _Reading(request, source.pages, self._policies[source.name], headers)
        place: _Place | None = reading.first()
        with self._client.bodies.one_room(known.origin.host or "?", reading.policy.max_bytes, deadline) as room:
            while place is not None:
                reading.number += 1
                response = await self._fetch_page(reading, place, deadline)
                try:
                    refuse_partial(request, response)
                    page = await self._read(response, reading.pages)
                    place = reading.take(place, response, page)
                    await room.grow(reading.size)
                except InvalidDocument as error:
                    error.body, error.body_truncated = excerpt(response.body)
                    raise reading.failed(error, response) from None
                except AnswerError as error:
                    raise reading.failed(error, response) from None
        return reading.response()

    async def _fetch_page(self, reading: _Reading, place: _Place, deadline: float) -> Response:
        request, left = reading.request, reading.policy.max_bytes - reading.size
        policy = dataclasses.replace(reading.policy, max_bytes=left) if reading.size else reading.policy
        again = repeatable(request.method, request.headers)
        try:
            return await self._client.fetch(
                request.method, place.url, place.headers, request.body,
                deadline=deadline, policy=policy, again=again, own=place.own,
            )  # fmt: skip
        except AnswerError as error:
            if isinstance(error, TooLarge) and reading.size:
                error = reading.too_large()
                error.attempts = 1
            raise reading.failed(error) from None

    async def _read(self, response: Response, pages: Pages) -> Page:
        if response.status == HTTPStatus.NO_CONTENT and pages.counts:
            return Page(b"")
        if not response.body.content:
            msg = "the body is empty"
            raise InvalidDocument(msg)
        if self._large is None or len(response.body.content) <= LARGE:
            return read_page(response.body, pages)
        following = None if pages.next is None else pages.next.text
        pickled = await self._large.run("read a page", *response.body, pages.items.text, following)
        return Page(*pickle.loads(pickled))  # noqa: S301  our own process


class _Reading:
    """The pages of one answer so far: their items and heads, and the bytes of their bodies (`size`). `number` is that
    of the present page.
    """

    def __init__(self, request: Request, pages: Pages, policy: UpstreamPolicy, headers: Mapping[str, str]) -> None:
        self.request = request
        self.pages = pages
        self.policy = policy
        self.size = self.number = 0
        self._headers = headers
        self._attempts = 0
        self._items: list[bytes] = []
        self._heads: list[Head] = []
        self._last: Response | None = None
        self._seen: set[str] = set()

    def first(self) -> _Place:
        """Return the place of the first page."""
        url = self.request.url or ""
        if self.pages.counts:
            url = with_field(url, self.pages.param or "", str(self.pages.first))
        self._seen.add(url)
        return _Place(url, self._headers)

    def take(self, place: _Place, response: Response, page: Page) -> _Place | None:
        """Add a page; return the place of the next one, None after the last. Raises AnswerError."""
        self.size += len(response.body.content)
        repeated = bool(page.items) and self._items[-1:] == [page.items]
        if page.items:
            self._items.append(page.items)
        following = self._following(place, response, page)
        if following is not None and (repeated or following.url in self._seen):
            msg = "the page repeats the one before" if repeated else "the next page is one that was read already"
            raise UpstreamError(msg, response.status)
        if following is not None and self.number >= self.pages.limit:
            if not self.pages.truncate:
                msg = f"the answer has more than {self.pages.limit} pages (pages.limit)"
                raise TooLarge(msg)
            following = None
        if following is not None:
            self._seen.add(following.url)
            if self.size >= self.policy.max_bytes:
                raise self.too_large()
        self._attempts += response.attempts
        self._heads += response.trail()
        self._last = response
        return following

    def too_large(self) -> TooLarge:
        """Return the error of pages that have too many bytes."""
        return TooLarge(f"the pages have more than {self.policy.max_bytes} bytes in all")

    def failed(self, error: AnswerError, response: Response | None = None) -> AnswerError:
        """Return the error of the whole answer: of a page that was not had, or whose `response` is of no use."""
        if response is not None:
            error = unusable(response, error)
        if self._attempts:
            error.attempts = (error.attempts or 0) + self._attempts
            error.unsent = False  # the pages before were
        if self.number > 1:
            error.args = (f"page {self.number}: {error}",)
        return error

    def response(self) -> Response:
        """Return the response that all pages make: its headers are those of the last."""
        last = self._last
        assert last is not None
        body = Body(b"[%b]" % b",".join(self._items), "application/json")
        return last._replace(own=False, body=body, attempts=self._attempts, redirects=tuple(self._heads[:-1]))

    def _following(self, place: _Place, response: Response, page: Page) -> _Place | None:
        pages, url = self.pages, self.request.url or ""
        if pages.counts:
            number = pages.first + self.number * pages.step
            return place._replace(url=with_field(url, pages.param or "", str(number))) if page.items else None
        link = next_link(all_of(response.headers, "Link")) if pages.link else page.next
        if link is None:
            return None
        if pages.param is None:
            return self._linked(place, response, link)
        url = with_field(url, pages.param, link)
        if len(url) > MAX_URL:
            msg = "the cursor is too long for a URL"
            raise UpstreamError(msg, response.status)
        return place._replace(url=url)

    def _linked(self, place: _Place, response: Response, link: str) -> _Place:
        """Return where a link leads, by the rules of redirects: what goes to another origin has no credentials of the
        source's, and no headers but harmless ones. Raises Denied.
        """
        here = parse(self.request.url or "")
        base: URL = response.url or parse(place.url)
        try:
            target = str(resolve(base, link))
        except ValueError:
            msg = "the link to the next page is no URL"
            raise UpstreamError(msg, response.status) from None
        own = place.own and base.origin() == here.origin()
        headers = self._headers if own else harmless(self._headers)
        hop = OutgoingRequest(self.request.method, here, headers, None, own)
        hop = redirected(hop, _SAME_METHOD, target, self.policy.credentials, did="linked")
        return _Place(str(hop.url), hop.headers, hop.own)
