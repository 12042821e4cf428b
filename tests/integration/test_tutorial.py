"""docs/tutorial.md, from the first command to the last, in one shell and an empty folder: a project is made, its test
passes and its demo runs on the best broker found.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from agents.testing.broker import Broker, free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r"^(docker|kubectl|make image)\b.*\n", re.MULTILINE)
"""Commands that need an engine or a cluster; tests/containers and tests/unit/deploy are about what they use."""
PATIENCE = 300.0
"""Seconds for all of it: three starts of a worker, two of a broker."""
SEEN = (
    "5 records sent, 5 came out",
    "5 passed",
    '"country": "DE","rate":1.0873',
    "6 records sent, 6 came out",
    '"country": "FR","rate":161.20',
)
"""What the commands print, in this order."""
PORT = "8642"
"""The upstream's port on the page."""


def blocks() -> list[str]:
    """Return the page's blocks of commands, without those that are not run."""
    return [NOT_RUN.sub("", block) for block in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


async def test_the_tutorial_can_be_followed(kafka: Broker, tmp_path: Path) -> None:
    """Every command ends with 0, and what the page promises is seen."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("KAFKA_", "MILLRACE_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.servers,
        "MILLRACE_WEB_PORT": "0",
    }
    script = "\n".join(["set -euo pipefail", *blocks()]).replace(PORT, str(free_port()))
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, env=environment, cwd=tmp_path,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    said = out.decode()
    assert process.returncode == 0, said
    assert [text for text in SEEN if text not in said] == []
