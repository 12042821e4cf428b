"""The lookups of a record: what its route asks the sources for it, from the cache if all is there, and else at once.

What may be tried again because it was never sent (its host is slow, limited, pausing or resting) waits: the record was
not at fault, and its route holds back in Kafka what comes behind it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import ConsumerRecord

from agents.answer.encoded_answer import EncodedAnswer
from agents.answer.enrich import Enricher
from agents.answer.headers import forwarded_headers
from agents.answer.parsed_requests import ParsedRequest, parse_request
from agents.answer.retry_later import may_repeat
from agents.routes.formats import Formats
from agents.routes.large import LargeValue
from agents.routes.picker import Picker
from agents.routes.value import NULL, Answered, Value
from agents.routes.waits import FIRST_WAIT, LONGEST_WAIT, Waits
from models.errors import AnswerError, InvalidRequest, Overloaded
from models.expression import may_lack_digits
from models.kept import Kept
from models.request import SOURCE_SCHEMA, Request
from models.route import MAX_VALUES, Lookup, Route, too_many
from models.source import REQUIRED, Param, Sources
from streams.cache.entry import Entry
from streams.http.bodies import kept_until_answered
from streams.http.retry import IDEMPOTENCY_KEY
from streams.pool import LargeWork

MAX_REQUESTS = 16_384
"""Requests of a route that are kept, in each of two generations."""
_SCALARS = (str, int, float, bool)


class Found(NamedTuple):
    """What came of a lookup: its `value` and the results of its checks, or an `error`; `answer` is the source's.

    `again` is whether the source may be asked the same again.
    """

    value: Value = NULL
    checks: Value = NULL
    error: AnswerError | None = None
    answer: EncodedAnswer | None = None
    known: ParsedRequest | None = None
    again: bool = True

    @property
    def host(self) -> str | None:
        """Return the host of its request."""
        return None if self.known is None else self.known.origin.host


Results = dict[str, Found]
"""What came of a record's lookups, by name."""


