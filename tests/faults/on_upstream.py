"""Faults of the upstream: what it answers, and where its name leads."""

from __future__ import annotations

import asyncio
import json
import sys

from tests.faults.fault import Act
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene, need_root

EACH = 40
"""Requests of one fault."""
NAME = "moving.test"


async def ask(scene: Scene, url: str, mark: str, **more: object) -> None:
    """Put `EACH` requests between the steady ones, ten a second, each with a result to come."""
    for number in range(EACH):
        name = scene.load.name(mark)
        value = {"id": name, "url": url.format(number), "timeout": 4, **more}
        scene.load.put(json.dumps(value).encode(), b"%s" % name.encode(), name)
        await asyncio.sleep(0.1)


def answers(path: str, mark: str = "") -> Act:
    """Ask for what the upstream answers badly; the names of these requests begin with the path, or with a mark."""

    async def act(scene: Scene) -> None:
        await ask(scene, scene.load.url + path, mark or path.strip("/").partition("?")[0])

    return act


async def no_such_name(scene: Scene) -> None:
    """Ask for a host that no name server knows."""
    await ask(scene, "http://nowhere.invalid:8080/doc/{}", "nowhere")


async def named(scene: Scene) -> None:
    """Give workers a file of hosts of their own, in which the upstream has a name."""
    need_root()
    scene.hosts = scene.folder() / "hosts"
    scene.hosts.write_text(f"127.0.0.1 {NAME}\n")
    scene.load.url = f"http://{NAME}:{scene.gate.port}"
    mount = f'mount --bind {scene.hosts} /etc/hosts && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-m", "millrace", "worker"]
    scene.command = ("-c", f"import os; os.execvp('unshare', {command})")


async def name_moves(scene: Scene) -> None:
    """The name leads elsewhere from now on, and where it led nobody listens."""
    assert scene.hosts is not None
    await scene.open(Proxy(int(scene.upstream.url.rpartition(":")[2]), "127.0.0.3", scene.gate.port))
    scene.hosts.write_text(f"127.0.0.3 {NAME}\n")
    await scene.gate.close()
    await asyncio.sleep(10)
