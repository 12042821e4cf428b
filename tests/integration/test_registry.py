"""Records by a real schema registry, Apicurio's, written by confluent-kafka's own serializers."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from models.errors import InvalidDocument, InvalidRequest, RegistryUnavailable
from streams.config.settings import Settings
from streams.registry.framing import framed
from streams.registry.registry import MISSING, Registry
from tests.integration.apicurio import apicurio, found
from tests.unit.streams.registry.messages import DECODED, Line, Order, order

HOW = {"use.deprecated.format": False}


@pytest.fixture(scope="module")
def url():
    if not found() and not os.environ.get("CI"):
        pytest.skip("needs Java 17 and Maven")
    with apicurio() as opened:
        yield opened


@pytest.fixture
def client(url):
    with SchemaRegistryClient({"url": url, "timeout": 10}) as opened:
        yield opened


@pytest.fixture
async def registry(url):
    async with Registry(Settings(registry_url=url)) as opened:
        yield opened


async def written(serializer, value, topic, field=MessageField.VALUE):
    """Write, or read, by one of confluent-kafka's serializers, which block. A subject has one format."""
    return await asyncio.to_thread(serializer, value, SerializationContext(topic, field, []))


def record(name, **fields):
    return {"type": "record", "name": name, "fields": [{"name": each, "type": kind} for each, kind in fields.items()]}


async def test_avro_with_and_without_references(registry, client):
    """Both ways: what a producer wrote is read, and what we write a consumer reads."""
    zone = json.dumps(record("x.Zone", code="string"))
    address = json.dumps(record("x.Address", zone="x.Zone"))
    client.register_schema("zone", Schema(zone, "AVRO"))
    to_zone = [SchemaReference("x.Zone", "zone", 1)]
    client.register_schema("address", Schema(address, "AVRO", to_zone))
    fields = {
        "at": {"type": "long", "logicalType": "timestamp-millis"},
        "day": {"type": "int", "logicalType": "date"},
        "price": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        "photo": ["null", "bytes"],
    }
    moment = datetime(2024, 2, 29, 1, 2, 3, 4000, UTC)
    value = {"at": moment, "day": date(2024, 2, 29), "price": Decimal("12.30"), "photo": b"\x00"}
    decoded = {"at": "2024-02-29T01:02:03.004Z", "day": "2024-02-29", "price": Decimal("12.30"), "photo": "AA=="}
    plain = Schema(json.dumps(record("x.Order", **fields)), "AVRO")
    referring = Schema(json.dumps(record("x.Order", to="x.Address", **fields)), "AVRO",
                       [SchemaReference("x.Address", "address", 1)])  # fmt: skip
    for schema, more in ((plain, {}), (referring, {"to": {"zone": {"code": "A"}}})):
        serializer = await asyncio.to_thread(AvroSerializer, client, schema)
        data = await written(serializer, value | more, "avro")
        assert await registry.decode("avro", "orders", data, []) == decoded | more
        assert registry.decode_cached("avro", "orders", data, []) == decoded | more
        async with Registry(registry._settings) as another:  # which has not met the schema before
            encoded = await another.encode("avro", "avro-value", decoded | more)
        assert await written(AvroDeserializer(client), encoded, "avro") == value | more
        assert encoded == data


async def test_an_avro_key(registry, client):
    """The key has a subject of its own."""
    data = await written(AvroSerializer(client, '"long"'), 5, "avro", MessageField.KEY)
    assert await registry.decode("avro", "orders", data, [], key=True) == 5


async def test_protobuf_that_was_registered_as_text(registry, client):
    """As Java's serializer does: Apicurio returns the text, which is compiled."""
    text = 'syntax = "proto3"; package shop; message Item { string sku = 1; int64 count = 2; }'
    number = await asyncio.to_thread(client.register_schema, "items-value", Schema(text, "PROTOBUF"))
    data = framed(number) + b"\x00\x0a\x01a\x10\x07"
    assert await registry.decode("protobuf", "items", data, []) == {"sku": "a", "count": "7"}
    assert await registry.encode("protobuf", "items-value", {"sku": "a", "count": "7"}) == data


