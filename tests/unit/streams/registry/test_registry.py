"""Records by a schema registry: confluent-kafka's own client and serializers, the registry played over HTTP."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import time
from functools import partial

import pytest
import trustme
from confluent_kafka.schema_registry import (
    Schema,
    SchemaReference,
    header_schema_id_serializer,
    prefix_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField

from models.errors import InvalidDocument, InvalidRequest, RegistryUnavailable, SettingsError
from streams.config.settings import Settings
from streams.registry import client as registry_client
from streams.registry import registry as module
from streams.registry.framing import framed
from streams.registry.registry import FORMATS, MISSING, Registry
from tests.turns import slowness
from tests.unit.streams.registry.messages import DECODED, Line, Order, order
from tests.unit.streams.registry.server import RegistryServer

LONG = framed(1) + b"\x02"
"""The number 1 by the first schema, if that is of a long."""
ADDRESS = json.dumps({"type": "record", "name": "x.Address", "fields": [{"name": "city", "type": "string"}]})
PERSON = json.dumps({"type": "record", "name": "x.Person", "fields": [{"name": "home", "type": "x.Address"}]})
JSON_ADDRESS = json.dumps({"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}})
JSON_PERSON = json.dumps({"type": "object", "properties": {"home": {"$ref": "address.json"}}})
VALUE = {"home": {"city": "Ulm"}}
FRAMINGS = {"prefix": prefix_schema_id_serializer, "header": header_schema_id_serializer}


def serializer_of(format_, client, framing):
    """Return a producer's serializer, with references where the format has them."""
    how = {"schema.id.serializer": FRAMINGS[framing]}
    if format_ == "avro":
        client.register_schema("address", Schema(ADDRESS, "AVRO"))
        schema = Schema(PERSON, "AVRO", [SchemaReference("x.Address", "address", 1)])
        return AvroSerializer(client, schema, conf=how)
    if format_ == "json-schema":
        client.register_schema("address", Schema(JSON_ADDRESS, "JSON"))
        schema = Schema(JSON_PERSON, "JSON", [SchemaReference("address.json", "address", 1)])
        return JSONSerializer(schema, client, conf=how)
    return ProtobufSerializer(Order, client, {"use.deprecated.format": False, **how})


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("format_", FORMATS)
async def test_what_a_serializer_wrote_is_read(registry, client, serialize, format_, framing):
    """With references, by id and by GUID; the second record waits for nothing. What is encoded is read by all."""
    value, decoded = (order(), DECODED) if format_ == "protobuf" else (VALUE, VALUE)
    serializer = await asyncio.to_thread(serializer_of, format_, client, framing)
    headers = []
    data = await serialize(serializer, value, headers=headers)
    assert bool(headers) == (framing == "header")
    assert registry.decode_cached(format_, "orders", data, headers) is MISSING
    assert await registry.decode(format_, "orders", data, headers) == decoded
    assert registry.decode_cached(format_, "orders", data, headers) == decoded
    assert registry.encode_cached(format_, "orders-value", decoded) is MISSING
    encoded = await registry.encode(format_, "orders-value", decoded)
    assert registry.encode_cached(format_, "orders-value", decoded) == encoded
    assert await registry.decode(format_, "orders", encoded, []) == decoded
    assert registry.lookups == 3 if framing == "header" else 2


async def test_a_message_within_another_is_chosen_by_its_indexes(registry, client, serialize):
    """Those are in the header with the GUID."""
    how = {"use.deprecated.format": False, "schema.id.serializer": header_schema_id_serializer}
    serializer = await asyncio.to_thread(ProtobufSerializer, Line, client, how)
    headers = []
    data = await serialize(serializer, Line(sku="s"), headers=headers)
    assert await registry.decode("protobuf", "orders", data, headers) == {"sku": "s"}


async def test_a_key_has_its_own_header(registry, client, serialize):
    """The value's header says nothing of the key."""
    serializer = await asyncio.to_thread(serializer_of, "avro", client, "header")
    headers = []
    data = await serialize(serializer, VALUE, headers=headers, field=MessageField.KEY)
    assert await registry.decode("avro", "orders", data, headers, key=True) == VALUE
    with pytest.raises(InvalidRequest, match="the value of a record of topic 'orders' cannot be decoded"):
        await registry.decode("avro", "orders", data, headers)
    with pytest.raises(InvalidRequest, match="the key of a record"):
        await registry.decode("avro", "orders", data, [], key=True)


