"""Checks on a document: only those that have not been run on it, each once for all who want it at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from agents.enriched import NOT_AT_HAND, Enriched
from agents.known import Known
from models import checks
from models.checks import Call, Verdict
from models.errors import CheckError
from models.result import RESULT_DEPTH, encode_verdict, with_checks
from models.source import NEGATIVE_TTL
from models.strictjson import loads
from streams.cache.entry import MAX_VERDICTS, Entry, Kept
from streams.cache.flights import Flights
from streams.cache.front import Cache
from streams.pool import CheckPool


class Judge:
    """Knows what checks said of the documents in the cache."""

    def __init__(self, pool: CheckPool, cache: Cache) -> None:
        self._pool = pool
        self._cache = cache
        self._flights: Flights[Kept] = Flights()

    async def judge(self, known: Known, enriched: Enriched) -> Enriched:
        """Return the answer with what the request's checks say; one that fails makes it a `check_error`.

        A verdict stays with the document in the cache; a failure for NEGATIVE_TTL seconds, and in this process only.
        """
        if enriched.error is not None:
            return enriched
        now = time.time()
        held = self._held(known, enriched)
        verdicts = {key: kept for key, kept in held.verdicts.items() if now < kept.until} if held else {}
        missing = {key: call for key, call in zip(known.checks, known.request.checks, strict=True)
                   if key not in verdicts}  # fmt: skip
        new: dict[bytes, Kept] = {}
        try:
            await self._run(missing, enriched, new)
        finally:
            self._keep(known, enriched, new)
        return _judged(known, enriched, verdicts | new)

    async def _run(self, missing: Mapping[bytes, Call], enriched: Enriched, new: dict[bytes, Kept]) -> None:
        """Run what nobody runs on this document yet, then wait for what others run."""
        if not missing:
            return
        document = _document(enriched)
        mark = id(enriched.shared)  # no other's as long as we hold it
        led = [key for key in missing if self._flights.lead((mark, key))]
        under_way = {key: self._submit(missing[key], document) for key in led}
        try:
            for key, future in under_way.items():
                new[key] = _kept(missing[key], await future)
                self._flights.land((mark, key), new[key])
        finally:
            for key, future in under_way.items():
                if key not in new:  # out of time: whoever still wants it takes our place
                    future.cancel()
                    self._flights.land((mark, key), None)
        for key in missing.keys() - new.keys():
            landed = await self._flights.join((mark, key)) if (mark, key) in self._flights else None
            if landed is not None:
                new[key] = landed
        await self._run({key: call for key, call in missing.items() if key not in new}, enriched, new)

    def _submit(self, call: Call, document: Any) -> asyncio.Future[Verdict]:
        """Ask for a check; one whose field is not there fails without going to the pool."""
        try:
            value = checks.select(document, call.field)
        except ValueError as exc:
            failed: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
            failed.set_result(Verdict(error=str(exc)))
            return failed
        return self._pool.submit(call.name, value, call.args)

    def _held(self, known: Known, enriched: Enriched) -> Entry | None:
        """Return the entry of the cache that is of this very answer."""
        entry = None if known.key is None else self._cache.peek(known.key)
        return entry if entry is not None and entry.shared is enriched.shared else None

    def _keep(self, known: Known, enriched: Enriched, new: Mapping[bytes, Kept]) -> None:
        """Put what is new with the document, unless that has been replaced or gone meanwhile."""
        held = self._held(known, enriched)
        if held is None or known.key is None or not (new or enriched.document is not NOT_AT_HAND):
            return
        verdicts = dict(list({**held.verdicts, **new}.items())[-MAX_VERDICTS:])
        entry = held._replace(verdicts=verdicts)
        if known.is_private or all(kept.error is not None for kept in new.values()) and enriched.cache not in _FETCHED:
            self._cache.put_in_memory(known.key, entry)
        else:
            self._cache.put(known.key, entry)
