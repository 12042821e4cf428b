#!/usr/bin/env bash
# Packages: fastavro 1.13.1
# Avro's `long` takes integers and its `boolean` true and false. fastavro's writer converts what it is given with C's own
# rules and raises nothing: 1.9 is written as 1, and any text as true, "false" too. Its validator refuses each of these, but
# `schemaless_writer` does not ask it, not with `strict=True` either; within a union the writer chooses a branch that fits.
# Seen:
#   schema             value     written  validator
#   long               1.9       1        refuses it
#   boolean            'false'   True     refuses it
#   [long, double]     1.9       1.9      takes it
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check fastavro==1.13.1
"$folder/env/bin/python" - <<'PYTHON'
import io

import fastavro
from fastavro.validation import validate

CASES = [("long", 1.9), ("boolean", "false"), (["long", "double"], 1.9)]


def written(kind, value):
    schema = fastavro.parse_schema({"type": "record", "name": "Order", "fields": [{"name": "field", "type": kind}]})
    data = io.BytesIO()
    fastavro.schemaless_writer(data, schema, {"field": value})
    data.seek(0)
    fits = validate({"field": value}, schema, raise_errors=False)
    return fastavro.schemaless_reader(data, schema)["field"], fits


print("schema             value     written  validator")
seen = [written(*case) for case in CASES]
for (kind, value), (found, fits) in zip(CASES, seen):
    name = kind if isinstance(kind, str) else f"[{', '.join(kind)}]"
    print(f"{name:18} {value!r:9} {found!r:8} {'takes it' if fits else 'refuses it'}")
assert [(repr(found), fits) for found, fits in seen] == [("1", False), ("True", False), ("1.9", True)], "it has changed"
PYTHON
