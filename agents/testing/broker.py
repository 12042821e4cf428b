"""Provides a broker for the demo, the tests and the bench: the best that is available.

In this order: KAFKA_BOOTSTRAP_SERVERS if set; a container, if a Docker engine answers and has the image; Apache
Kafka itself from Maven, if java 17 and mvn are there; else librdkafka's mock, in the confluent-kafka wheel.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from agents.entry import EntryPoint
from models.errors import BrokerError

KAFKA_VERSION = os.environ.get("MILLRACE_KAFKA_VERSION", "4.3.0")
"""The release of Apache Kafka that is started here; the environment may name another, as `make compat` does."""
IMAGE = f"apache/kafka:{KAFKA_VERSION}"
CONTAINER_CONTROLLER_PORT = 9093
"""Port of the controller inside a container."""
START_TIMEOUT = 120.0
"""Seconds for a broker to accept connections: it takes 5 of CPU, and four may start at once on a busy machine."""
STOP_TIMEOUT = 15.0
"""Seconds for a broker to stop."""
JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Options for a JVM that is small and starts quickly, for minutes of use."""
MIN_JAVA = 17

PURPOSE = """Starts a temporary broker, prints its address on stdout, and stops it on Ctrl-C.

In this order: Apache Kafka in a container, if a Docker engine has its image; Apache Kafka from Maven, if java 17 and
mvn are there; else the mock cluster of librdkafka. If KAFKA_BOOTSTRAP_SERVERS is set, nothing is started, and its
address is printed.
"""

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>millrace</groupId><artifactId>broker</artifactId><version>1</version>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
</dependencies>
</project>
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker: its description and address. `apache` is None unless it was started here on Java."""

    kind: str
    servers: str
    apache: Apache | None = None

    @property
    def real(self) -> bool:
        """Whether this is Kafka rather than a mock."""
        return not self.kind.startswith("mock")


@contextlib.contextmanager
def broker(*, need_real: bool = False, own: bool = False) -> Iterator[Broker]:
    """Yield a broker, and stop it afterwards if it was started here. With `own`, one is started whatever
    KAFKA_BOOTSTRAP_SERVERS says. Raises BrokerError if none is available.
    """
    given = "" if own else os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield Broker("the Kafka of KAFKA_BOOTSTRAP_SERVERS", given)
        return
    if docker_has_image():
        with _container() as servers:
            yield Broker(f"Apache Kafka {KAFKA_VERSION} in Docker", servers)
        return
    if java_found():
        with Apache() as apache:
            yield Broker(f"Apache Kafka {KAFKA_VERSION} on Java", apache.servers, apache)
        return
    if need_real:
        msg = "no Apache Kafka: set KAFKA_BOOTSTRAP_SERVERS, or install Docker, or Java 17 and Maven"
        raise BrokerError(msg)
    with _mock() as servers:
        yield Broker("mock cluster of librdkafka (no Kafka, Docker or Java found)", servers)


def docker_has_image() -> bool:
    """Whether a Docker engine responds and has Kafka's image: no image is pulled unasked."""
    if importlib.util.find_spec("testcontainers") is None or shutil.which("docker") is None:
        return False
    inspect = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False, timeout=10)  # noqa: S603, S607
    return inspect.returncode == 0


@contextlib.contextmanager
def _container() -> Iterator[str]:
    # testcontainers' own KafkaContainer starts only Confluent's images; Apache's is configured by its environment.
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415

    port, controller = free_port(), CONTAINER_CONTROLLER_PORT
    testcontainers_config.ryuk_disabled = (
        True  # its reaper would be another image to pull; this process stops what it starts
    )
    container = DockerContainer(IMAGE)
    container.ports[port] = ("127.0.0.1", port)  # with_bind_ports would bind all addresses, open to any machine
    for name, value in {
        **_single_node(port, controller, listen="0.0.0.0", host="localhost"),  # noqa: S104  inside the container
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }.items():
        container = container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
    with container.waiting_for(LogMessageWaitStrategy("Kafka Server started")):
        yield f"localhost:{port}"


def java_found() -> bool:
    """Whether there is a Java that runs Kafka, and the jars, or Maven to fetch them."""
    if shutil.which("java") is None:
        return False
    version = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False, timeout=30).stderr  # noqa: S607
    digits = version.partition('"')[2].partition(".")[0]
    return digits.isdecimal() and int(digits) >= MIN_JAVA and (shutil.which("mvn") is not None or _jars_there())


