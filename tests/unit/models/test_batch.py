"""Taking the answer to many keys apart: which items count, by which keys, and what their numbers keep."""

from __future__ import annotations

import json
import pickle

import pytest

from models.batch import Batch, take_apart, take_apart_large
from models.documents import Body
from models.errors import InvalidDocument
from models.expression import Expression

PRICES = Batch("sku", Expression("prices", document=True), Expression("sku", document=True))
WANTED = frozenset({"a", "b", "12", "1.10", "true"})


def batch(items, key=None):
    return Batch("sku", Expression(items, document=True), None if key is None else Expression(key, document=True))


def apart(text, of=PRICES, wanted=WANTED):
    """Return the items found, as text, and the keys that have several."""
    found, ambiguous = take_apart(Body(text.encode(), "application/json"), of, wanted)
    return {key: item.decode() for key, item in found.items()}, set(ambiguous)


def test_items_are_found_by_their_keys_with_the_digits_of_their_numbers():
    """Order does not matter, items that nobody wanted are left out, no digit is lost."""
    text = '{"prices": [{"sku": "b", "p": 1.10}, {"sku": "x"}, {"p": 0.29999999999999998, "sku": "a"}]}'
    assert apart(text) == ({"b": '{"sku":"b","p":1.10}', "a": '{"p":0.29999999999999998,"sku":"a"}'}, set())


@pytest.mark.parametrize(("written", "key"), [("12", "12"), ('"12"', "12"), ("1.10", "1.10"), ("true", "true")])
def test_keys_are_compared_as_a_template_writes_them(written, key):
    """A number in the answer is the key of the same digits in a request."""
    assert list(apart('{"prices": [{"sku": %s}]}' % written)[0]) == [key]


def test_equal_duplicates_are_one_item_and_others_are_ambiguous():
    """Neither of two different items is taken for the right one; what does not differ is no matter."""
    same = '{"sku": "a", "p": 1}, {"sku": "a","p":1}'
    assert apart('{"prices": [%s, {"sku": "b", "p": 1}, {"sku": "b", "p": 2}]}' % same)[1] == {"b"}


@pytest.mark.parametrize("other", ["null", "{}", '{"sku": null}', '{"sku": []}', "7", '"a"'])
def test_an_item_without_a_key_is_left_out(other):
    """The other items are found."""
    assert list(apart('{"prices": [%s, {"sku": "a"}]}' % other)[0]) == ["a"]


def test_items_may_stand_in_an_object_by_their_keys():
    """Without `key`, the names of the object's members are the keys; null is no item."""
    text = '{"by": {"a": {"p": 1}, "b": null, "12": [1]}}'
    assert apart(text, batch("by"))[0] == {"a": '{"p":1}', "12": "[1]"}
    assert apart('{"a": 1}', batch("@"))[0] == {"a": "1"}


def test_items_and_keys_may_be_any_expressions():
    """A projection, a nested key, and the whole answer."""
    text = '[{"in": [{"id": {"v": "a"}}]}, {"in": [{"id": {"v": "b"}}]}]'
    assert list(apart(text, batch("[].in[]", "id.v"))[0]) == ["a", "b"]
    assert list(apart('[{"k": "A"}]', batch("@", "k || 'b'"), {"A"})[0]) == ["A"]


@pytest.mark.parametrize(
    ("text", "of", "reason"),
    [
        ("{}", PRICES, "batch.items (prices): finds null, not an array"),
        ('{"prices": {}}', PRICES, "batch.items (prices): finds an object, not an array"),
        ('{"x": []}', batch("x"),
         "batch.items (x): finds an array, not an object of items by their keys; with batch.key it may be an array"),
        ('{"prices": [{"a": 1}, {"b": 2}]}', PRICES,
         "batch.items (prices): finds 2 items, none with a key at batch.key (sku)"),
        ("{", PRICES, "not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        ('{"prices": 1}', batch("sum(prices)", "k"), None),
    ],
)  # fmt: skip
def test_an_answer_without_items_is_invalid(text, of, reason):
    """It is no answer to any of the keys, and the reason says what was looked for."""
    with pytest.raises(InvalidDocument) as caught:
        apart(text, of)
    assert reason in (None, str(caught.value))


def test_no_items_at_all_are_an_answer():
    """An empty list says that none of the keys exists."""
    assert apart('{"prices": []}') == ({}, set())


def test_another_process_finds_the_same():
    """What the pool pickles is what the worker would have found."""
    text = json.dumps({"prices": [{"sku": "a"}, {"sku": "b"}, {"sku": "b", "n": 1}]}).encode()
    there = pickle.loads(take_apart_large(text, "application/json", None, ("prices", "sku"), WANTED))
    assert there == tuple(take_apart(Body(text, "application/json"), PRICES, WANTED))
