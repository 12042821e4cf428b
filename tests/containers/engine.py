"""A Docker engine of the tests' own: Debian's dockerd, with everything of it in a temporary folder, gone afterwards.

It changes nothing on the machine: no firewall rules (containers reach each other over their bridge and the host over
its published ports, which are on loopback; nothing else is to be reached), no forwarding, no bridge left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.debian import PATH, run

START_LIMIT = 60.0
"""Seconds for the engine to answer."""
STOP_LIMIT = 60.0
"""Seconds for it to end, and its containers before it."""
CLIENT = "/usr/bin/docker"
"""Debian's client: another on PATH may be newer than Debian's engine understands."""
COMPOSE = "/usr/bin/docker-compose"
NEEDED = {"dockerd": "docker.io", CLIENT: "docker.io", COMPOSE: "docker-compose", "containerd": "containerd",
          "ip": "iproute2", "setpriv": "util-linux"}  # fmt: skip
"""What must be there, and Debian's package that has it."""
SUBNETS = "10.{}.0.1/24"
POOLS = "10.{}.128.0/17"
TAKEN = range(200, 250)
"""Second bytes of the networks of which the engine gets one that the machine does not use."""


class EngineError(Exception):
    """The engine cannot be had; the message says what is missing."""


class Engine:
    """Opened with `with`. `docker` and `compose` run Debian's clients against it."""

    def __init__(self) -> None:
        missing = {package for name, package in NEEDED.items() if shutil.which(name, path=PATH) is None}
        if missing:
            raise EngineError("apt-get install " + " ".join(sorted(missing)))
        if os.geteuid() != 0:
            msg = "a Docker engine needs root"
            raise EngineError(msg)
        self._folder = Path(tempfile.mkdtemp(prefix="millrace-engine-"))
        self._bridge = f"mill{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self.host = f"unix://{self._folder}/socket"
        self.environment = {"PATH": PATH, "HOME": str(self._folder), "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0",
                            "DOCKER_CONFIG": str(self._folder)}  # fmt: skip
        """What a client needs to find this engine, and none of the user's configuration."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        used = run("ip", "-4", "-o", "route", "show", "table", "all")
        number = next(number for number in TAKEN if f"10.{number}." not in used)
        run("ip", "link", "add", "name", self._bridge, "type", "bridge")
        run("ip", "addr", "add", SUBNETS.format(number), "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")
        folders = [f"--{name}={self._folder / name}" for name in ("data-root", "exec-root", "pidfile")]
        networks = ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        networks += [f"--bridge={self._bridge}", f"--default-address-pool=base={POOLS.format(number)},size=24"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # Should the tests themselves be killed, the engine is told to end.
                ["setpriv", "--pdeathsig", "TERM", "dockerd", *folders, *networks, f"--host={self.host}"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ | self.environment,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self._folder / "socket"))
                self.docker("version")
                return
            time.sleep(0.1)
        raise EngineError(f"the engine did not start:\n{self._log.read_text()[-2000:]}")

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(subprocess.SubprocessError):
                for name in self.docker("ps", "--all", "--quiet").split():
                    self.docker("rm", "--force", "--volumes", name)
                self.docker("network", "prune", "--force")
            process.terminate()
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self._end_containerd()
        for line in Path("/proc/mounts").read_text().splitlines():
            if (place := line.split()[1]).startswith(f"{self._folder}/"):
                subprocess.run(["umount", "--lazy", place], check=False)
        if Path(f"/sys/class/net/{self._bridge}").exists():
            run("ip", "link", "delete", self._bridge)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end_containerd(self) -> None:
        """End what the engine started and could not end itself."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self._folder / "exec-root" / "containerd" / "containerd.pid").read_text()), 9)

    def docker(self, *arguments: str | Path, stdin: bytes | None = None) -> str:
        """Run `docker` and return what it prints. Raises CalledProcessError."""
        return run(CLIENT, *arguments, stdin=stdin, env=self.environment)

    def compose(self, *arguments: str | Path, **environment: str) -> str:
        """Run `docker-compose` and return what it prints. Raises CalledProcessError."""
        return run(COMPOSE, *arguments, env=self.environment | environment)
