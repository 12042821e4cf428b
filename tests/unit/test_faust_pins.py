"""What streams/kafka and streams/app.py override or call of Faust, mode and aiokafka, and streams/http and streams/web
of aiohttp: the lists are at the top of streams/kafka/transport.py and streams/http/__init__.py.

A new version that changes any of it must be read before it is run: the delivery guarantee hangs on it. After reading,
`python -m tests.unit.test_faust_pins` prints the table anew.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from importlib.metadata import version

import pytest

from agents.entry import EntryPoint

PINNED = {
    "faust.transport.consumer:Consumer._drain_messages": "44a2500309e8",
    "faust.transport.consumer:Consumer._wait_next_records": "6218e1969a63",
    "faust.transport.consumer:Consumer._get_active_partitions": "b24897f3c7af",
    "faust.transport.consumer:Consumer.perform_seek": "0e8c130ff4b0",
    "faust.transport.consumer:Consumer.wait_empty": "e4662fe24f09",
    "faust.transport.consumer:Consumer.commit": "a354437baaa0",
    "faust.transport.consumer:Consumer.force_commit": "cc094614d22c",
    "faust.transport.consumer:Consumer._commit_handler": "4e5da5df0730",
    "faust.transport.consumer:Consumer.on_stop": "45b1d2210ce2",
    "faust.transport.consumer:Consumer.on_partitions_revoked": "d04b7ae72c6f",
    "faust.transport.consumer:Consumer.on_partitions_assigned": "29ce96596f05",
    "faust.transport.consumer:Consumer.on_buffer_full": "c8961679e0bc",
    "faust.transport.consumer:Consumer.on_buffer_drop": "4b57e8a418d5",
    "faust.transport.consumer:Consumer._is_changelog_tp": "88867d75cfe9",
    "faust.transport.consumer:ConsumerThread.on_partitions_revoked": "c44013f1259c",
    "faust.transport.consumer:ConsumerThread.on_partitions_assigned": "e59e8dda4372",
    "faust.transport.consumer:Fetcher": "c922e4ab78d9",
    "faust.transport.drivers.aiokafka:ConsumerRebalanceListener": "f3d04f29dfb3",
    "faust.transport.drivers.aiokafka:Consumer._new_consumer_thread": "0870ec53dea7",
    "faust.transport.consumer:Consumer._commit_livelock_detector": "af196ff46fd4",
    "faust.transport.consumer:Consumer.verify_all_partitions_active": "4e0e46f5c297",
    "faust.sensors.monitor:Monitor._sampler": "e963a929bb77",
    "mode.services:Service.sleep": "377e95908e87",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.on_start": "38b4e8bd1e10",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.on_thread_stop": "8dfc004e258b",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._create_worker_consumer": "c2701bfc3e6f",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._fetch_records": "39a2c6c79fc1",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._ensure_consumer": "ff4a4c693b7e",
    "faust.transport.conductor:Conductor._subscriber": "2a7908583404",
    "faust.transport.conductor:Conductor._update_tp_index": "e8e3ac9025ef",
    "aiokafka.consumer.group_coordinator:GroupCoordinator._GroupCoordinator__coordination_routine": "f814463c6b44",
    "aiokafka.consumer.group_coordinator:GroupCoordinator.ensure_active_group": "33c84c1a9301",
    "aiokafka.client:AIOKafkaClient._get_conn": "68ce5d839171",
    "aiokafka.client:AIOKafkaClient._md_synchronizer": "e0421bffa9a7",
    "aiokafka.conn:create_conn": "673276cbddb4",
    "aiokafka.conn:AIOKafkaConnection": "ac26ab36fe7c",
    "aiokafka.consumer.group_coordinator:GroupCoordinator._do_heartbeat": "dc1d6632aaa6",
    "aiokafka.consumer.group_coordinator:GroupCoordinator._heartbeat_routine": "61d010289522",
    "aiokafka.consumer.group_coordinator:GroupCoordinator.request_rejoin": "f70a261c91c3",
    "aiokafka.consumer.subscription_state:Subscription": "5e570aaff58e",
    "aiokafka.client:AIOKafkaClient.set_topics": "9f9b55d6d899",
    "faust.transport.conductor:ConductorCompiler": "f8bedb3d7dc2",
    "faust.topics:Topic._compile_decode": "6474178f8c21",
    "faust.channels:Channel._create_event": "f7dd2e63fefb",
    "faust.app.base:BootStrategy": "ecc05db10abc",
    "faust.app.base:App.on_start": "480d70c6c72d",
    "faust.app.base:App.on_stop": "bfe5a933defb",
    "faust.app.base:App._stop_consumer": "55854a5de12c",
    "faust.app.base:App._consumer_wait_empty": "6bc313c48c06",
    "faust.app.base:App._on_partitions_revoked": "d5c895bbe57d",
    "faust.app.base:App._on_partitions_assigned": "de932b7927db",
    "faust.app.base:App._on_rebalance_when_stopped": "1b172d9af8ff",
    "faust.tables.recovery:Recovery._resume_streams": "d986a6710c1a",
    "faust.tables.recovery:Recovery._restart_recovery": "6bd8a8558a2d",
    "faust.tables.recovery:Recovery._wait": "ec7429b70176",
    "faust.tables.recovery:Recovery.on_rebalance": "aa4d997a1795",
    "faust.tables.manager:TableManager.recovery": "f0bf5de78b4c",
    "faust.tables.manager:TableManager.on_start": "365dd25fbc0e",
    "faust.tables.manager:TableManager._update_channels": "88e3941facc9",
    "faust.tables.manager:TableManager.on_rebalance": "2d2c23a07bf5",
    "mode.threads:ServiceThread": "327e312386fa",
    "aiokafka.consumer.fetcher:FetchResult": "d7db13f06de8",
    "aiokafka.consumer.fetcher:PartitionRecords": "94aa0da0dbec",
    "aiokafka.consumer.fetcher:Fetcher._get_actions_per_node": "1dab2cf937d1",
    "aiokafka.consumer.fetcher:Fetcher._fetch_requests_routine": "2a8ec5932644",
    "aiokafka.consumer.fetcher:Fetcher._proc_fetch_request": "59bf948fff47",
    "aiokafka.consumer.fetcher:Fetcher.fetched_records": "be4348896b9b",
    "aiokafka.admin.client:AIOKafkaAdminClient._send_request": "1ed126f126dd",
    "aiokafka.consumer.group_coordinator:GroupCoordinator._do_fetch_commit_offsets": "b0f359813271",
    "aiokafka.consumer.group_coordinator:GroupCoordinator.check_errors": "ba6ca51ad348",
    "aiokafka.consumer.group_coordinator:GroupCoordinator.commit_offsets": "5cbe31af28d6",
    "aiokafka.consumer.subscription_state:TopicPartitionState": "2b83334afadf",
    "aiokafka.consumer.fetcher:Fetcher._update_fetch_positions": "d7774d8241dc",
    "aiokafka.consumer.fetcher:Fetcher._set_error": "d29810f3f509",
    "aiokafka.client:AIOKafkaClient._metadata_update": "06dc51ed3e0d",
    "aiokafka.client:AIOKafkaClient.get_random_node": "0e2daf38b78e",
    "aiokafka.client:AIOKafkaClient.send": "246b277687d7",
    "aiokafka.protocol.api:Request": "1dc66f0574be",
    "aiokafka.protocol.api:RequestStruct": "0c94b7d19018",
    "aiokafka.producer.producer:AIOKafkaProducer.create_batch": "c4efda4bb7a0",
    "aiokafka.producer.producer:AIOKafkaProducer.send_batch": "bf42b0f0c5c0",
    "aiokafka.producer.message_accumulator:BatchBuilder": "8050802ca751",
    "aiokafka.producer.message_accumulator:MessageAccumulator.add_batch": "5ed1c5b1367a",
    "aiokafka.consumer.group_coordinator:GroupCoordinator._send_req": "fa4b12e914ce",
    "aiokafka.consumer.group_coordinator:GroupCoordinator.ensure_coordinator_known": "4dfb9ccd877a",
    "aiokafka.producer.sender:Sender": "46ef144176b7",
    "aiokafka.producer.sender:TxnOffsetCommitHandler": "7f296a144356",
    "aiokafka.producer.sender:BaseHandler": "41fc76293ab9",
    "aiokafka.producer.transaction_manager:TransactionManager": "d0932794d69a",
    "aiokafka.producer.producer:AIOKafkaProducer.commit_transaction": "c7f9677c8941",
    "aiokafka.producer.producer:AIOKafkaProducer.send_offsets_to_transaction": "4b58002b4496",
    "aiokafka.producer.message_accumulator:MessageBatch": "36a7b1dac89d",
    "aiokafka.producer.message_accumulator:MessageAccumulator": "562530971ca9",
    "aiokafka.record.default_records:_DefaultRecordBatchPy": "f63fbb5a8a24",
    "aiokafka.record.default_records:_DefaultRecordPy": "89405104e45a",
    "aiokafka.record.legacy_records:_LegacyRecordBatchPy": "22235cc4483e",
    "aiokafka.record.memory_records:_MemoryRecordsPy": "795a0314fbca",
    "aiohttp.client:ClientSession._request": "32986b8105fa",
    "aiohttp.client_proto:ResponseHandler.data_received": "9bf7ecf8e505",
    "aiohttp.client_proto:ResponseHandler.feed_data": "632cf6724ef9",
    "aiohttp.client_proto:ResponseHandler.set_response_params": "2eb047e32248",
    "aiohttp.client_proto:ResponseHandler.set_exception": "83971750bbd9",
    "aiohttp.client_proto:ResponseHandler.connection_lost": "84b98dfd8035",
    "aiohttp.connector:BaseConnector.__init__": "99db6b24033b",
    "aiohttp.connector:BaseConnector._get": "4795a63c99f2",
    "aiohttp.connector:BaseConnector._release": "105426e5b03d",
    "aiohttp.connector:BaseConnector.connect": "b9fe1f4d3e57",
    "aiohttp.connector:TCPConnector._create_connection": "1fc9f0b5725d",
    "aiohttp.base_protocol:BaseProtocol.resume_reading": "21dee847a31a",
    "aiohttp.client_proto:ResponseHandler.resume_reading": "ad1141ce3718",
    "aiohttp.base_protocol:BaseProtocol.resume_writing": "7db135e0841e",
    "aiohttp.client_proto:ResponseHandler.start_timeout": "028ec54b79dd",
    "aiohttp.streams:DataQueue.read": "1340dfce4e19",
    "aiohttp.streams:StreamReader.readany": "766f946ae360",
    "aiohttp.client_reqrep:ConnectionKey": "4b3c0f409e1c",
    "aiohttp.client_reqrep:ClientRequest.connection_key": "0976f2a8d42a",
    "aiohttp.client_reqrep:ClientRequest.update_headers": "4443c95d4332",
    "aiohttp.client_reqrep:ClientRequest.update_auto_headers": "bce84510c402",
    "aiohttp.client_reqrep:ClientRequest.update_body_from_data": "05b09c13b465",
    "aiohttp.client_reqrep:ClientRequest.write_bytes": "f3b5cbcb26f2",
    "aiohttp.client_reqrep:ClientRequest.send": "82b495aa0676",
    "aiohttp.client_reqrep:ClientResponse.start": "bcbf178da366",
    "aiohttp.client_reqrep:ClientResponse._response_eof": "e6e30c2f14a2",
    "aiohttp.client_reqrep:ClientResponse.release": "91ea7fefe948",
    "aiohttp.client_reqrep:ClientResponse._release_connection": "72cf8aea365a",
    "aiohttp.connector:Connection": "b87e0588fdd9",
    "aiohttp.connector:TCPConnector._create_direct_connection": "c009b18bcc35",
    "aiohttp.connector:TCPConnector._wrap_create_connection": "7d64ce083616",
    "aiohttp.connector:TCPConnector._get_ssl_context": "0f3a72a2828d",
    "aiohttp.connector:TCPConnector._get_fingerprint": "c95acc34dca7",
    "aiohttp.http_writer:_py_serialize_headers": "3d68ef4ae4d8",
    "aiohttp.cookiejar:CookieJar._build_morsel": "60ffc1c43a34",
    "aiohttp.web_protocol:RequestHandler.connection_made": "44d50b5763b2",
    "aiohttp.web_protocol:RequestHandler.finish_response": "b7eb53db8f4b",
    "aiohttp.web_protocol:RequestHandler.handle_error": "94962ffef500",
    "aiohttp.web_protocol:RequestHandler.start": "2e565fd40c8e",
    "aiohttp.web_server:Server.__call__": "c5700549e688",
    "aiohttp.web_runner:AppRunner._make_server": "2d5358865abd",
}


def digest(name: str) -> str:
    module, _, path = name.partition(":")
    piece = importlib.import_module(module)
    for part in path.split("."):
        piece = getattr(piece, part)
    if inspect.isclass(piece) and piece.__module__.startswith("streams."):
        piece = piece.__base__  # fetched.py and connection.py put classes of their own in their places
    piece = getattr(piece, "fget", getattr(piece, "fun", piece))  # a property, a mode task
    return hashlib.sha256(inspect.getsource(getattr(piece, "__wrapped__", piece)).encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", PINNED)
def test_private_parts_are_the_ones_that_were_read(name: str) -> None:
    """The source of each private part that we build on is the one the overrides were written against."""
    assert digest(name) == PINNED[name], f"{name} has changed: read it, then its override, then update the table"


def test_the_versions_are_pinned() -> None:
    """The installed versions are the pinned ones."""
    versions = {name: version(name) for name in ("faust-streaming", "aiokafka", "aiohttp")}
    assert versions == {"faust-streaming": "0.15.3", "aiokafka": "0.14.0", "aiohttp": "3.14.5"}


if __name__ == "__main__":
    EntryPoint("tests.unit.test_faust_pins", "Prints the table of private parts anew, by what is installed.").begin()
    print("PINNED = {", *(f'    "{name}": "{digest(name)}",' for name in PINNED), "}", sep="\n")