class Lookups:
    """The lookups of one route; `large` looks into large documents. Raises nothing: an error is a result."""

    def __init__(
        self, route: Route, sources: Sources, enricher: Enricher, formats: Formats, large: LargeWork | None = None
    ) -> None:
        self._route = route
        self._formats = formats
        self._used = frozenset[str]().union(*(lookup.needs for lookup in route.lookups))
        self._sources = sources
        self._enricher = enricher
        self._picker = Picker(route, large)
        self._kept: Kept[Any, ParsedRequest] = Kept(MAX_REQUESTS)

    def requests(self, lookup: Lookup, scope: Mapping[str, Any]) -> ParsedRequest | list[ParsedRequest]:
        """Return what to ask for a record, a list for a parameter that is one. Raises AnswerError."""
        params: dict[str, Any] = {}
        spread: str | None = None
        source = self._sources.by_name[lookup.source]
        declared = source.params
        for name in lookup.params:
            value, scope = self._evaluated(lookup, name, scope)
            if value is None:
                if declared.get(name, _REQUIRED).default is REQUIRED:
                    raise self._nothing(lookup, name, scope)
                continue
            if isinstance(value, list) and self._is_one_by_one(lookup, name):
                if spread is not None:
                    msg = f"{self._where(lookup, name)} is a list, as is params.{spread}: a lookup takes one"
                    raise InvalidRequest(msg)
                spread = name
            params[name] = value
        if spread is None:
            return self._request(lookup, params)
        values = params[spread]
        if len(values) > MAX_VALUES:
            msg = f"{self._where(lookup, spread)} {too_many(len(values))}"
            raise InvalidRequest(msg)
        if self._route.output == "result":
            msg = (
                f'{self._where(lookup, spread)} is a list, which output = "result" cannot show: say output = "document"'
            )
            raise InvalidRequest(msg)
        return [self._request(lookup, {**params, spread: value}, at) for at, value in enumerate(values)]

    def _nothing(self, lookup: Lookup, name: str, scope: Mapping[str, Any]) -> AnswerError:
        """Return the error of a parameter that finds nothing; if that is for want of another's answer, the other's."""
        used = lookup.params[name].lookups
        for other in sorted(used & scope["failed"].keys()):
            return _located(scope["failed"][other], f"{self._where(lookup, name)} has no answer of the lookup {other}")
        place = "the answers" if used else "the record"
        return InvalidRequest(f"{self._where(lookup, name)} finds nothing in {place}")

    def _evaluated(self, lookup: Lookup, name: str, scope: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """Return a parameter's value, and what its expression saw: all digits of numbers where they matter."""
        expression = lookup.params[name]
        try:
            if isinstance(scope["value"], LargeValue):
                if isinstance(value := scope["found"][lookup.name, name], ValueError):
                    raise value
                return value, scope
            if expression.exact:
                scope = self._formats.exactly(scope)
            value = expression.evaluate(scope)
            if not scope["exact"] and may_lack_digits(value):
                scope = self._formats.exactly(scope)
                value = expression.evaluate(scope)
        except ValueError as exc:
            msg = f"{self._where(lookup, name)}: {exc}"
            raise InvalidRequest(msg) from None
        return value, scope

    def cached(self, scope: dict[str, Any], now: float) -> Results | None:
        """Return all results from the cache at `now` (epoch seconds), None if one has to be fetched. Never waits."""
        results: Results = {}
        for stage in self._route.stages:
            for lookup in stage:
                try:
                    requests = self.requests(lookup, scope)
                    found = []
                    for known in requests if isinstance(requests, list) else [requests]:
                        entry = self._enricher.peek(known, now)
                        if entry is None or self._picker.waits(lookup, entry):
                            return None
                        found.append(self._found(lookup, known, entry))
                    results[lookup.name] = _joined(found) if isinstance(requests, list) else found[0]
                except AnswerError as error:
                    results[lookup.name] = Found(error=error)
                self._show(lookup, results[lookup.name], scope)
            if _is_lost(stage, results):
                if (refused := self._refused(stage, scope)) is None:
                    return results
                own = {lookup.name for lookup in stage}  # of which `run` would have had none
                return {name: found for name, found in results.items() if name not in own} | refused
        return results

    async def run(self, scope: dict[str, Any], record: ConsumerRecord[bytes, bytes], waits: Waits) -> Results:
        """Return all results, each fetched if the cache does not have it. A required one that fails is the last. They
        are in the scope from the first on: what was sent counts, too, if what follows breaks.

        Nothing of a stage is sent if one of its required lookups has no parameters.
        """
        results: Results = {}
        scope["results"] = results
        for stage in self._route.stages:
            if isinstance(scope["value"], LargeValue):
                scope["found"] = await self._evaluate(stage, scope["value"], scope)
            if (refused := self._refused(stage, scope)) is not None:
                results.update(refused)
                break
            lookups = (self._look_up(lookup, scope, record, waits) for lookup in stage)
            faults: list[BaseException] = []
            for lookup, each in zip(stage, await asyncio.gather(*lookups, return_exceptions=True), strict=True):
                if isinstance(each, BaseException):
                    faults.append(each)
                else:
                    results[lookup.name] = each
                    self._show(lookup, each, scope)
            if faults:
                raise faults[0]
            if _is_lost(stage, results):
                break
        return results

    async def _evaluate(
        self, stage: Sequence[Lookup], value: LargeValue, scope: Mapping[str, Any]
    ) -> Mapping[Any, Any]:
        """Return the values of the parameters of a stage's lookups, by both their names. Raises AnswerError."""
        params = {(each.name, name): (expression.text, self._is_one_by_one(each, name))
                  for each in stage for name, expression in each.params.items()}  # fmt: skip
        return dict(zip(params, await value.evaluate(tuple(params.values()), scope), strict=True))

    def _is_one_by_one(self, lookup: Lookup, name: str) -> bool:
        return name not in lookup.whole and name not in self._sources.by_name[lookup.source].lists

    def _refused(self, stage: Sequence[Lookup], scope: Mapping[str, Any]) -> Results | None:
        """Return why the first required lookup of a stage cannot be made, None if all can."""
        for lookup in stage if len(stage) > 1 else ():
            if lookup.required:
                try:
                    self.requests(lookup, scope)
                except AnswerError as error:
                    return {lookup.name: Found(error=error)}
        return None

    async def _look_up(
        self, lookup: Lookup, scope: Mapping[str, Any], record: ConsumerRecord[bytes, bytes], waits: Waits
    ) -> Found:
        try:
            requests = self.requests(lookup, scope)
        except AnswerError as error:
            return Found(error=error)
        if not isinstance(requests, list):
            return await self._ask(lookup, requests, record, waits)
        questions = (self._ask(lookup, each, record, waits, at) for at, each in enumerate(requests))
        found = await asyncio.gather(*questions)
        return _joined(found)

    async def _ask(
        self, lookup: Lookup, known: ParsedRequest, record: ConsumerRecord[bytes, bytes], waits: Waits,
        at: int | None = None,
    ) -> Found:  # fmt: skip
        """Ask a source until the question was sent, or the cache has the answer."""
        extra = dict(forwarded_headers(record, known.request))
        if IDEMPOTENCY_KEY in extra:  # one for each question, and the same for each repeat of it
            extra[IDEMPOTENCY_KEY] += f"-{lookup.name}" + ("" if at is None else f"-{at}")
        wait = FIRST_WAIT
        while True:
            error: AnswerError | None = self._enricher.refusal(known)
            if error is None:
                with waits.turn(lookup.source), kept_until_answered():
                    answer = await self._enricher.answer(known, extra)
                error = answer.error
                if type(error) is not Overloaded or not _may_wait(known, error):
                    waits_for = self._picker.waits(lookup, answer)
                    taken = await self._picker.pick(lookup, answer) if waits_for else None
                    return self._found(lookup, known, answer, taken)
            pause = min(max(self._enricher.pause(known), wait), LONGEST_WAIT)
            with waits.because(str(error)):
                await asyncio.sleep(pause * (1 + random.random() / 4))  # noqa: S311  not all at the same moment
            wait = min(2 * wait, LONGEST_WAIT)

    def _found(
        self, lookup: Lookup, known: ParsedRequest, answer: EncodedAnswer | Entry, taken: Answered | None = None
    ) -> Found:
        encoded = EncodedAnswer.of(answer, b"hit") if isinstance(answer, Entry) else answer
        again = encoded.cache == b"hit" or may_repeat(known, encoded.error)
        found = Found(error=encoded.error, answer=encoded, known=known, again=again)
        if encoded.error is not None:
            return found
        try:
            value, checks = self._picker.of(lookup, encoded, taken)
        except AnswerError as error:
            return found._replace(error=error)
        return found._replace(value=value, checks=checks)

    def _request(self, lookup: Lookup, params: dict[str, Any], at: int | None = None) -> ParsedRequest:
        """Return the request for a source, remembered by its parameters; `at` is the place of a list's value.

        Raises AnswerError.
        """
        key = None
        if all(type(value) in _SCALARS for value in params.values()):
            key = (
                lookup.name,
                *(  # 0.0 and -0.0 are equal
                    (name, type(value), repr(value) if type(value) is float else value)
                    for name, value in params.items()
                ),
            )
            known = self._kept.young.get(key) or self._kept.get(key)
            if known is not None:
                return known
        request = Request(source=lookup.source, params=params, schema=SOURCE_SCHEMA, checks=lookup.checks)
        try:
            known = parse_request(request, self._sources)
        except AnswerError as error:
            place = "" if at is None else f"value {at}: "
            error.args = (f"{self._where(lookup)}: {place}{error} ({_expressions(lookup)})",)
            raise
        if key is not None:
            self._kept.put(key, known)
        return known

    def _show(self, lookup: Lookup, found: Found, scope: Mapping[str, Any]) -> None:
        """Let expressions of other lookups see what came of one, if one uses it."""
        if lookup.name in self._used:
            value = found.value
            scope["lookups"][lookup.name] = value.text if isinstance(scope["value"], LargeValue) else value.loaded
            if found.error is not None:
                scope["failed"][lookup.name] = found.error

    def _where(self, lookup: Lookup, param: str | None = None) -> str:
        where = f"route {self._route.name}, lookup {lookup.name}"
        return where if param is None else f"{where}: params.{param} ({lookup.params[param].text})"


_REQUIRED = Param()


def _is_lost(stage: Sequence[Lookup], results: Results) -> bool:
    """Whether a lookup failed without which the record fails, so that those that come later need not begin."""
    return any(lookup.required and results[lookup.name].error is not None for lookup in stage)


def _joined(found: Sequence[Found]) -> Found:
    """Return the results of a list as one: an array, or the first error."""
    again = all(each.again for each in found)
    for at, each in enumerate(found):
        if each.error is not None:
            error = each.error if len(found) == 1 else _located(each.error, f"value {at}")
            return each._replace(error=error, again=again)
    checked = any(each.checks is not NULL for each in found)
    return Found(
        Value.array([each.value for each in found]),
        Value.array([each.checks for each in found]) if checked else NULL,
        again=again,
    )


def _may_wait(known: ParsedRequest, error: AnswerError) -> bool:
    """Whether a question that has no turn now may wait for another: not if it would be sent twice that must not be, or
    if it would have to begin at its first page again, each time at the cost of the turns of others.
    """
    paged = known.source is not None and known.source.pages is not None
    return not error.attempts or (may_repeat(known, error) and not paged)


def _expressions(lookup: Lookup) -> str:
    return ", ".join(f"{name} = {expression.text}" for name, expression in lookup.params.items())


def _located(error: AnswerError, where: str) -> AnswerError:
    """Return an error that says what it is about; the original may be in the cache."""
    located = error.copied()
    located.args = (f"{where}: {error}",)
    return located
