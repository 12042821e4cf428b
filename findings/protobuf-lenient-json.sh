#!/usr/bin/env bash
# Package: protobuf 7.36.2
# json_format takes values that Protobuf's JSON mapping has no place for, and makes others of them without a word. Text for
# bytes that is no base64 loses what does not belong, or all behind the first padding; a whole number with a point or an exponent
# goes through a double; text beyond a double's range is infinite, though the same number without quotes is
# refused; true is a double, and the enum's value of number 1, though it is refused for an integer.
# Seen:
#   bytes   'YQ==YWJj'             -> b'a'
#   bytes   'YW!Jj'                -> b'abc'
#   int64   '9007199254740993'     -> 9007199254740993
#   int64   '9007199254740993.0'   -> 9007199254740992
#   double  '1e400'                -> inf
#   double  inf                    -> refused
#   double  True                   -> 1.0
#   enum    True                   -> 1
#   int64   True                   -> refused
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/env"
python3 -m pip --python "$folder/env/bin/python" install --quiet --disable-pip-version-check protobuf==7.36.2
"$folder/env/bin/python" - <<'PYTHON'
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

Field = descriptor_pb2.FieldDescriptorProto
file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
colors = file.enum_type.add(name="Color")
colors.value.add(name="NONE", number=0)
colors.value.add(name="RED", number=1)
message = file.message_type.add(name="Item")
for number, name in enumerate(("bytes", "int64", "double", "enum"), 1):
    message.field.add(name=name, number=number, label=Field.LABEL_OPTIONAL, type=getattr(Field, f"TYPE_{name.upper()}"),
                      type_name=".shop.Color" if name == "enum" else None)
pool = DescriptorPool()
pool.Add(file)
Item = GetMessageClass(pool.FindMessageTypeByName("shop.Item"))


def written(kind: str, value: object) -> str:
    made = Item()
    try:
        json_format.ParseDict({kind: value}, made)
    except json_format.ParseError:
        return "refused"
    return repr(getattr(made, kind))


EXPECTED = [
    ("bytes", "YQ==YWJj", "b'a'"),
    ("bytes", "YW!Jj", "b'abc'"),
    ("int64", "9007199254740993", "9007199254740993"),
    ("int64", "9007199254740993.0", "9007199254740992"),
    ("double", "1e400", "inf"),
    ("double", float("inf"), "refused"),
    ("double", True, "1.0"),
    ("enum", True, "1"),
    ("int64", True, "refused"),
]
seen = [(kind, value, written(kind, value)) for kind, value, _ in EXPECTED]
for kind, value, became in seen:
    print(f"{kind:<8}{value!r:<22} -> {became}")
assert seen == EXPECTED
PYTHON
