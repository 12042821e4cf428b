"""How a route's values and keys are read."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest

from agents.routes.formats import UNKNOWN, Formats
from agents.routes.rehearsal import sample
from agents.routes.waits import Waits
from models.errors import InvalidRequest
from models.route import Route
from streams.kafka.lease import Lease
from streams.registry.registry import MISSING
from tests.unit.agents.routes.test_routes import INTO, merged


def route(**members: Any) -> Route:
    return Route("r", ("orders",), "enriched", (), **members)


def waits(record: Any) -> Waits:
    return Waits(record, Lease("g", "orders", 0, position=0), Counter())


@pytest.mark.parametrize(
    ("form", "key", "seen"),
    [
        ("text", b"k\xc3\xa9", "ké"),
        ("text", b"\xff", None),
        ("json", b'{"id": 7}', {"id": 7}),
        ("json", b"null", None),
        ("bytes", b"\xff\x00", "/wA="),
        ("json", None, None),
        ("bytes", None, None),
    ],
)
def test_expressions_see_the_key_by_its_format(form, key, seen):
    """Absent it is null; as text, so is one that is not UTF-8."""
    described = route(key_format=form)
    assert Formats(described).scope(sample(described, b"{}", key))["key"] == seen


def test_a_key_that_is_not_of_its_format_fails_its_record():
    """By name, as a value does."""
    described = route(key_format="json")
    with pytest.raises(InvalidRequest, match=r"^route r: the key is not JSON"):
        Formats(described).scope(sample(described, b"{}", b"k"))


def test_a_part_of_the_key_is_a_parameter_and_the_key_goes_on():
    """A JSON key beside a value without the id."""
    lookup = INTO.replace("value.customer.id", "key.id")
    assert merged({"n": 1}, lookup, 'key_format = "json"', key=b'{"id": "c1"}')["risk"]["score"] == 0.1


class Registered:
    """A registry that knows a schema once it has been waited for."""

    def __init__(self) -> None:
        self.known = False

    def decode_cached(self, form: str, _topic: str, data: bytes, _headers: Any, *, key: bool) -> Any:
        return f"{form} {data.decode()} {key}" if self.known else MISSING

    async def decode(self, *found: Any, key: bool) -> Any:
        self.known = True
        return self.decode_cached(*found, key=key)


async def test_a_key_is_read_by_its_schema():
    """It is waited for as a value is; the value stays what it is."""
    described = route(key_format="avro")
    assert (described.needs_registry, described.writes_anew) == (True, False)
    formats = Formats(described, cast("Any", Registered()))
    record = sample(described, b'{"n":1}', b"k")
    assert formats.scope(record) is UNKNOWN
    scope = await formats.scope_later(record, waits(record))
    assert (scope["key"], scope["value"]) == ("avro k True", {"n": 1})
    assert formats.scope(record)["key"] == "avro k True"
    assert formats.scope(sample(described, b"{}"))["key"] is None
