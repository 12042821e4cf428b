"""What holds for every test of the pages and the API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents.web.api import routes
from models.source import Sources


@pytest.fixture(scope="package", autouse=True)
def documents_written_once() -> Iterator[None]:
    """Servers of the same sources share the API's documents, which take 60 ms of CPU to write."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("openapi", "asyncapi"):
            patch.setattr(routes, name, _once(getattr(routes, name)))
        yield


def _once(write):
    written = {}

    def write_once(*given):
        key = repr([each.by_name if isinstance(each, Sources) else each for each in given])
        if key not in written:
            written[key] = write(*given)
        return written[key]

    return write_once
