from __future__ import annotations

import base64
import json

import pytest

from models.errors import InvalidRequest
from models.request import Request, parse

URL = "http://example.org/"
ATTRIBUTES = {"specversion": "1.0", "id": "e1", "source": "/shop", "type": "order"}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(**members):
    """Return the bytes of an event; None leaves an attribute out."""
    return json.dumps({name: each for name, each in {**ATTRIBUTES, **members}.items() if each is not None}).encode()


def refusal(value):
    with pytest.raises(InvalidRequest) as caught:
        parse(value)
    return str(caught.value)


@pytest.mark.parametrize("own", [None, "mine"])
@pytest.mark.parametrize("encoded", [False, True])
def test_the_data_of_an_event_is_the_request(own, encoded):
    """As JSON or base64; the request's own id goes before the event's."""
    request = {"url": URL, "timeout": 5} | ({"id": own} if own else {})
    data = {"data_base64": base64.b64encode(json.dumps(request).encode()).decode()} if encoded else {"data": request}
    value = event(**data, time="2026-01-01T00:00:00Z", datacontenttype="application/json", subject="x", other=1)
    assert parse(value) == (own or "e1", Request(URL, timeout=5.0, trace=()))


def test_an_event_s_request_may_have_anything_that_a_request_has():
    """Sources, contexts and digits are as in a request by itself."""
    text = b'{"source":"s","params":{"n":1.10},"context":{"n":0.29999999999999998}}'
    value = event(data=0).replace(b'"data": 0', b'"data": ' + text)
    request = parse(value)[1]
    assert request._replace(trace=None) == parse(text)[1]
    assert str(request.params["n"]) == "1.10"


@pytest.mark.parametrize(
    ("given", "trace"),
    [
        ({"traceparent": TRACEPARENT}, (("traceparent", TRACEPARENT.encode()),)),
        ({"tracestate": "a=1", "traceparent": "x"}, (("traceparent", b"x"), ("tracestate", b"a=1"))),
        ({"traceparent": 1}, ()),
    ],
)
def test_the_trace_of_an_event_is_kept(given, trace):
    """Whether it is valid is seen where headers are."""
    assert parse(event(data={"url": URL}, **given))[1].trace == trace
    assert parse(json.dumps({"url": URL}).encode())[1].trace is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (event(), "data: missing: it is the request"),
        (event(data={"url": URL}, data_base64="e30="), "data: not with data_base64: give one of them"),
        (event(data_base64=1), "data_base64: must be a string, not a number"),
        (event(data_base64="e30"), "data_base64: is not base64"),
        (event(data_base64="\u00e4"), "data_base64: is not base64"),
        (event(data_base64=base64.b64encode(b"{").decode()), "data_base64: not JSON: "),
        (event(data=[]), "a request is a JSON object, not an array"),
        (event(data='{"url": 1}'), "the value is a JSON string that holds JSON: it was encoded twice"),
        (event(data={"url": "ftp://a/"}), "url: must be an absolute http"),
        (event(data=json.loads(event(data={"url": URL}))), "unknown field"),
        (event(specversion="0.3", data={"url": URL}), "specversion: only CloudEvents 1.0 are read, not '0.3'"),
        (event(specversion=1, data={"url": URL}), "specversion: only CloudEvents 1.0 are read, not '1'"),
        *((event(data={"url": URL}, **{name: each}), f"{name}: required in a CloudEvent, as a non-empty string")
          for name in ("id", "source", "type") for each in (None, "", 1)),
        (event(data={"url": URL}, id="x" * 129), "id: must have 1 to 128 characters, not 129"),
        (event(data={"url": URL}, id="a\nb"), "id: has a control character, which a CloudEvent id must not contain"),
        (b"[%b]" % event(data={"url": URL}), "a batch of CloudEvents"),
    ],
)  # fmt: skip
def test_an_event_that_holds_no_request_is_refused_with_the_reason(value, reason):
    """The reason names the attribute of the event, or the field of the request."""
    assert reason in refusal(value)