def jars() -> Path:
    """Return the folder with Kafka's jars, which Maven fetches once per version. Raises BrokerError."""
    folder = _cache() / "jars"
    if _jars_there():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        (work / "pom.xml").write_text(_POM.format(version=KAFKA_VERSION))
        goal = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={work / 'jars'}"]
        done = subprocess.run(goal, cwd=work, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            msg = f"Maven could not fetch Apache Kafka: {(done.stdout + done.stderr).strip()[-500:]}"
            raise BrokerError(msg)
        with contextlib.suppress(OSError):  # another process was quicker
            (work / "jars").rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "millrace" / f"kafka-{KAFKA_VERSION}-{hashlib.sha256(_POM.encode()).hexdigest()[:8]}"


def _jars_there() -> bool:
    return any((_cache() / "jars").glob("kafka_2.13-*.jar"))


class Apache:
    """A single-node Apache Kafka in a temporary folder; may be stopped and started again.

    `listeners` are additional ones: security protocols by name; `listening` has their addresses. `scram` has passwords
    by user, for both SCRAM mechanisms. `overrides` are other settings of the broker.
    """

    def __init__(
        self, listeners: Mapping[str, str] | None = None, scram: Mapping[str, str] | None = None, **overrides: str
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="millrace-kafka-"))
        self._port, self._controller = free_port(), free_port()
        self._protocols = dict(listeners or {})
        self._scram = dict(scram or {})
        self.listening = {name: f"127.0.0.1:{free_port()}" for name in self._protocols}
        self._overrides = overrides
        self._process: subprocess.Popen[bytes] | None = None
        self.servers = f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        try:
            self._classpath = f"{jars()}/*"
            self._format()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the broker and wait until it accepts connections. Raises BrokerError with the end of its log."""
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(  # noqa: S603
                ["java", *JVM, "-cp", self._classpath, "kafka.Kafka", str(self._properties)],  # noqa: S607
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return
            time.sleep(0.05)
        end = (self._folder / "log").read_text(errors="replace")[-1000:]
        self.stop()
        msg = f"Apache Kafka did not start:\n{end}"
        raise BrokerError(msg)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the broker orderly, or kill it."""
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def _properties(self) -> Path:
        return self._folder / "server.properties"

    def _format(self) -> None:
        settings = _single_node(self._port, self._controller, listen="127.0.0.1", host="127.0.0.1")
        for name, place in self.listening.items():
            settings["listeners"] += f",{name}://{place}"
            settings["advertised.listeners"] += f",{name}://{place}"
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"} | self._protocols
        settings["listener.security.protocol.map"] = ",".join(f"{name}:{each}" for name, each in protocols.items())
        settings |= {"log.dirs": str(self._folder / "data"), **self._overrides}
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        # With `=`: an identity may begin with a dash, which a separate argument may not.
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = ["java", *JVM, "-cp", self._classpath, "kafka.tools.StorageTool", "format",
                f"--cluster-id={identity}", "-c", str(self._properties)]  # fmt: skip
        for user, password in self._scram.items():
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                tool += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        done = subprocess.run(tool, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            msg = f"Apache Kafka's storage could not be formatted: {(done.stdout + done.stderr).strip()[-500:]}"
            raise BrokerError(msg)


def _single_node(port: int, controller: int, *, listen: str, host: str) -> dict[str, str]:
    """Return the settings of a single-node broker, which binds `listen` and advertises `host`."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{host}:{controller}",
        "listeners": f"PLAINTEXT://{listen}:{port},CONTROLLER://{listen}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{host}:{port}",
        "controller.listener.names": "CONTROLLER",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "5",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
    }


@contextlib.contextmanager
def _mock() -> Iterator[str]:
    try:
        import confluent_kafka  # noqa: PLC0415  an extra
    except ImportError:
        msg = "no broker: set KAFKA_BOOTSTRAP_SERVERS, or install Docker, or Java 17 and Maven, or millrace-kafka[demo]"
        raise BrokerError(msg) from None
    owner: Any = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    metadata = owner.list_topics(timeout=START_TIMEOUT)
    node = next(iter(metadata.brokers.values()))
    yield f"{node.host}:{node.port}"
    owner.flush(0)


def free_port() -> int:
    """Return a TCP port on loopback that was just free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Run a temporary broker: print its address, and stop it on Ctrl-C. `python -m agents.testing.broker`."""
    parser = EntryPoint("agents.testing.broker", PURPOSE)
    parser.add_argument("--own", action="store_true", help="start one even if KAFKA_BOOTSTRAP_SERVERS is set")
    options = parser.begin()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: background jobs of a shell inherit it ignored
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), broker(own=options.own) as found:
        sys.stderr.write(f"{found.kind}; Ctrl-C ends it\n")
        sys.stdout.write(f"{found.servers}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
