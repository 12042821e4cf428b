#!/usr/bin/env bash
# Packages: faststream 0.7.8, aiokafka 0.14.0
# FastStream decodes every header of a Kafka record as UTF-8 text before it calls anybody: a header without a value (null,
# as the protocol allows and Java's producers send) and one of bytes (a UUID, a schema's id) fail the record in the parser,
# where no handler sees it; of headers with one name, which Kafka keeps in order, the last one is left.
# Seen:
#   text:     {'a': '1'}
#   repeated: {'a': '2'}
#   null:     AttributeError
#   bytes:    UnicodeDecodeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check "faststream[kafka]==0.7.8" aiokafka==0.14.0
"$folder/env/bin/python" - <<'PYTHON'
import asyncio

from aiokafka import ConsumerRecord
from faststream.kafka.message import KafkaMessage
from faststream.kafka.parser import AioKafkaParser


def parsed(*headers):
    record = ConsumerRecord("orders", 0, 0, 0, 0, b"k", b"{}", None, 1, 2, headers)
    try:
        return str(asyncio.run(AioKafkaParser(KafkaMessage, None).parse_message(record)).headers)
    except (AttributeError, UnicodeDecodeError) as exc:
        return type(exc).__name__


seen = [parsed(("a", b"1")), parsed(("a", b"1"), ("a", b"2")), parsed(("a", None)), parsed(("a", b"\xff\x00"))]
for name, each in zip(("text:    ", "repeated:", "null:    ", "bytes:   "), seen, strict=True):
    print(name, each)
assert seen == ["{'a': '1'}", "{'a': '2'}", "AttributeError", "UnicodeDecodeError"], "it has changed"
PYTHON
