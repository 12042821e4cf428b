#!/usr/bin/env bash
# Package: fastavro 1.13.1
# Two forms of a schema that mean the same are not taken alike. A whole number is a default of a plain `double`, and none of
# a `double` with a logical type, whatever that type is. And what parse_schema makes of a record that names types of other
# schemas can be read and written; of a union, an array or a map at the top it cannot: their names are unknown again.
# Seen:
#   default 0 of "double"                       -> taken
#   default 0 of a double with a logical type   -> SchemaParseException
#   default 0.0 of a double with a logical type -> taken
#   record of x.Zone                            -> {'zone': {'code': 'A'}}
#   union of x.Zone and null                    -> UnknownType
#   array of x.Zone                             -> UnknownType
#   map of x.Zone                               -> UnknownType
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check fastavro==1.13.1
"$folder/env/bin/python" - <<'PYTHON'
from io import BytesIO

import fastavro

ZONE = {"type": "record", "name": "x.Zone", "fields": [{"name": "code", "type": "string"}]}


def defaulted(kind: object, default: object) -> str:
    field = {"name": "d", "type": kind, "default": default}
    try:
        fastavro.parse_schema({"type": "record", "name": "R", "fields": [field]})
    except fastavro.schema.SchemaParseException as exc:
        return type(exc).__name__
    return "taken"


def travelled(schema: object, value: object) -> str:
    named: dict = {}
    fastavro.parse_schema(ZONE, named)
    parsed = fastavro.parse_schema(schema, named)
    stream = BytesIO()
    try:
        fastavro.schemaless_writer(stream, parsed, value)
        return repr(fastavro.schemaless_reader(BytesIO(stream.getvalue()), parsed, None))
    except fastavro.schema.UnknownType as exc:
        return type(exc).__name__


LOGICAL = {"type": "double", "logicalType": "celsius"}
RECORD = {"type": "record", "name": "x.Address", "fields": [{"name": "zone", "type": "x.Zone"}]}
SEEN = [
    ('default 0 of "double"', defaulted("double", 0)),
    ("default 0 of a double with a logical type", defaulted(LOGICAL, 0)),
    ("default 0.0 of a double with a logical type", defaulted(LOGICAL, 0.0)),
    ("record of x.Zone", travelled(RECORD, {"zone": {"code": "A"}})),
    ("union of x.Zone and null", travelled(["null", "x.Zone"], {"code": "A"})),
    ("array of x.Zone", travelled({"type": "array", "items": "x.Zone"}, [{"code": "A"}])),
    ("map of x.Zone", travelled({"type": "map", "values": "x.Zone"}, {"a": {"code": "A"}})),
]
for what, became in SEEN:
    print(f"{what:<44}-> {became}")
assert [became for _, became in SEEN] == [
    "taken", "SchemaParseException", "taken", "{'zone': {'code': 'A'}}", "UnknownType", "UnknownType", "UnknownType",
]
PYTHON
