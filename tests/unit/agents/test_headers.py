from __future__ import annotations

import json

import pytest
from aiokafka import ConsumerRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.answer.headers import (
    ResultHeaders,
    dead_letter_headers,
    default_id,
    forwarded_headers,
    read_id,
    refused_id,
    shrink_dead_letter,
    shrink_result,
)
from models import strictjson
from models.dead_letter import DLQ
from models.errors import Denied, InvalidRequest, TooLarge
from models.request import Request
from models.result import Answer, context_of, encode_answer, splice, with_context
from models.result_schema import ResultSchema
from streams.http.url import origin_of
from streams.kafka.outgoing import OutgoingRecord

TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACESTATE = b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"


class Receipt:
    """A receipt that stays alive and is never told anything."""

    alive = True

    def finish(self, offset):  # noqa: ARG002  the protocol's
        raise AssertionError


def record(headers=(), *, key=b"k", value=b"v", topic="requests", partition=3, offset=42):
    return ConsumerRecord(topic, partition, offset, 0, 0, key, value, None, 1, 1, headers)


GET = Request(url="http://a/")


def parcel(value, *, key=b"k", headers=(), shrink=shrink_result):
    return OutgoingRecord(Receipt(), 42, key, value, list(headers), shrink)


def test_the_body_s_id_goes_first():
    """An id in the body beats the header."""
    assert read_id(record([("ce_id", b"header")]), b'"body"') == b'"body"'


@pytest.mark.parametrize(
    ("content", "request_id"),
    [
        (b"abc", b'"abc"'),
        (b'a"b\\', b'"a\\"b\\\\"'),
        ("ä".encode(), '"ä"'.encode()),
        (b"x" * 128, b'"' + b"x" * 128 + b'"'),
    ],
)
def test_the_ce_id_header_is_an_id_as_json(content, request_id):
    """A CloudEvents id, whatever characters it holds, becomes one JSON string."""
    assert read_id(record([("other", b"1"), ("ce_id", content), ("ce_id", b"second")]), None) == request_id


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ce_id: must have 1 to 128 characters, not 0"),
        (b"x" * 129, "ce_id: must have 1 to 128 characters, not 129"),
        (b"\xff", "ce_id: is not UTF-8"),
        (b"a\r\nb", "ce_id: has a control character, which a CloudEvent id must not contain"),
        (b"\x00", "ce_id: has a control character, which a CloudEvent id must not contain"),
        ("a\x85".encode(), "ce_id: has a control character, which a CloudEvent id must not contain"),
    ],
)
def test_a_ce_id_that_is_no_id_is_an_invalid_request(content, reason):
    """It is refused by name, and the result has the record's place as its id; a body with an id does not need it."""
    with pytest.raises(InvalidRequest) as caught:
        read_id(record([("ce_id", content)]), None)
    assert str(caught.value) == reason
    assert refused_id(record([("ce_id", content)]), None) == b'"requests-3-42"'
    assert read_id(record([("ce_id", content)]), b'"own"') == b'"own"'


@pytest.mark.parametrize(
    ("headers", "salvaged", "request_id"),
    [
        ([("ce_id", b"event")], None, b'"event"'),
        ([("ce_id", b"event")], b'"own"', b'"own"'),
        ([("ce_id", b"")], None, b'"requests-3-42"'),
        ((), None, b'"requests-3-42"'),
    ],
)
def test_what_is_no_request_has_an_id_all_the_same(headers, salvaged, request_id):
    """Its own, the header's or its place: so a redriven one that is refused again keeps the id of its first result."""
    assert refused_id(record(headers), salvaged) == request_id


@pytest.mark.parametrize(
    ("first", "key"),
    [
        (b"requests-1-7", "requests-1-7"),
        (b"requests-1-7\r\nX: y", "requests-3-42"),
        (b"", "requests-3-42"),
        (None, "requests-3-42"),
    ],
)
def test_a_redriven_post_keeps_the_idempotency_key_of_its_first_delivery(first, key):
    """The upstream may have done it then; a header that names no place is not believed."""
    post = Request(url="http://a/", method="POST")
    assert forwarded_headers(record([(DLQ + "first", first)]), post) == {"Idempotency-Key": key}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Example.com/x", "example.com:80"),
        ("https://a.b:8443", "a.b:8443"),
        ("https://[::1]/", "[::1]:443"),
        ("http://a:99999/", None),
        ("http://[", None),
        (None, None),
        ("nonsense", None),
    ],
)
def test_a_host_is_told_with_its_port(url, host):
    """So that letters of one upstream can be chosen, also where the URL leaves the port out."""
    assert origin_of(url).host == host


@pytest.mark.parametrize("headers", [(), [("CE_ID", b"x"), ("id", b"y")]])
def test_without_an_id_it_is_the_record_s_place(headers):
    """Topic, partition and offset make an id that is the same on every repeat."""
    assert read_id(record(headers), None) == default_id(record()) == b'"requests-3-42"'