async def test_a_schema_is_looked_up_once_for_all(registry, server):
    """A hundred records wait for one request; those after it for none."""
    server.add("s", '"long"')
    server.pause = 0.1
    assert await asyncio.gather(*(registry.decode("avro", "t", LONG, []) for _ in range(100))) == [1] * 100
    assert registry.decode_cached("avro", "t", LONG, []) == 1
    assert sum(server.requests.values()) == registry.lookups == 1


async def test_schemas_are_kept_in_a_bounded_number(registry, server, monkeypatch):
    """The least recently used goes first."""
    monkeypatch.setattr(module, "MAX_SCHEMAS", 2)
    for _ in range(3):
        server.add("s", '"long"')
    for number in (1, 2, 1, 3):
        await registry.decode("avro", "t", framed(number) + b"\x02", [])
    assert [registry.decode_cached("avro", "t", framed(number) + b"\x02", []) is MISSING for number in (1, 2, 3)] == [
        False, True, False]  # fmt: skip


async def test_an_unknown_id_is_the_records_fault(registry, server, monkeypatch):
    """It is not asked for again for a while."""
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="topic 't' cannot be decoded: schema 1 is not in the registry"):
            await registry.decode("avro", "t", LONG, [])
    assert server.requests == {"/schemas/ids/1": 1}
    server.add("s", '"long"')
    monkeypatch.setattr(module, "monotonic", lambda: time.monotonic() + module.UNKNOWN_TTL)
    assert await registry.decode("avro", "t", LONG, []) == 1


async def test_a_registry_without_guids_does_not_hold_up_records(registry, server):
    """It answers 404 for the path; that the URL is right is seen elsewhere."""
    server.guids = False
    guid = b"\x01" + b"g" * 16
    with pytest.raises(InvalidRequest, match="schema 67676767-6767-6767-6767-676767676767 is not in the registry"):
        await registry.decode("avro", "t", guid + b"\x02", [])
    assert sum(server.requests.values()) == 2


async def test_many_unknown_ids_are_remembered_in_a_bounded_number(registry, monkeypatch):
    """Whatever strangers send."""
    monkeypatch.setattr(module, "MAX_SCHEMAS", 3)
    for number in range(1, 8):
        with pytest.raises(InvalidRequest):
            await registry.decode("avro", "t", framed(number) + b"\x02", [])
    assert len(registry._unknown) <= 3


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("JSON", "{}", "schema 1 is of type JSON, not AVRO"),
        ("AVRO", '"nothing"', "schema 1 cannot be used: not an Avro schema"),
        ("AVRO", '["null", "x.Y"]', "schema 1 cannot be used"),
    ],
)
async def test_a_schema_that_is_of_no_use_says_why(registry, server, kind, text, reason):
    """Of another format than the route's, or none at all."""
    server.add("s", text, kind)
    with pytest.raises(InvalidRequest, match=reason):
        await registry.decode("avro", "t", LONG, [])


async def test_a_reference_that_is_gone_is_named(registry, server):
    """The schema cannot be used, by nobody."""
    server.add("s", '["null", "x.Y"]', "AVRO", [("x.Y", "gone", 3)])
    with pytest.raises(
        InvalidRequest, match=r"x\.Y, version 3 of subject 'gone', to which it refers, is not in the reg"
    ):
        await registry.decode("avro", "t", LONG, [])


async def test_references_in_a_circle_end(registry, server):
    """A refers to B refers to A: no Avro, and no endless look-up."""
    server.add("a", '["null", "x.B"]', "AVRO", [("x.B", "b", 1)])
    server.add("b", '["null", "x.A"]', "AVRO", [("x.A", "a", 1)])
    with pytest.raises(InvalidRequest, match="cannot be used"):
        await registry.decode("avro", "t", LONG, [])


async def test_too_many_references_are_refused(registry, server, monkeypatch):
    """A schema that refers to more than there is room for is of no use."""
    monkeypatch.setattr(registry_client, "MAX_REFERENCES", 3)
    for number in range(6):
        server.add(f"s{number}", '"long"', "AVRO", [(f"x.{number + 1}", f"s{number + 1}", 1)])
    with pytest.raises(InvalidRequest, match="more than 3 schemas"):
        await registry.decode("avro", "t", LONG, [])


@pytest.mark.parametrize(("status", "advice"), [
    (500, "MILLRACE_REGISTRY_URL"), (503, "503"), (429, "429"), (301, "301"), (404, "MILLRACE_REGISTRY_URL"),
    (200, "does not answer"), (401, "the login or the token"), (403, "MILLRACE_REGISTRY_")])  # fmt: skip