async def test_protobuf_with_imports(registry, client):
    """Imports of the producer's own and of Google's; a message within another; and back."""
    data = await written(ProtobufSerializer(Order, client, HOW), order(), "protobuf")
    assert await registry.decode("protobuf", "orders", data, []) == DECODED
    inner = await written(ProtobufSerializer(Line, client, HOW), Line(sku="s"), "protobuf")
    assert await registry.decode("protobuf", "orders", inner, []) == {"sku": "s"}
    latest = await asyncio.to_thread(client.get_version, "protobuf-value", "latest")
    encoded = await registry.encode("protobuf", "protobuf-value", DECODED)
    assert encoded[:6] == framed(latest.schema_id) + b"\x00"
    assert await written(ProtobufDeserializer(Order, HOW), encoded, "protobuf") == order()


async def test_json_schema_with_and_without_references(registry, client):
    """Both ways; a value that does not fit is named."""
    address = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": ["zip"]}
    client.register_schema("json-address", Schema(json.dumps(address), "JSON"))
    plain = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Order", "type": "object",
             "properties": {"id": {"type": "integer"}}}  # fmt: skip
    referring = {**plain, "properties": {**plain["properties"], "to": {"$ref": "address.json"}}}
    refers = [SchemaReference("address.json", "json-address", 1)]
    value = {"id": 5, "to": {"zip": "89073"}}
    for schema, more in ((plain, []), (referring, refers)):
        as_written = Schema(json.dumps(schema), "JSON", more)
        data = await written(JSONSerializer(as_written, client), value, "json")
        assert await registry.decode("json-schema", "orders", data, []) == value
        async with Registry(registry._settings) as another:
            encoded = await another.encode("json-schema", "json-value", value)
        assert await written(JSONDeserializer(as_written, schema_registry_client=client), encoded, "json") == value
    with pytest.raises(InvalidDocument, match=r"\$\.to: does not fit required"):
        await registry.encode("json-schema", "json-value", {"to": {}})


async def test_what_the_registry_does_not_have(registry):
    """An unknown id and GUID are the record's fault, an unknown subject nobody's."""
    with pytest.raises(InvalidRequest, match="schema 999999 is not in the registry"):
        await registry.decode("avro", "orders", framed(999_999) + b"\x02", [])
    with pytest.raises(InvalidRequest, match="is not in the registry"):
        await registry.decode("avro", "orders", b"\x02", [("__value_schema_id", b"\x01" + b"g" * 16)])
    with pytest.raises(RegistryUnavailable, match="subject 'nothing' is not in the registry"):
        await registry.encode("avro", "nothing", 1)
    await registry.check()


async def test_a_wrong_path_is_no_unknown_id(url):
    """Else every record would be a dead letter for it."""
    async with Registry(Settings(registry_url=url.replace("ccompat", "no"))) as registry:
        with pytest.raises(RegistryUnavailable, match="check MILLRACE_REGISTRY_URL"):
            await registry.decode("avro", "orders", framed(1) + b"\x02", [])
        with pytest.raises(RegistryUnavailable, match="check MILLRACE_REGISTRY_URL"):
            await registry.check()


async def test_many_schemas_at_once(registry, client):
    """A thousand records of twenty schemas, look-ups shared."""
    numbers = [client.register_schema(f"many-{each}", Schema(json.dumps(record(f"x.M{each}", n="long")), "AVRO"))
               for each in range(20)]  # fmt: skip
    records = [framed(number) + b"\x0a" for number in numbers] * 50
    assert await asyncio.gather(*(registry.decode("avro", "t", each, []) for each in records)) == [{"n": 5}] * 1_000
    assert registry.lookups == 20
    assert all(registry.decode_cached("avro", "t", each, []) is not MISSING for each in records)
    assert sum(each.name.startswith("registry") for each in threading.enumerate()) <= 4
