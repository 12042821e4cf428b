"""What a lookup takes of its source's answer: the document, or the part of it that `pick` finds."""

from __future__ import annotations

from agents.answer.encoded_answer import EncodedAnswer
from agents.routes.value import Answered, AnsweredCache, Value
from models.errors import InvalidDocument
from models.large import LARGE
from models.route import Lookup, Route
from streams.cache.entry import Entry
from streams.pool import LargeWork


class Picker:
    """Takes answers of one route apart, each once. `large` looks into large documents, which would hold up the loop."""

    def __init__(self, route: Route, large: LargeWork | None) -> None:
        self._route = route
        self._large = large
        self._answers = AnsweredCache()

    def of(self, lookup: Lookup, answer: EncodedAnswer, taken: Answered | None = None) -> tuple[Value, Value]:
        """Return what a lookup takes, and the results of checks; `taken` is what `pick` returned, if that was needed.
        Raises InvalidDocument if there is no such part.
        """
        taken = self._answers.of(answer.shared) if taken is None else taken
        return self._picked(lookup, taken), taken.checks

    def waits(self, lookup: Lookup, answer: EncodedAnswer | Entry) -> bool:
        """Whether another process has to find the picked part of a document, as that is large."""
        if self._large is None or lookup.pick is None or len(answer.shared) <= LARGE or answer.error is not None:
            return False
        return lookup.pick.text not in self._answers.of(answer.shared).picked

    async def pick(self, lookup: Lookup, answer: EncodedAnswer) -> Answered:
        """Let another process do it; returns the answer with what was found, which may be forgotten here by then."""
        assert self._large is not None
        assert lookup.pick is not None
        taken = self._answers.of(answer.shared)
        try:
            text = await self._large.run("pick from a document", taken.document.text, lookup.pick.text)
            taken.picked[lookup.pick.text] = Value(text) if text else None
        except InvalidDocument as error:
            taken.picked[lookup.pick.text] = error
        return taken

    def _picked(self, lookup: Lookup, taken: Answered) -> Value:
        if lookup.pick is None:
            return taken.document
        try:
            if lookup.pick.text in taken.picked:
                picked = taken.picked[lookup.pick.text]
            else:
                found = lookup.pick.evaluate(taken.document.loaded)
                picked = None if found is None else Value.of(found)
        except ValueError as exc:
            picked = InvalidDocument(str(exc))
        if isinstance(picked, Value):
            return picked
        reason = " finds nothing in the document" if picked is None else f": {picked}"
        msg = f"route {self._route.name}, lookup {lookup.name}: pick {lookup.pick.text}{reason}"
        raise InvalidDocument(msg)