async def test_a_registry_that_fails_is_waited_for(registry, server, status, advice):
    """No record is at fault for it; once it answers, the same record is read."""
    server.add("s", '"long"')
    server.fails = status
    for call in (
        partial(registry.decode, "avro", "t", LONG, []),
        partial(registry.encode, "avro", "s", 1),
        registry.check,
    ):
        with pytest.raises(RegistryUnavailable, match=advice):
            await call()
    assert registry.failures == 2
    server.fails = None
    assert await registry.decode("avro", "t", LONG, []) == 1
    assert await registry.encode("avro", "s", 1) == LONG
    await registry.check()


async def test_a_registry_that_is_not_there_is_waited_for(server, unused_port):
    """The reason names the setting."""
    async with Registry(Settings(registry_url=f"http://127.0.0.1:{unused_port}")) as registry:
        with pytest.raises(RegistryUnavailable, match=r"does not answer: ConnectError.*check MILLRACE_REGISTRY_URL"):
            await registry.decode("avro", "t", LONG, [])


@pytest.fixture
def unused_port():
    from agents.testing.broker import free_port

    return free_port()


async def test_of_several_urls_one_is_enough(server, unused_port):
    """The next is tried where one does not answer."""
    server.add("s", '"long"')
    async with Registry(Settings(registry_url=f"http://127.0.0.1:{unused_port}, {server.url}")) as registry:
        assert await registry.decode("avro", "t", LONG, []) == 1


@pytest.mark.slow
async def test_a_registry_that_hangs_is_given_up_in_time(registry, server, monkeypatch):
    """By the HTTP client, and by whoever waits, should that be kept busy by drops."""
    server.add("s", '"long"')
    server.pause = 1.0
    monkeypatch.setattr(module, "LOOKUP_DEADLINE", 0.1)
    with pytest.raises(RegistryUnavailable, match=r"not answered within 0\.1 s"):
        await registry.decode("avro", "t", LONG, [])
    server.pause = 0.0
    monkeypatch.setattr(module, "LOOKUP_DEADLINE", 10.0)
    assert await registry.decode("avro", "t", LONG, []) == 1


async def test_the_clients_own_timeout_is_a_failure(server, monkeypatch):
    """A registry that takes the connection and is silent."""
    monkeypatch.setattr(registry_client, "TIMEOUT", 0.1)
    server.pause = 1.0
    async with Registry(Settings(registry_url=server.url)) as registry:
        with pytest.raises(RegistryUnavailable, match="ReadTimeout"):
            await registry.check()


async def test_the_latest_schema_is_looked_up_again_in_the_background(registry, server, monkeypatch):
    """Nothing waits for it; as long as the registry does not answer, the schema of before is used."""
    server.add("s", '"long"')
    assert await registry.encode("avro", "s", 1) == LONG
    server.add("s", '["null", "long"]')
    late = module.LATEST_TTL
    for fails in (503, None):
        server.fails = fails
        monkeypatch.setattr(module, "monotonic", lambda late=late: time.monotonic() + late)
        late += 2 * module.LATEST_TTL
        assert registry.encode_cached("avro", "s", 1) == LONG
        while registry._loading:
            await asyncio.sleep(0.01)
    assert registry.encode_cached("avro", "s", 1) == framed(2) + b"\x02\x02"


async def test_what_cannot_be_written_waits(registry, server):
    """An unknown subject and one of another format are mended by people, and no record is lost for them."""
    with pytest.raises(
        RegistryUnavailable, match="nothing can be written for subject 's': subject 's' is not in the reg"
    ):
        await registry.encode("avro", "s", 1)
    server.add("j", "{}", "JSON")
    with pytest.raises(RegistryUnavailable, match="the latest schema of subject 'j' is of type JSON, not AVRO"):
        await registry.encode("avro", "j", 1)


async def test_a_value_that_does_not_fit_names_schema_and_subject(registry, server):
    """Then the document is at fault."""
    server.add("s", '"long"')
    for _ in range(2):  # the first waits for the schema
        with pytest.raises(InvalidDocument, match="schema 1, the latest of subject 's': the value: a string, not long"):
            await registry.encode("avro", "s", "x")
    with pytest.raises(InvalidDocument):
        registry.encode_cached("avro", "s", "x")