def test_default_ids_differ_wherever_the_records_do():
    """No two records of a topic have the same default id."""
    ids = [default_id(record(partition=p, offset=o)) for p in (1, 11, 111) for o in (1, 11, 111)]
    assert len(set(ids)) == len(ids)


def test_a_trace_context_is_read():
    """Both headers of W3C Trace Context are found among others."""
    found = forwarded_headers(record([("a", b"b"), ("traceparent", TRACEPARENT), ("tracestate", TRACESTATE)]), GET)
    assert found == {"traceparent": TRACEPARENT.decode(), "tracestate": TRACESTATE.decode()}


BAD_TRACES = [
    ("traceparent", b""),
    ("traceparent", TRACEPARENT.upper()),
    ("traceparent", TRACEPARENT + b"\r\nHost: evil"),
    ("traceparent", TRACEPARENT + b"\n"),
    ("traceparent", b" " + TRACEPARENT),
    ("traceparent", TRACEPARENT[:-1]),
    ("traceparent", b"\xff" * 55),
    ("traceparent", b"ff" + TRACEPARENT[2:]),
    ("traceparent", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01"),
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01"),
    ("Traceparent", TRACEPARENT),
    ("tracestate", b""),
    ("tracestate", b"a=b\r\nHost: evil"),
    ("tracestate", b"a=b\n"),
    ("tracestate", "a=ä".encode()),
    ("tracestate", b"a=" + b"x" * 511),
]


@pytest.mark.parametrize("header", BAD_TRACES)
def test_what_is_no_trace_context_is_not_carried(header):
    """Header injection and other garbage goes neither to the upstream nor to the result."""
    assert forwarded_headers(record([header]), GET) == {}
    assert [name for name, _ in ResultHeaders("s")(b'"a"', [header])][5:] == []


def test_a_result_s_headers_are_those_of_a_cloud_event():
    """Binary mode CloudEvents 1.0, with the request's id and the media type."""
    assert ResultHeaders("/millrace/g")(b'"a-1"', ()) == [
        ("ce_specversion", b"1.0"),
        ("ce_type", b"millrace.result"),
        ("ce_source", b"/millrace/g"),
        ("content-type", b"application/json"),
        ("ce_id", b"a-1"),
    ]


def test_a_result_carries_the_request_s_trace_and_nothing_else():
    """Of the request's headers only its trace context reaches the result."""
    incoming = [("authorization", b"secret"), ("traceparent", TRACEPARENT), ("tracestate", TRACESTATE), ("ce_id", b"x")]
    headers = ResultHeaders("s")(b'"a"', incoming)
    assert headers[4:] == [("ce_id", b"a"), ("traceparent", TRACEPARENT), ("tracestate", TRACESTATE)]


def test_headers_of_one_result_do_not_leak_into_the_next():
    """Each result has a list of its own."""
    make = ResultHeaders("s")
    make(b'"a"', ()).append(("stray", b"1"))
    assert ("stray", b"1") not in make(b'"b"', ())


@settings(deadline=None)
@given(st.text(min_size=1, max_size=128))
def test_the_id_header_is_the_id_s_plain_text(text):
    """Whatever the id holds, the header is its UTF-8, without JSON's quotes and escapes."""
    headers = dict(ResultHeaders("s")(strictjson.quote(text), ()))
    assert headers["ce_id"] == text.encode()


def test_a_dead_letter_says_what_went_wrong_and_where():
    """The headers of KIP-1191 and the outcome follow the request's own."""
    headers = dead_letter_headers(record([("a", b"1"), ("a", b"2")]), "g", b'"i"', Denied("no: ä"), "a:80")
    assert headers == [
        ("a", b"1"),
        ("a", b"2"),
        ("__dlq.errors.topic", b"requests"),
        ("__dlq.errors.partition", b"3"),
        ("__dlq.errors.offset", b"42"),
        ("__dlq.errors.timestamp", b"0"),
        ("__dlq.errors.first", b"requests-3-42"),
        ("__dlq.errors.group", b"g"),
        ("__dlq.errors.delivery.count", b"1"),
        ("__dlq.errors.id", b"i"),
        ("__dlq.errors.host", b"a:80"),
        ("__dlq.errors.message", "no: ä".encode()),
        ("__dlq.errors.outcome", b"denied"),
    ]


def test_a_second_death_replaces_what_the_first_said():
    """A redriven request that fails again has one set of such headers, with its deliveries counted."""
    first = dead_letter_headers(record([("a", b"1")]), "g", b'"i"', Denied("one"))
    second = dead_letter_headers(record([*first, (DLQ + "value.bytes", b"9")], offset=50), "h", b'"i"', TooLarge("two"))
    assert len(second) == len(first)
    assert len(dict(second)) == len(second)
    assert dict(second) == {
        "a": b"1",
        DLQ + "topic": b"requests",
        DLQ + "partition": b"3",
        DLQ + "offset": b"50",
        DLQ + "timestamp": b"0",
        DLQ + "first": b"requests-3-42",
        DLQ + "id": b"i",
        DLQ + "group": b"h",
        DLQ + "delivery.count": b"2",
        DLQ + "message": b"two",
        DLQ + "outcome": b"too_large",
    }


@pytest.mark.parametrize("count", [b"", b"-1", b"x", b"1.5", b"\xb2", "٣".encode(), b"9" * 10, b"9" * 5000])
def test_a_delivery_count_that_is_none_starts_over(count):
    """A planted count that is no small number is not believed."""
    headers = dict(dead_letter_headers(record([(DLQ + "delivery.count", count)]), "g", b'"i"', Denied("x")))
    assert headers[DLQ + "delivery.count"] == b"1"


def test_a_result_too_large_becomes_one_that_says_so():
    """Identity, request and figures stay; document, checks and cache make place for the error."""
    whole = {
        "id": "a",
        "outcome": "ok",
        "request": {"method": "GET", "url": "http://a/"},
        "status": 200,
        "document": "x" * 1000,
        "checks": [],
        "cache": "miss",
        "attempts": 1,
        "elapsed_ms": 1.5,
        "fetched_at": "2023-11-14T22:13:20.250Z",
    }
    given_parcel = parcel(strictjson.dumps(whole), headers=[("ce_id", b"a")])
    shrunk = shrink_result(given_parcel)
    members = ResultSchema().load(strictjson.loads(shrunk.value))
    assert {name: members[name] for name in ("id", "request", "status", "attempts", "elapsed_ms")} == {
        name: whole[name] for name in ("id", "request", "status", "attempts", "elapsed_ms")
    }
    assert members["outcome"] == "too_large"
    assert (
        members["error"]["message"] == f"the result has {given_parcel.size()} bytes, more than the results topic takes"
    )
    assert "document" not in members
    assert shrunk._replace(value=given_parcel.value) == given_parcel
    assert shrunk.size() < given_parcel.size()


def test_a_result_that_cannot_be_told_loses_its_key_and_then_is_given_up():
    """Shrinking ends: first the document goes, then the key, then the result."""
    first = shrink_result(parcel(b'{"id":"a","outcome":"ok","elapsed_ms":1}', key=b"k" * 100))
    second = shrink_result(first)
    assert second == first._replace(key=None)
    assert shrink_result(second) is None


def test_a_result_without_value_is_shrunk_all_the_same():
    """Even what is no result ends in one that says too_large."""
    assert json.loads(shrink_result(parcel(None)).value)["outcome"] == "too_large"


def test_a_dead_letter_too_large_loses_its_value_then_the_rest_and_is_given_up():
    """The value goes first, with its size told, then foreign headers and key, until nothing is left to leave out."""
    headers = dead_letter_headers(record([("a", b"x" * 1000)]), "g", b'"i"', Denied("x"))
    whole = parcel(b"v" * 5000, headers=headers, shrink=shrink_dead_letter)
    first = shrink_dead_letter(whole)
    assert (first.value, first.key) == (None, b"k")
    assert first.headers == [*headers, (DLQ + "value.bytes", b"5000")]
    second = shrink_dead_letter(first)
    assert second.key is None
    assert second.headers == first.headers[1:]
    assert shrink_dead_letter(second) is None


def test_a_tombstone_s_dead_letter_loses_its_key_or_foreign_headers():
    """A dead letter without value is shrunk as long as there is a key or a foreign header."""
    ours = dead_letter_headers(record(), "g", b'"i"', Denied("x"))
    keyed = shrink_dead_letter(parcel(None, headers=ours))
    assert (keyed.key, keyed.headers) == (None, ours)
    assert shrink_dead_letter(parcel(None, key=None, headers=[("a", b"1"), *ours])).headers == ours
    assert shrink_dead_letter(parcel(None, key=None, headers=ours)) is None


NULLS = [("traceparent", None), ("ce_id", None), ("tracestate", None), (DLQ + "delivery.count", None), ("a", None)]


def test_null_headers_are_no_trace_and_no_id():
    """Kafka's headers are nullable: such a one says nothing, and the next of its name counts."""
    assert forwarded_headers(record(NULLS), GET) == {}
    assert forwarded_headers(record([*NULLS, ("traceparent", TRACEPARENT)]), GET) == {
        "traceparent": TRACEPARENT.decode()
    }
    assert read_id(record(NULLS), None) == default_id(record())
    assert read_id(record([*NULLS, ("ce_id", b"x")]), None) == b'"x"'
    assert ResultHeaders("s")(b'"a"', NULLS)[5:] == []


def test_a_dead_letter_keeps_null_headers_and_counts_from_the_start():
    """The original headers go along as they are, null ones too, and a null count is none."""
    headers = dead_letter_headers(record(NULLS), "g", b'"i"', Denied("x"))
    assert headers[:4] == NULLS[:3] + NULLS[4:]
    assert [content for name, content in headers if name == DLQ + "delivery.count"] == [b"1"]


def test_a_null_header_has_no_bytes_but_its_name_s():
    """The size of a parcel counts null headers as empty ones."""
    assert parcel(b"v", headers=NULLS).size() == parcel(b"v", headers=[(name, b"") for name, _ in NULLS]).size()


def test_a_result_with_a_document_as_deep_as_allowed_is_shrunk():
    """A document of depth 64 nests one level further down in its result, which can be shrunk all the same."""
    value = b'{"id":"a","outcome":"ok","document":' + b"[" * 64 + b"]" * 64 + b',"elapsed_ms":1.0}'
    members = json.loads(shrink_result(parcel(value)).value)
    assert (members["id"], members["outcome"]) == ("a", "too_large")


@pytest.mark.parametrize("version", [b"00", b"01", b"fe"])
def test_a_later_trace_version_is_carried(version):
    """Any version but ff may be valid."""
    header = version + TRACEPARENT[2:]
    assert forwarded_headers(record([("traceparent", header)]), GET) == {"traceparent": header.decode()}


def test_a_result_that_nests_too_deep_to_be_read_is_shrunk_to_its_id():
    """A plugin's document may nest deeper than any result that is read: the id is saved, and too_large is told."""
    value = b'{"id":"a","outcome":"ok","document":' + b"[" * 100 + b"]" * 100 + b',"elapsed_ms":1.0}'
    members = json.loads(shrink_result(parcel(value)).value)
    assert (members["id"], members["outcome"]) == ("a", "too_large")


@pytest.mark.parametrize(
    ("method", "headers", "keyed"),
    [
        ("POST", {}, True),
        ("PATCH", {}, True),
        ("POST", {"X": "y"}, True),
        ("POST", {"idempotency-KEY": "own"}, False),
        *((method, {}, False) for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")),
    ],
)
def test_what_must_not_be_repeated_blindly_gets_a_key(method, headers, keyed):
    """Unless the request has one of its own, or its method needs none; beside the trace, if there is one."""
    request = Request(url="http://a/", method=method, headers=headers)
    key = {"Idempotency-Key": "requests-3-42"} if keyed else {}
    assert forwarded_headers(record(), request) == key
    assert forwarded_headers(record([("traceparent", TRACEPARENT)]), request) == key | {
        "traceparent": TRACEPARENT.decode()
    }


def test_a_key_is_the_same_on_every_delivery_and_no_other_record_s():
    """Topic, partition and offset make it; no header of the record's, nor its value, changes it."""
    request = Request(url="http://a/", method="POST")
    places = [(t, p, o) for t in ("requests", "requests-1") for p in (1, 11) for o in (1, 11, 111)]
    keys = [forwarded_headers(record(topic=t, partition=p, offset=o), request)["Idempotency-Key"] for t, p, o in places]
    again = [
        forwarded_headers(record([("ce_id", b"x")], value=b"w", topic=t, partition=p, offset=o), request)[
            "Idempotency-Key"
        ]
        for t, p, o in places
    ]
    assert keys == again
    assert len(set(keys)) == len(places)


def test_a_result_that_is_too_large_keeps_its_context_as_long_as_it_can():
    """The context outlives the document, digit for digit, and goes before the key."""
    shared = encode_answer(GET, Answer("ok", 200, "x" * 9000, has_document=True, attempts=1, fetched_at=1.0))
    context = b'{"n": 1.10, "outcome": "ok"}'
    first = shrink_result(parcel(splice(with_context(b'"a"', context), shared, b"hit", 1.0, 0.1)))
    assert context_of(first.value) == context
    assert json.loads(first.value)["outcome"] == "too_large"
    second = shrink_result(first)
    assert (json.loads(second.value), second.key) == (
        {name: value for name, value in json.loads(first.value).items() if name != "context"}, b"k"
    )  # fmt: skip
    assert shrink_result(second) == second._replace(key=None)


def test_a_result_that_is_too_large_by_its_sender_s_headers_loses_them_last():
    """The worker's own headers stay."""
    own = [*ResultHeaders("s")(b'"a"', [("traceparent", TRACEPARENT)]), ("millrace_record", b"t-1-2")]
    whole = parcel(b'{"id":"a","outcome":"too_large"}', key=None, headers=[*own, ("tenant", b"x" * 9000)])
    assert shrink_result(whole) == whole._replace(headers=own)
    assert shrink_result(shrink_result(whole)) is None
