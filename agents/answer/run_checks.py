"""Checks on a document: only those that have said nothing of it yet, each once for all who want it at the same time."""

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
    """A check that runs, and how many wait for it: when none does any more, it need not."""

    def __init__(self, call: Call, future: asyncio.Future[CheckOutcome]) -> None:
        self._call, self.future = call, future
        self.waiting = 0
        self._result: CheckResult | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has said something."""
        return self.future.done() and not self.future.cancelled()

    def result(self) -> CheckResult:
        """Return what it said, the same for all. Raises CancelledError if the pool was closed first."""
        if self._result is None:
            verdict = self.future.result()
            encoded, error = encode_check_result(self._call, verdict), failure(self._call, verdict)
            self._result = (
                CheckResult(encoded) if error is None else CheckResult(encoded, error, time.time() + NEGATIVE_TTL)
            )
        return self._result


class CheckRunner:
    """`learned` is called when something new is known of a request's document. `checking`: how long a document's
    checks took that had to be run.
    """

    def __init__(self, pool: CheckPool, learned: Callable[[ParsedRequest, CheckResults], None]) -> None:
        self._pool = pool
        self._on_new_results = learned
        # By the identity of the verdicts: whoever waits holds them.
        self._running: dict[tuple[int, str], _Run] = {}
        self.run_times = Histogram()

    async def run(self, known: ParsedRequest, found: EncodedAnswer) -> EncodedAnswer:
        """Return an answer with what the request's checks say of it; one that fails makes it a `check_error`."""
        if found.error is not None or not known.checks:
            return found
        verdicts = CheckResults() if found.verdicts is None else found.verdicts
        now = time.time()
        said = {key: kept for key in known.checks if (kept := verdicts.find(key, now)) is not None}
        missing = {key: call for key, call in zip(known.checks, known.request.checks, strict=True) if key not in said}
        if missing:
            said |= await self._run_missing(known, missing, found, verdicts)
        return _add_check_results(found, join([said[key] for key in known.checks]))

    async def _run_missing(
        self, known: ParsedRequest, missing: Mapping[str, Call], found: EncodedAnswer, verdicts: CheckResults
    ) -> dict[str, CheckResult]:
        """Run what nobody runs on this document yet, and wait for all; what has said something is kept in any case."""
        runs: dict[str, _Run] = {}
        began = time.monotonic()
        try:
            if any((id(verdicts), key) not in self._running for key in missing) and not _is_large(found):
                with contextlib.suppress(ValueError):  # without a document each check fails by itself
                    found = found._replace(loaded=found.document())
            for key, call in missing.items():
                runs[key] = self._join(verdicts, key, call, found)
            if waiting := {run.future for run in runs.values() if not run.future.done()}:
                await asyncio.wait(waiting)
            return {key: run.result() for key, run in runs.items()}
        finally:
            self.run_times.add(time.monotonic() - began)
            news = [verdicts.store(key, run.result()) for key, run in runs.items() if run.is_done]
            for key, run in runs.items():
                self._leave(verdicts, key, run)
            if any(news):
                self._on_new_results(known, verdicts)

    def _join(self, verdicts: CheckResults, key: str, call: Call, found: EncodedAnswer) -> _Run:
        run = self._running.get((id(verdicts), key))
        if run is None:
            run = self._running[id(verdicts), key] = _Run(call, self._submit(call, found))
        run.waiting += 1
        return run

    def _leave(self, verdicts: CheckResults, key: str, run: _Run) -> None:
        run.waiting -= 1
        if not run.waiting:
            run.future.cancel()
            del self._running[id(verdicts), key]

    def _submit(self, call: Call, found: EncodedAnswer) -> asyncio.Future[CheckOutcome]:
        """Ask the pool; a check whose field is not there fails without going there, unless the document is large."""
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
    """Whether a document is to be read where its checks run: here it would hold up the event loop."""
    return len(found.shared) > LARGE


def with_known_results(known: ParsedRequest, found: EncodedAnswer, now: float) -> EncodedAnswer | None:
    """Do what `judge` does if all is known at `now` (epoch seconds); else return None."""
    if found.error is not None or not known.checks:
        return found
    told = None if found.verdicts is None else found.verdicts.joined(known.checks, now)
    return None if told is None else _add_check_results(found, told)


def _add_check_results(found: EncodedAnswer, told: JoinedResults) -> EncodedAnswer:
    return EncodedAnswer(with_check_results(found.shared, *told), found.cache, found.as_of, told[1])
