"""Routes of Avro records, by a real schema registry, on a real worker and Kafka."""

from __future__ import annotations

import asyncio
import json
import os
from decimal import Decimal

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from agents.testing.broker import Broker
from streams.config.settings import Kafka
from streams.kafka.topics import Admin
from tests.integration.apicurio import apicurio, found
from tests.integration.stage import PATIENCE
from tests.integration.test_routes import Shop

ORDER = {
    "type": "record", "name": "shop.Order", "fields": [
        {"name": "customer", "type": "string"},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    ]}  # fmt: skip
SCORED = {**ORDER, "name": "shop.Scored", "fields": [*ORDER["fields"], {"name": "risk", "type": "double"}]}
ROUTES = """
[sources.risk]
url = "{url}/risk/{{id}}"

[routes.plain]
topics = ["orders-{mark}"]
format = "avro"
results = "plain-{mark}"
when = "value.total >= `10`"
[[routes.plain.lookups]]
source = "risk"
params = {{ id = "value.customer" }}
into = "risk"
pick = "score"

[routes.scored]
topics = ["orders-{mark}"]
format = "avro"
results = "scored-{mark}"
results_format = "avro"
results_subject = "scored-{mark}"
failures = "failed-{mark}"
[[routes.scored.lookups]]
source = "risk"
params = {{ id = "value.customer" }}
into = "risk"
pick = "score"
"""


@pytest.fixture(scope="module")
def url():
    if not found() and not os.environ.get("CI"):
        pytest.skip("needs Java 17 and Maven")
    with apicurio() as opened:
        yield opened


async def test_avro_records_come_out_as_json_and_as_avro(kafka: Broker, stage, url, tmp_path):
    """Decimals keep their digits; what fits no schema, or names none, is a dead letter; a subject that is registered
    later is waited for, and no record is lost.
    """
    names = {name: f"{name}-{stage.mark}" for name in ("orders", "plain", "scored", "failed")}
    async with Admin(Kafka(bootstrap_servers=kafka.servers)) as admin:
        for name in names.values():
            await admin.create(name, stage.partitions, 1)
        await admin.settled(*names.values())
    with SchemaRegistryClient({"url": url, "timeout": 10}) as client:
        serializer = await asyncio.to_thread(AvroSerializer, client, json.dumps(ORDER))
        context = SerializationContext(names["orders"], MessageField.VALUE)
        orders = [{"customer": f"c{n}", "total": Decimal(f"{9 + n}.50")} for n in range(5)]
        values = [await asyncio.to_thread(serializer, each, context) for each in orders]
        async with Shop() as shop:
            (tmp_path / "sources.toml").write_text(ROUTES.format(url=shop.url, mark=stage.mark))
            await stage.start(MILLRACE_SOURCES=str(tmp_path / "sources.toml"), MILLRACE_REGISTRY_URL=url)
            headers = [("content-type", b"avro/binary"), ("trace", b"t")]
            for number, value in enumerate([*values, b"no frame", values[0][:-1]]):
                await stage.producer.send(names["orders"], value, key=b"%d" % number, headers=headers)
            await stage.producer.flush()
            plain = {each.key: each for each in await arrived(stage, names["plain"], 5)}
            assert json.loads(plain[b"0"].result) == {"customer": "c0", "total": 9.5}  # passed on, as JSON
            assert plain[b"1"].result == b'{"customer":"c1","total":10.50,"risk":0.10}'
            assert plain[b"1"].headers["content-type"] == b"application/json"
            letters = {each.key: each for each in await arrived(stage, stage.dead_letters, 2)}
            assert {letters[key].headers["__dlq.errors.outcome"] for key in (b"5", b"6")} == {b"invalid_request"}
            assert letters[b"5"].result == b"no frame"
            assert await stage.count(names["scored"]) == 0  # its subject is not there yet
            await asyncio.to_thread(client.register_schema, names["scored"], Schema(json.dumps(SCORED), "AVRO"))
            scored = {each.key: each for each in await arrived(stage, names["scored"], 5)}
            read = AvroDeserializer(client)
            context = SerializationContext(names["scored"], MessageField.VALUE)
            assert await asyncio.to_thread(read, scored[b"1"].result, context) == {
                "customer": "c1", "total": Decimal("10.50"), "risk": 0.1
            }  # fmt: skip
            assert "content-type" not in scored[b"1"].headers
            assert scored[b"1"].headers["trace"] == b"t"
            assert await stage.count(names["failed"]) == 2


KEYED = """
[sources.risk]
url = "{url}/risk/{{id}}"

[routes.keyed]
topics = ["orders-{mark}"]
key_format = "avro"
results = "keyed-{mark}"
[[routes.keyed.lookups]]
source = "risk"
params = {{ id = "key.customer" }}
into = "risk"
pick = "score"
"""


async def test_a_key_by_its_schema_gives_a_parameter_and_goes_on_as_it_is(kafka: Broker, stage, url, tmp_path):
    """Beside JSON that stays as it came; a key without a schema is a dead letter."""
    orders, keyed = f"orders-{stage.mark}", f"keyed-{stage.mark}"
    async with Admin(Kafka(bootstrap_servers=kafka.servers)) as admin:
        for name in (orders, keyed):
            await admin.create(name, stage.partitions, 1)
        await admin.settled(orders, keyed)
    schema = {"type": "record", "name": "shop.Key", "fields": [{"name": "customer", "type": "string"}]}
    with SchemaRegistryClient({"url": url, "timeout": 10}) as client:
        serializer = await asyncio.to_thread(AvroSerializer, client, json.dumps(schema))
        context = SerializationContext(orders, MessageField.KEY)
        key = await asyncio.to_thread(serializer, {"customer": "c1"}, context)
    async with Shop() as shop:
        (tmp_path / "sources.toml").write_text(KEYED.format(url=shop.url, mark=stage.mark))
        await stage.start(MILLRACE_SOURCES=str(tmp_path / "sources.toml"), MILLRACE_REGISTRY_URL=url)
        for each in (key, b"plain"):
            await stage.producer.send(orders, b'{ "n": 1.10 }', key=each)
        [found] = await arrived(stage, keyed, 1)
        assert (found.key, found.result) == (key, b'{ "n": 1.10,"risk":0.10}')
        [letter] = await arrived(stage, stage.dead_letters, 1)
        assert letter.key == b"plain"
        assert b"the key of a record of topic" in letter.headers["__dlq.errors.message"]


async def arrived(stage, topic, count):
    async with asyncio.timeout(PATIENCE):
        while await stage.count(topic) < count:
            await asyncio.sleep(0.1)
    return await stage.read(topic)