async def test_bytes_of_another_schema_are_the_records_fault(registry, server):
    """Whether its schema is known or not."""
    server.add("s", '"long"')
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="does not fit schema 1: it ends too early"):
            await registry.decode("avro", "t", framed(1), [])
    with pytest.raises(InvalidRequest, match="too early"):
        registry.decode_cached("avro", "t", framed(1), [])


@pytest.mark.slow
async def test_a_large_value_does_not_hold_up_the_loop(registry, server):
    """A list of many numbers is read and written in a thread, where others have their turns."""
    server.add("s", '{"type": "array", "items": "int"}')
    value = [5] * 200_000
    longest = 0.0

    async def watch():
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - began)

    data = framed(1) + b"\x80\xb5\x18" + b"\x0a" * 200_000 + b"\x00"
    await registry.decode("avro", "t", framed(1) + b"\x00", [])
    assert registry.decode_cached("avro", "t", data, []) is MISSING
    watcher = asyncio.get_running_loop().create_task(watch())
    assert await registry.decode("avro", "t", data, []) == value
    assert registry.encode_cached("avro", "s", value) is MISSING
    assert await registry.decode("avro", "t", await registry.encode("avro", "s", value), []) == value
    watcher.cancel()
    assert longest < 0.2 * slowness()  # 20 ms on a machine that is idle; the compiled reader takes it all at once


@pytest.mark.parametrize(
    ("settings", "login"),
    [
        ({"registry_username": "u", "registry_password": "p"}, "Basic dTpw"),
        ({"registry_token": "t"}, "Bearer t"),
    ],
)
async def test_the_registry_is_logged_in_to(server, settings, login):
    """By user and password, or by a token."""
    server.add("s", '"long"')
    server.login = login
    async with Registry(Settings(registry_url=server.url, **settings)) as registry:
        assert await registry.decode("avro", "t", LONG, []) == 1
    async with Registry(Settings(registry_url=server.url)) as registry:
        with pytest.raises(RegistryUnavailable, match="401: Unauthorized: check the login"):
            await registry.decode("avro", "t", LONG, [])


async def test_tls_goes_by_the_files_named(opened, tmp_path):
    """With a certificate of ours where the registry wants one; without its authority, nothing is sent."""
    ca, mine = trustme.CA(), tmp_path / "mine.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    server = await RegistryServer().open(opened, context)
    server.add("s", '"long"')
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("me").private_key_and_cert_chain_pem.write_to_path(mine)
    files = {"registry_ca": str(tmp_path / "ca.pem"), "registry_cert": str(mine)}
    async with Registry(Settings(registry_url=server.url, **files)) as registry:
        assert await registry.decode("avro", "t", LONG, []) == 1
    async with Registry(Settings(registry_url=server.url)) as registry:
        with pytest.raises(RegistryUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await registry.decode("avro", "t", LONG, [])


async def test_a_file_of_no_use_is_named(tmp_path):
    """It is a settings error, when the registry is opened."""
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(SettingsError, match=r"MILLRACE_REGISTRY_CA.*ca\.pem"):
        await Registry(Settings(registry_url="https://r", registry_ca=str(tmp_path / "ca.pem"))).__aenter__()


async def test_without_a_registry_the_setting_is_named():
    """Formats of a registry need one."""
    with pytest.raises(SettingsError, match="MILLRACE_REGISTRY_URL"):
        await Registry(Settings()).__aenter__()


@pytest.mark.parametrize("package", ["confluent_kafka.schema_registry", "fastavro", "google.protobuf"])
async def test_without_the_extra_it_is_named(monkeypatch, package):
    """Where a package is missing, the message says what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsError, match=r"pip install 'millrace-kafka\[registry\]'"):
        await Registry(Settings(registry_url="http://r")).__aenter__()


@pytest.mark.slow
def test_who_has_no_registry_pays_nothing():
    """Neither the client nor fastavro nor Protobuf is imported before a registry is opened."""
    code = "import sys, streams.registry.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"confluent_kafka", "fastavro", "httpx", "httpx2", "google.protobuf", "jsonschema"}
    assert set(done.stdout.split()) & heavy == set()


@pytest.mark.slow
async def test_closing_does_not_wait_for_a_registry_that_hangs(server):
    """Whoever waits is cancelled."""
    server.pause = 2.0
    registry = Registry(Settings(registry_url=server.url))
    began = time.monotonic()
    async with registry:
        waiting = asyncio.ensure_future(registry.decode("avro", "t", LONG, []))
        await asyncio.sleep(0.1)
        waiting.cancel()
    assert time.monotonic() - began < 1.5
