"""Quix Streams: a streaming dataframe with one `apply`, blocking requests over a kept session, as its guide has it."""

from __future__ import annotations

from agents.entry import EntryPoint

if __name__ == "__main__":  # first: it needs neither the libraries nor the settings below
    EntryPoint(
        "bench.peers.with_quix", f"{__doc__}\nA worker that `python -m bench.peers` starts, with its settings."
    ).begin()

import os
import time

import requests
from quixstreams import Application
from quixstreams.context import message_context

from bench.peers.same import checked, headers, result

known: dict[str, tuple[object, float, list[dict]]] = {}
session = requests.Session()
app = Application(
    broker_address=os.environ["KAFKA_BOOTSTRAP_SERVERS"], consumer_group=os.environ["MILLRACE_GROUP"],
    auto_offset_reset="earliest", auto_create_topics=False, loglevel="ERROR",
    producer_extra_config={"linger.ms": 5, "enable.idempotence": True},
)  # fmt: skip
incoming = app.topic(os.environ["MILLRACE_REQUESTS_TOPIC"], key_deserializer="bytes", value_deserializer="json")
outgoing = app.topic(os.environ["MILLRACE_RESULTS_TOPIC"], key_serializer="bytes", value_serializer="json")


def answer(request: dict) -> dict:
    url, cache = request["url"], "hit"
    if url not in known:
        cache = "miss"
        document = session.get(url, timeout=30).json()
        known[url] = document, time.time(), checked(request, document)
    return result(request, message_context(), known[url], cache)


results = app.dataframe(incoming).apply(answer)
results = results.set_headers(lambda made, *_: headers(made["id"]))
results.to_topic(outgoing)

if __name__ == "__main__":
    app.run()
