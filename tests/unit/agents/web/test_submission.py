"""Which requests are taken over HTTP, and how they are put on the topic."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import asynccontextmanager

import pytest

from models.errors import BrokerError
from models.request import MAX_BYTES
from tests.unit.agents.web.fleet import Fleet

URL = {"url": "http://a.example/"}


class Sender:
    """What stands in for the topic."""

    def __init__(self):
        self.sent, self.values, self.fault = [], [], None

    async def partition_for(self, _topic, key):
        return 3 if key is None else len(key)

    async def send(self, topic, partition, key, value, headers):
        if self.fault is not None:
            raise self.fault
        self.values.append(value)
        self.sent.append((topic, partition, key, json.loads(value), headers))
        return 41 + len(self.sent)


class Tail:
    """What stands in for the end of the results: `result` comes once the request was sent."""

    def __init__(self, sender):
        self.sender, self.result, self.waited = sender, None, []

    @asynccontextmanager
    async def expecting(self, request_id, partition):
        assert self.sender.sent == [], "whoever listens first misses nothing"
        self.waited.append((request_id, partition))
        coming = asyncio.get_running_loop().create_future()
        if self.result is not None:
            coming.set_result(self.result)
        yield coming


@pytest.fixture
async def fleet():
    async with Fleet({0}) as opened:
        intake = opened.apis[0]._submission
        opened.sender = intake._sender = Sender()
        opened.tail = intake._tail = Tail(opened.sender)
        yield opened


async def test_it_goes_on_the_topic(fleet):
    """202 says where it is and under which id; the body goes as it came, but for an id if it has none."""
    status, told, headers = await fleet.post("/api/requests", URL | {"id": "a b"})
    assert (status, told) == (202, {"id": "a b", "topic": "requests", "partition": 3, "offset": 42})
    assert headers["Location"] == "/api/tables/answers/a%20b"
    _, told, _ = await fleet.post("/api/requests?key=k", URL)
    assert fleet.sender.sent[1][:4] == ("requests", 1, b"k", {"id": told["id"], **URL})
    assert len(told["id"]) == 32


async def test_digits_go_on_the_topic_as_they_came(fleet):
    """A body without an id gets one, and not one other byte changes: no number is rounded."""
    body = b' {"url":"http://a.example/","method":"POST","body":{"id":9007199254740993,"price":10.10}} '
    _, told, _ = await fleet.post("/api/requests", body)
    assert fleet.sender.values == [b'{"id":"%b",' % told["id"].encode() + body.lstrip()[1:]]


@pytest.mark.parametrize(
    ("query", "key", "location"),
    [
        ("key=a%2Fb", b"a/b", "a%2Fb"), ("key=", b"", "?encoding=base64"),
        ("key=_wD_&encoding=base64", b"\xff\x00\xff", "_wD_?encoding=base64"),
        ("key=%D1%8F", "я".encode(), "%D1%8F"), ("key=..", b"..", "Li4?encoding=base64"),
    ],
)  # fmt: skip
async def test_a_key_may_be_any_bytes(fleet, query, key, location):
    """As text or as base64; where the answer will be found says so too."""
    _, _, headers = await fleet.post(f"/api/requests?{query}", URL)
    assert (fleet.sender.sent[0][2], headers["Location"]) == (key, "/api/tables/answers/" + location)


WRONG = [
    ("", b"", 400, None), ("", b"[", 400, None), ("", b"\xff", 400, None),
    ("", b'{"url":"a","url":"b"}', 400, None),
    ("", b"[" * 100, 400, None), ("", b"[1]", 422, ""), ("", b"{}", 422, "url"),
    ("", b'{"url": 7, "x": 1}', 422, "url"),
    ("", b'{"url": "http://u:p@a/"}', 422, "url"), ("", b'{"source": "nope"}', 422, "source"),
    ("", b'{"url":"http://a/","headers":{"a":"\\r\\n"}}', 422, "headers"),
    ("", b'{"url":"http://a/","checks":[1]}', 422, "checks.0"),
    ("?wait=61", b"{}", 400, "wait"), ("?wait=-1", b"{}", 400, "wait"), ("?wait=nan", b"{}", 400, "wait"),
    ("?wait=1_0", b"{}", 400, "wait"),
    ("?key=!&encoding=base64", b"{}", 400, "key"), ("?encoding=hex", b"{}", 400, "encoding"),
    ("?key=" + "x" * 5000, b"{}", 400, "key"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "body", "status", "field"), WRONG, ids=range(len(WRONG)))
async def test_what_is_no_request_is_refused(fleet, query, body, status, field):
    """No JSON is 400, JSON that is no request 422, naming each field; nothing is sent."""
    found, told, _ = await fleet.post("/api/requests" + query, body)
    assert found == status, told
    assert field is None or field in {each["field"] for each in told["errors"]}
    assert fleet.sender.sent == []


async def test_credentials_are_not_repeated(fleet):
    """A URL with a login is refused without its text."""
    _, told, _ = await fleet.post("/api/requests", {"url": "http://user:s3cret@a.example/"})
    assert "s3cret" not in json.dumps(told)
    assert told["outcome"] == "denied"


async def test_one_too_large_is_refused(fleet):
    """Past 1 MiB it is 413, as a worker would refuse it."""
    body = io.BytesIO(b'{"body":"' + b"x" * MAX_BYTES + b'"}')
    assert (await fleet.post("/api/requests", body))[0] == 413


async def test_nothing_is_sent_without_the_token(fleet):
    """401, and the topic stays as it is."""
    assert (await fleet.post("/api/requests", URL, token="x"))[0] == 401
    assert fleet.sender.sent == []


async def test_the_result_is_waited_for(fleet):
    """With `wait` the result itself comes, as it is on the topic, and says where it will be found later."""
    fleet.tail.result = b'{"id":"a","outcome":"ok","elapsed_ms":1.0}'
    status, told, headers = await fleet.post("/api/requests?wait=5", URL | {"id": "a"})
    assert (status, told["outcome"], headers["Content-Location"]) == (200, "ok", "/api/tables/answers/a")
    assert fleet.tail.waited == [("a", 3)]


@pytest.mark.slow
@pytest.mark.parametrize("result", [None, b"no json", b"\xff"])
async def test_without_a_result_it_is_accepted(fleet, result):
    """What does not come in time, or is no result because somebody else wrote it, leaves 202."""
    fleet.tail.result = result
    assert (await fleet.post("/api/requests?wait=0.1", URL))[0] == 202


async def test_kafka_may_be_away(fleet):
    """503 with Retry-After, the reason, and the id, so that sending it again makes no second request of it."""
    fleet.sender.fault = BrokerError("Kafka at x cannot be reached")
    status, told, headers = await fleet.post("/api/requests", URL | {"id": "a"})
    assert (status, told["id"], told["detail"]) == (503, "a", "Kafka at x cannot be reached")
    assert headers["Retry-After"] == "5"


async def test_a_trace_goes_along_if_it_is_one(fleet):
    """A valid traceparent becomes a header of the record; anything else does not."""
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    await fleet.post("/api/requests", URL, traceparent=trace, X_Other="y")
    await fleet.post("/api/requests", URL, traceparent="nonsense")
    kept = [("content-type", b"application/json")]
    assert [sent[4] for sent in fleet.sender.sent] == [[*kept, ("traceparent", trace.encode())], kept]


@pytest.mark.slow
async def test_a_large_request_is_read_elsewhere_and_told_in_the_same_words(fleet):
    """1 MiB of JSON goes on the topic as it came, or is refused with the reason, and never holds up the pages."""
    filling = b"[]," * 300_000
    body = b'{"url":"http://a.example/","method":"POST","body":[%b1.10]}' % filling
    status, told, _ = await fleet.post("/api/requests", body)
    assert (status, fleet.sender.values) == (202, [b'{"id":"%b",%b' % (told["id"].encode(), body[1:])])
    status, told, _ = await fleet.post("/api/requests", body.replace(b"POST", b"SEND"))
    assert (status, told["errors"][0]["field"]) == (422, "method")
