"""A record whose JSON would hold up the event loop: another process evaluates expressions over it, and merges."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from agents.routes.value import Value
from models.errors import InvalidRequest
from models.expression import LOOKUPS, RECORD_NAMES, Path
from models.route import Route
from streams.pool import LargeWork

_SEEN = frozenset(RECORD_NAMES) - {"value"}


class LargeValue:
    """The value of a record, as JSON `text`. `names` has those places for answers that it has at its top, None if
    it is no object; known once something was evaluated.
    """

    def __init__(self, route: Route, work: LargeWork, text: bytes) -> None:
        self._route = route
        self._work = work
        self.text = text
        places = [path for each in route.lookups for path in (each.into, each.checks_into) if path is not None]
        self._tops = tuple({path.steps[0] for path in places})
        self.names: Collection[str] | None = None

    async def evaluate(self, expressions: Sequence[tuple[str, bool]], scope: Mapping[str, Any]) -> list[Any]:
        """Return what expressions find, a ValueError for one that fails; with true, the values of a list one by one.

        Raises AnswerError.
        """
        seen = {name: scope[name] for name in _SEEN}
        done = await self._run("evaluate over a record", tuple(expressions), seen, dict(scope[LOOKUPS]), self._tops)
        found: list[Any]
        self.names, found = pickle.loads(done)  # noqa: S301  our own process
        return found

    async def merge(self, answers: Sequence[tuple[Path, Value]]) -> bytes:
        """Return the record's JSON with answers in their places. Raises AnswerError."""
        return await self._run("merge into a record", tuple((path.text, answer.text) for path, answer in answers))

    async def _run(self, task: str, *arguments: Any) -> bytes:
        try:
            return await self._work.run(task, self.text, *arguments)
        except InvalidRequest as exc:
            msg = f"route {self._route.name}: {exc}"
            raise InvalidRequest(msg) from None


class Merging(NamedTuple):
    """An output that another process makes."""

    value: LargeValue
    answers: Sequence[tuple[Path, Value]]
