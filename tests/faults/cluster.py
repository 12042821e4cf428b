"""Three brokers of Apache Kafka, each a controller too, every partition on all three; clients reach them by proxies."""

from __future__ import annotations

import base64
import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Self

from agents.testing.broker import JVM, START_TIMEOUT, free_port, jars

NODES = (1, 2, 3)
HEAP = "-Xmx400m"
STOP_LIMIT = 60.0
"""Seconds for a broker to stop: it first hands over what it leads."""
USER, PASSWORD = "worker", "loopback"
"""Who logs in where brokers want that; each login is for 8 s."""
_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"
_COMMON = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "INSIDE",
    "listener.security.protocol.map": "INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT,LOGIN:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.login.plain.sasl.jaas.config": f'{_MODULE} required user_{USER}="{PASSWORD}";',
    "listener.name.login.plain.connections.max.reauth.ms": "8000",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "transaction.state.log.num.partitions": "5",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "broker.session.timeout.ms": "6000",
    "replica.lag.time.max.ms": "5000",
    "log.retention.check.interval.ms": "2000",
}


class Node:
    """One broker. Tests and other brokers reach it `inside`, proxies `outside`; `login` wants one."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.folder = folder / f"node-{number}"
        self.data = self.folder / "data"
        self.inside, self.outside, self.login, self.controller = (free_port() for _ in range(4))
        self.advertised = self.outside
        """The port that clients get to know: a proxy's."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def up(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self.process is not None and self.process.poll() is None

    def write(self, nodes: list[Node]) -> None:
        """Write its properties."""
        own = {
            "node.id": str(self.number),
            "controller.quorum.voters": ",".join(f"{node.number}@127.0.0.1:{node.controller}" for node in nodes),
            "listeners": f"INSIDE://127.0.0.1:{self.inside},OUTSIDE://127.0.0.1:{self.outside},"
            f"LOGIN://127.0.0.1:{self.login},CONTROLLER://127.0.0.1:{self.controller}",
            "advertised.listeners": f"INSIDE://127.0.0.1:{self.inside},OUTSIDE://127.0.0.1:{self.advertised},"
            f"LOGIN://127.0.0.1:{self.login}",
            "log.dirs": str(self.data),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{name}={value}\n" for name, value in (_COMMON | own).items())
        (self.folder / "server.properties").write_text(text)

    def java(self, program: str, *arguments: str) -> list[str]:
        """Return a command that runs one of Kafka's programs."""
        options = [option for option in JVM if not option.startswith("-Xmx")]
        return ["java", HEAP, *options, "-cp", f"{jars()}/*", program, *arguments]

    def format(self, cluster: str) -> None:
        """Prepare its folder."""
        command = self.java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c",
                            str(self.folder / "server.properties"))  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)

    def start(self) -> None:
        """Start its process; `until_up` waits for it."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.java("kafka.Kafka", str(self.folder / "server.properties")),
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def until_up(self) -> None:
        """Wait until it accepts connections."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self.up:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.inside), 1):
                return
            time.sleep(0.1)
        raise AssertionError(f"broker {self.number} did not start: {(self.folder / 'log').read_text()[-1500:]}")

    def send(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        if self.process is not None and self.up:
            self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End its process and wait until it is gone."""
        if self.process is None:
            return
        self.send(number)
        self.send(signal.SIGCONT)
        try:
            self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and start it anew."""
        self.end(number)
        self.start()
        self.until_up()


class Cluster:
    """Opened with `with`, once each node's `advertised` port is what clients are to use."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="millrace-cluster-"))
        self.nodes = [Node(number, self._folder) for number in NODES]

    @property
    def servers(self) -> str:
        """Return the addresses past the proxies: for load, checker and administration."""
        return ",".join(f"127.0.0.1:{node.inside}" for node in self.nodes)

    @property
    def advertised(self) -> str:
        """Return the addresses that workers get."""
        return ",".join(f"127.0.0.1:{node.advertised}" for node in self.nodes)

    @property
    def login(self) -> str:
        """Return the addresses that want a login, past the proxies."""
        return ",".join(f"127.0.0.1:{node.login}" for node in self.nodes)

    def __enter__(self) -> Self:
        try:
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            for node in self.nodes:
                node.write(self.nodes)
                node.format(cluster)
            for node in self.nodes:
                node.start()
            for node in self.nodes:
                node.until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.end(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def heal(self) -> None:
        """Bring every node back: thawed, or started if it is gone."""
        for node in self.nodes:
            node.send(signal.SIGCONT)
        for node in self.nodes:
            if not node.up:
                node.start()
        for node in self.nodes:
            node.until_up()

    def node(self, number: int) -> Node:
        """Return a node by its id."""
        return self.nodes[number - 1]
