#!/usr/bin/env bash
# Packages: jmespath 1.1.0
# A function's arguments are judged by the name of their class, not by what they are: a subclass of float or dict, and a
# Decimal, is refused by `sum`, `max` or `keys`. Paths, filters, comparisons and `type()` take the same values as the
# numbers and objects that they are, so an expression works until a function is put around it. JSON is read into such
# values by a `parse_float` or `object_pairs_hook` that keeps digits or defaults.
# Seen:
#   price > `1`: True
#   type(price): number
#   sum([price]): refused: received: "Price"
#   keys(order):  refused: received: "unknown"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check jmespath==1.1.0
"$folder/env/bin/python" - <<'PYTHON'
from collections import defaultdict

import jmespath
from jmespath.exceptions import JMESPathTypeError


class Price(float):
    """A number that knows its digits."""


order = defaultdict(int, price=Price("1.10"))


def found(expression):
    try:
        return str(jmespath.search(expression, order))
    except JMESPathTypeError as exc:
        return "refused: " + str(exc).partition("], ")[2]


seen = [found("price > `1`"), found("type(price)"), found("sum([price])"), found("keys(@)")]
for name, each in zip(("price > `1`:", "type(price):", "sum([price]):", "keys(order): "), seen, strict=True):
    print(name, each)
assert seen == ["True", "number", 'refused: received: "Price"', 'refused: received: "unknown"'], "it has changed"
PYTHON
