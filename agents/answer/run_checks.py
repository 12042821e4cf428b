"""Runs the checks that have no result yet for a document, each once for all concurrent requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from agents.answer.encoded_answer import EncodedAnswer
from agents.answer.parsed_requests import ParsedRequest
from models import checks
from models.checks import Call, CheckOutcome, Unread
from models.histogram import Histogram
from models.large import LARGE
from models.result import encode_check_result, failure, with_check_results
from models.source import NEGATIVE_TTL
from streams.cache.check_results import CheckResult, CheckResults, JoinedResults, join
from streams.pool import CheckPool


class _Run:
    """A running check, and how many requests wait for it: without any it is cancelled."""

    def __init__(self, call: Call, future: asyncio.Future[CheckOutcome]) -> None:
        self._call, self.future = call, future
        self.waiting = 0
        self._result: CheckResult | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is a result."""
        return self.future.done() and not self.future.cancelled()

    def result(self) -> CheckResult:
        """Return the result, one object for all. Raises CancelledError if the pool was closed first."""
        if self._result is None:
            verdict = self.future.result()
            encoded, error = encode_check_result(self._call, verdict), failure(self._call, verdict)
            self._result = (
                CheckResult(encoded) if error is None else CheckResult(encoded, error, time.time() + NEGATIVE_TTL)
            )
        return self._result


class CheckRunner:
    """Calls `on_new_results` for each document with new results. `run_times`: seconds that a document's checks took."""

    def __init__(self, pool: CheckPool, on_new_results: Callable[[ParsedRequest, CheckResults], None]) -> None:
        self._pool = pool
        self._on_new_results = on_new_results
        # By the identity of the results object: each waiting request holds it.
        self._running: dict[tuple[int, str], _Run] = {}
        self.run_times = Histogram()

    async def run(self, known: ParsedRequest, found: EncodedAnswer) -> EncodedAnswer:
        """Return an answer with its check results; a failed check makes it a `check_error`."""
        if found.error is not None or not known.checks:
            return found
        known_results = CheckResults() if found.check_results is None else found.check_results
        now = time.time()
        results = {key: kept for key in known.checks if (kept := known_results.find(key, now)) is not None}
        calls = zip(known.checks, known.request.checks, strict=True)
        missing = {key: call for key, call in calls if key not in results}
        if missing:
            results |= await self._run_missing(known, missing, found, known_results)
        return _add_check_results(found, join([results[key] for key in known.checks]))

    async def _run_missing(
        self, known: ParsedRequest, missing: Mapping[str, Call], found: EncodedAnswer, known_results: CheckResults
    ) -> dict[str, CheckResult]:
        """Run the missing checks unless they run already, wait for all, and keep whatever results there are."""
        runs: dict[str, _Run] = {}
        began = time.monotonic()
        try:
            if any((id(known_results), key) not in self._running for key in missing) and not _is_large(found):
                with contextlib.suppress(ValueError):  # without a document each check fails by itself
                    found = found._replace(loaded=found.document())
            for key, call in missing.items():
                runs[key] = self._join(known_results, key, call, found)
            if waiting := {run.future for run in runs.values() if not run.future.done()}:
                await asyncio.wait(waiting)
            return {key: run.result() for key, run in runs.items()}
        finally:
            self.run_times.add(time.monotonic() - began)
            news = [known_results.store(key, run.result()) for key, run in runs.items() if run.is_done]
            for key, run in runs.items():
                self._leave(known_results, key, run)
            if any(news):
                self._on_new_results(known, known_results)

    def _join(self, known_results: CheckResults, key: str, call: Call, found: EncodedAnswer) -> _Run:
        run = self._running.get((id(known_results), key))
        if run is None:
            run = self._running[id(known_results), key] = _Run(call, self._submit(call, found))
        run.waiting += 1
        return run

    def _leave(self, known_results: CheckResults, key: str, run: _Run) -> None:
        run.waiting -= 1
        if not run.waiting:
            run.future.cancel()
            del self._running[id(known_results), key]

    def _submit(self, call: Call, found: EncodedAnswer) -> asyncio.Future[CheckOutcome]:
        """Submit a check to the pool; if its field is missing, it fails here, unless the document is large."""
        if _is_large(found):
            return self._pool.submit(call.name, Unread(found.shared, call.field), call.args)
        try:
            value = checks.select(found.document(), call.field)
        except ValueError as exc:
            failed: asyncio.Future[CheckOutcome] = asyncio.get_running_loop().create_future()
            failed.set_result(CheckOutcome(error=str(exc)))
            return failed
        return self._pool.submit(call.name, value, call.args)


def _is_large(found: EncodedAnswer) -> bool:
    """Whether the pool has to parse the document: here it would block the event loop."""
    return len(found.shared) > LARGE


def with_known_results(known: ParsedRequest, found: EncodedAnswer, now: float) -> EncodedAnswer | None:
    """Return an answer with its check results if all are known at `now` (epoch seconds), else None."""
    if found.error is not None or not known.checks:
        return found
    results = None if found.check_results is None else found.check_results.joined(known.checks, now)
    return None if results is None else _add_check_results(found, results)


def _add_check_results(found: EncodedAnswer, results: JoinedResults) -> EncodedAnswer:
    return EncodedAnswer(with_check_results(found.shared, *results), found.cache, found.as_of, results[1])
