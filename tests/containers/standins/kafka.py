"""Stands in for the entrypoint of apache/kafka: settings from KAFKA_* variables, storage formatted once, Kafka."""

import os
import subprocess
from pathlib import Path

JAVA = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", "/opt/kafka/libs/*"]
PROPERTIES = Path("/tmp/server.properties")
CLUSTER = "5L6g3nShT-eMCtK--X86sw"
NAMES = {name: name[6:].lower().replace("_", ".") for name in os.environ if name.startswith("KAFKA_")}

PROPERTIES.write_text("".join(f"{setting}={os.environ[name]}\n" for name, setting in NAMES.items()))
subprocess.run([*JAVA, "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER, "-c", PROPERTIES],
               check=True)  # fmt: skip
os.execvp("java", [*JAVA, "kafka.Kafka", str(PROPERTIES)])
