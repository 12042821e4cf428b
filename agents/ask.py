"""Asks the upstream: fetch or call, load. What comes back is an answer that nobody has kept yet."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

from agents.known import Known
from agents.line import authority
from models import documents
from models.errors import AnswerError, InvalidDocument
from models.latency import Histogram
from models.result import Answer
from streams.functions import Caller
from streams.http.client import NOT_MODIFIED, Client
from streams.http.response import Response
from streams.http.terms import Terms

Headers = Mapping[str, str]

_CONDITIONAL = frozenset({"if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range", "range"})
"""Headers with which a request makes conditions of its own, that ours would get in the way of."""


class Asked(NamedTuple):
    """What the upstream said: `answer`, or None if it said that what is at hand still holds.

    `headers` are the response's, for its freshness; `fetched_at` is in seconds since the epoch.
    """

    answer: Answer | None
    headers: Headers
    attempts: int
    fetched_at: float


class Asker:
    """Knows how each request is asked: `terms` are those of the sources, by name. `loading` is how long it took."""

    def __init__(self, client: Client, caller: Caller, terms: Mapping[str, Terms]) -> None:
        self._client = client
        self._caller = caller
        self._terms = terms
        self.loading = Histogram()

    async def ask(self, known: Known, extra: Headers, deadline: float, validators: Headers) -> Asked:
        """Ask with `extra` headers, before `deadline` (monotonic seconds). Raises AnswerError.

        `validators` ask whether an answer at hand still holds; without them there always is an answer.
        """
        request = known.request
        if validators and not _CONDITIONAL.isdisjoint(name.lower() for name in request.headers):
            validators = {}
        response = await self._fetch(known, extra, deadline, validators)
        fetched_at = time.time()
        if response.status == NOT_MODIFIED and validators:
            return Asked(None, response.headers, response.attempts, fetched_at)
        began = time.monotonic()
        try:
            document = documents.load(request.schema, response.body)
        except InvalidDocument as error:
            error.attempts = response.attempts
            raise
        finally:
            self.loading.add(time.monotonic() - began)
        answer = Answer(
            "ok",
            status=response.status,
            document=document.value,
            has_document=True,
            encoded=document.encoded,
            attempts=response.attempts,
            fetched_at=fetched_at,
        )
        return Asked(answer, response.headers, response.attempts, fetched_at)

    def refusal(self, known: Known) -> AnswerError | None:
        """Return why nothing is sent for this request now, if that is known before it is begun."""
        source, url = known.source, known.request.url
        if source is not None and source.call is not None:
            host = self._caller.hosts.get(source.name)
        else:
            host = None if url is None else self._client.hosts.get(authority(url))
        return None if host is None else host.refusal()

    def _fetch(
        self, known: Known, extra: Headers, deadline: float, validators: Headers
    ) -> Coroutine[Any, Any, Response]:
        """Return what to await for the response. No coroutine of its own: thousands may wait in it, and frames cost."""
        request, source = known.request, known.source
        if source is not None and source.call is not None:
            return self._caller.call(source, request.params, deadline)
        assert request.url is not None
        terms = self._terms[source.name] if source is not None else None
        headers = {**request.headers, **extra} if extra else request.headers
        return self._client.fetch(
            request.method, request.url, headers, request.body, deadline=deadline, terms=terms, validators=validators
        )
