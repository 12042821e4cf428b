from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from agents.commands import FAILED, run
from agents.doctor import counted, here, kafka
from agents.doctor.routes import routes, routes_of
from models.errors import Denied, TimedOut, UpstreamError
from streams.config.settings import Kafka, Settings
from streams.kafka.cluster import READ, WRITE, Broker, Cluster, Partition, Topic
from streams.web.server import Server
from tests.unit.streams.registry.server import RegistryServer


async def _silent(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nServer: other\r\nContent-Length: 3\r\n\r\nok\n")
    await writer.drain()
    writer.close()


async def test_the_web_port_of_a_running_worker_is_well():
    """What answers there as ours does is a worker; whatever else listens is a problem; nobody is well, too."""
    async with Server("127.0.0.1", 0, dict) as server:
        found = await here.web(Settings(web_port=server.port))
        assert (found.state, "a worker answers here" in found.seen) == ("ok", True)
    assert (await here.web(Settings(web_port=server.port))).seen == "free"
    other = await asyncio.start_server(_silent, "127.0.0.1", 0)
    async with other:
        found = await here.web(Settings(web_port=other.sockets[0].getsockname()[1]))
    assert (found.state, "cannot listen" in found.seen) == ("problem", True)
    found = await here.web(Settings(web_host="0.0.0.0", web_port=0, web_token=None))
    assert (found.state, "MILLRACE_WEB_TOKEN is needed" in found.seen) == ("problem", True)


def test_a_store_that_cannot_be_had_is_a_problem(tmp_path, monkeypatch):
    """A worker would end with it: a folder that cannot be written, and an extra that is not installed."""
    (tmp_path / "file").touch()
    assert here.store(Settings()).seen == "in memory"
    assert here.store(Settings(store=f"rocksdb://{tmp_path}/new")).state in ("ok", "warning")
    found = here.store(Settings(store=f"rocksdb://{tmp_path}/file/below"))
    assert (found.state, found.subject) == ("problem", f"store {tmp_path}/file/below")
    assert list(here.traces(Settings())) == []
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert [each.advice for each in here.traces(Settings(traces="on"))] == ["install millrace-kafka[traces]"]
    monkeypatch.setattr(here, "find_spec", lambda _: None)
    assert "install millrace-kafka[rocksdb]" in here.store(Settings(store=f"rocksdb://{tmp_path}")).advice
    [found] = here.traces(Settings(traces="on"))
    assert (found.state, found.advice) == ("problem", "install millrace-kafka[traces]")


async def test_an_upstream_that_answers_is_no_matter_of_the_guard(monkeypatch):
    """Advice on networks and ports is for what was not reached."""
    for error, advice in ((UpstreamError("answered 404", 404), "it was reached"), (Denied("no"), "ALLOW_NETWORKS"),
                          (TimedOut("no answer"), "MILLRACE_PROXY")):  # fmt: skip

        async def fetch(*_, error=error, **__):
            raise error

        monkeypatch.setattr("streams.http.client.Client.fetch", fetch)
        [found] = [each async for each in here.upstream(Settings(), "http://h.example/")]
        assert advice in found.advice


async def test_a_port_that_the_guard_would_deny_is_named(tmp_path):
    """Each such source's is a problem, with what to set: all that are needed, and what is open already."""
    file = tmp_path / "sources.toml"
    file.write_text("".join(f'[sources.{name}]\nurl = "http://127.0.0.1{port}/{{n}}"\n'
                            for name, port in (("a", ""), ("b", ":8081"), ("c", ":9090"), ("d", ":9500"))))  # fmt: skip
    settings = Settings(sources=str(file), allow_networks="127.0.0.0/8", allow_ports="9000-9100")
    problems = [each async for each in here.sources(settings) if each.state == "problem"]
    assert [each.subject for each in problems] == ["host 127.0.0.1:8081", "host 127.0.0.1:9500"]
    assert {each.advice.partition("PORTS=")[2] for each in problems} == {"9000-9100,8081,9500"}


async def test_certificates_are_said_to_be_good_until_when(tmp_path):
    """Kafka's and the sources', each file once; one that ends soon is a warning that says what to do."""
    authority, soon = trustme.CA(), datetime.now(UTC) + timedelta(days=3)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("a.example", not_after=soon).private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    (tmp_path / "sources.toml").write_text(
        f'[sources.a]\nurl = "http://127.0.0.1/"\ntls = {{ ca = "{tmp_path}/ca.pem", cert = "{tmp_path}/own.pem" }}\n'
    )
    kafka = Kafka(security_protocol="SSL", ssl_cafile=str(tmp_path / "ca.pem"))
    settings = Settings(kafka=kafka, sources=str(tmp_path / "sources.toml"), allow_networks="127.0.0.0/8")
    found = [*here.certificates(settings), *[each async for each in here.sources(settings)]]
    told = [(each.subject, each.state, each.seen) for each in found if each.subject.startswith("certificate ")]
    ca, own = f"certificate {tmp_path}/ca.pem", f"certificate {tmp_path}/own.pem"
    assert [each[:2] for each in told] == [(ca, "ok"), (ca, "ok"), (own, "warning")]
    assert told[-1][2] == f"valid until {soon:%Y-%m-%d %H:%M} UTC"
    assert list(here.certificates(Settings())) == []


def test_a_bad_plugin_is_one_problem(tmp_path, monkeypatch, capsys):
    """Its file and line are named once, and the pool that would fail over it is not tried."""
    (tmp_path / "crooked_plugin.py").write_text("\ndef f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("MILLRACE_WEB_PORT", "0")
        monkeypatch.setenv("MILLRACE_PLUGINS", "crooked_plugin")
        assert run(["doctor"]) == FAILED
    out, err = capsys.readouterr()
    assert (out.count("crooked_plugin.py"), out.count("line 2"), "\nok       pool" in out) == (1, 1, False)
    assert ("problem  pool" in out, err) == (False, "2 problems, 0 warnings\n")
    assert counted(1, "problem") == "1 problem"


async def test_the_schema_registry_is_asked_whether_it_answers(opened_registry):
    """One that does is well, one that does not a problem with the setting's name; without one, nothing is reported."""
    assert [each async for each in here.registry(Settings())] == []
    [found] = [each async for each in here.registry(Settings(registry_url=opened_registry.url))]
    assert (found.state, found.seen) == ("ok", f"answers at {opened_registry.url}")
    opened_registry.fails = 503
    [found] = [each async for each in here.registry(Settings(registry_url=opened_registry.url))]
    assert (found.state, "503" in found.seen, "MILLRACE_REGISTRY_URL" in found.seen) == ("problem", True, True)


ROUTE = """
[sources.a]
url = "http://127.0.0.1/{n}"
[routes.orders]
topics = ["orders"]
results = "enriched"
failures = "failed"
[[routes.orders.lookups]]
source = "a"
params = { n = "value.n" }
into = "a"
"""


def routed(tmp_path, text=ROUTE, **settings):
    (tmp_path / "sources.toml").write_text(text)
    return Settings(sources=str(tmp_path / "sources.toml"), allow_networks="127.0.0.0/8", **settings)


def test_a_route_is_reported_with_its_topics(tmp_path):
    """A worker that only keeps tables has none; a file that is invalid is reported with the sources."""
    [found] = routes(routed(tmp_path))
    assert (found.subject, found.state) == ("route orders", "ok")
    assert found.seen == "reads orders, writes enriched; dead letters go to failed"
    assert routes_of(routed(tmp_path, role="tables")) == list(routes(routed(tmp_path, role="tables"))) == []
    assert list(routes(routed(tmp_path, ROUTE + "nonsense = 1\n"))) == list(routes(Settings())) == []


def test_a_route_that_does_not_go_with_the_settings_is_a_problem(tmp_path):
    """Such as one whose results are the worker's own; it comes with what to do."""
    [found] = routes(routed(tmp_path, results_topic="enriched"))
    assert (found.state, "'enriched'" in found.seen, "sources.toml" in found.advice) == ("problem", True, True)


def test_topics_and_groups_of_routes_are_looked_at_as_the_others_are(tmp_path):
    """A missing topic, a hidden one and a missing permission are problems that say what to create or grant."""
    settings = routed(tmp_path, group="g")
    found = routes_of(settings)
    everything = frozenset({READ, WRITE})
    names = {*kafka._needed(settings, found), *kafka._kept(settings)}
    assert names > {"orders", "enriched", "failed"}
    topics = {name: Topic(name, True, True, (Partition(0, 1, 1, 1),), everything) for name in names}
    topics["orders"] = topics["orders"]._replace(granted=frozenset({WRITE}))
    topics["enriched"] = Topic("enriched", False, True, (), None)
    topics["failed"] = Topic("failed", False, False, (), None)
    cluster = Cluster((Broker(1, "b", 9092),), topics, None)
    wrong = {each.subject: (each.seen, each.advice) for each in kafka._topics(cluster, settings, found)
             if each.state == "problem"}  # fmt: skip
    assert wrong == {
        "topic enriched": ("does not exist", "create it: millrace topics --create"),
        "topic failed": ("missing, or hidden by ACLs", "grant the ACLs named below, or create it"),
    }
    refused = [(each.seen, each.advice) for each in kafka._access(cluster, settings, found)]
    assert refused == [
        ("Read on topic orders is not granted", "grant it to User:ANONYMOUS"),
        ("Write on topic failed is not granted", "grant it to User:ANONYMOUS"),
    ]
    assert kafka._groups(settings, found) == ["g", "g-tables", "g-orders"]


@pytest.fixture
async def opened_registry():
    async with AsyncExitStack() as stack:
        yield await RegistryServer().open(stack)


async def test_a_date_that_is_none_is_said(upstream_dated):
    """Nothing that an upstream sends ends the doctor."""
    settings = Settings(allow_networks="127.0.0.0/8", allow_ports="1-65535")
    found = [each async for each in here.upstream(settings, upstream_dated)]
    assert [(each.subject, each.state) for each in found[1:]] == [("clock", "warning")]
    assert "Date" in found[1].seen


@pytest.fixture
async def upstream_dated():
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nDate: soon\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
