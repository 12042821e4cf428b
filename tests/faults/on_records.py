"""Faults of records and of what they ask for."""

from __future__ import annotations

import asyncio
import json

from tests.faults.scene import Scene


async def poison(scene: Scene) -> None:
    """Records that are no requests, tombstones, some as large as Kafka takes, some whose results would be larger."""
    for number in range(200):
        scene.load.put([b"\xff\x00", None, b"{", b"[1]", b'{"url": 1}'][number % 5], b"p%d" % number)
        if number % 50 == 0:
            name = scene.load.name("big")
            big = {"id": name, "url": f"{scene.load.url}/doc/1", "context": {"pad": "x" * 900_000}}
            scene.load.put(json.dumps(big).encode(), b"big", name)
            name = scene.load.name("larger")
            larger = {"id": name, "url": f"{scene.load.url}/doc/{number}?size=2000000"}
            scene.load.put(json.dumps(larger).encode(), b"larger", name)
        await asyncio.sleep(0.02)
