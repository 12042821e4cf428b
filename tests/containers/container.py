"""One container of our image, run as an operator should: nothing to write to, no rights, a limit of memory."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from tests.containers.conftest import IMAGE
from tests.containers.engine import Engine

PATIENCE = 90.0
"""Seconds for a container to become what a test waits for."""
STOP_LIMIT = 30
"""Seconds that the engine gives a container to end, as docker-compose.yml does."""
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "768m",
            "--memory-swap", "768m", "--pids-limit", "256")  # fmt: skip


class Container:
    """Started at once; it is removed when the engine ends."""

    def __init__(self, engine: Engine, *command: str, image: str = IMAGE, **environment: str) -> None:
        self._engine = engine
        # The host's network, so that the tests' own broker and upstream on loopback can be reached.
        variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        self.id = engine.docker("run", "--detach", "--network", "host", *HARDENED, *variables, image, *command)

    @property
    def state(self) -> dict[str, Any]:
        """What the engine says of it."""
        return inspected(self._engine, self.id)["State"]

    @property
    def logs(self) -> str:
        """What it wrote, to stdout and stderr."""
        found = subprocess.run(["/usr/bin/docker", "logs", self.id], capture_output=True, check=True,
                               env=self._engine.environment)  # fmt: skip
        return (found.stdout + found.stderr).decode()

    def execute(self, *command: str) -> str:
        """Run a command in it and return what that prints. Raises CalledProcessError."""
        return self._engine.docker("exec", self.id, *command)

    def until_healthy(self) -> None:
        """Wait until its own health check says so."""
        until(self._engine, self.id, "healthy")

    def until_logged(self, text: str) -> None:
        """Wait until it has written something."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.logs:
            assert time.monotonic() < deadline, self.logs
            time.sleep(0.2)

    def stop(self) -> tuple[int, float]:
        """Have it stopped; returns its exit code and the seconds that it took."""
        began = time.monotonic()
        self._engine.docker("stop", "--time", str(STOP_LIMIT), self.id)
        return self.state["ExitCode"], time.monotonic() - began


def inspected(engine: Engine, name: str) -> dict[str, Any]:
    """Return what the engine knows of a container."""
    found: dict[str, Any] = json.loads(engine.docker("inspect", name))[0]
    return found


def until(engine: Engine, name: str, health: str) -> None:
    """Wait until a container's health check says this."""
    deadline = time.monotonic() + PATIENCE
    while (state := inspected(engine, name)["State"])["Health"]["Status"] != health:
        assert state["Running"], f"ended with {state['ExitCode']}: " + engine.docker("logs", name)
        assert time.monotonic() < deadline, state["Health"]
        time.sleep(0.2)
