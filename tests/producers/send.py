"""Requests by confluent-kafka, and one tombstone, whose key is the codec: SERVERS TOPIC CODEC COUNT URL."""

from __future__ import annotations

import json
import sys

from confluent_kafka import Producer

servers, topic, codec, count, url = sys.argv[1:]
producer = Producer({"bootstrap.servers": servers, "compression.type": codec, "linger.ms": 200})
headers = [("own", "ü".encode()), ("none", None)]
for number in range(int(count)):
    value = json.dumps({"id": f"{codec}-{number}", "url": f"{url}/doc/{number % 7}"})
    producer.produce(topic, value, key=b"%d" % number, headers=headers)
producer.produce(topic, None, key=codec.encode(), headers=headers)
sys.exit(producer.flush(60))
