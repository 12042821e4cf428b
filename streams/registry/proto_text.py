"""Protobuf schemas as .proto text, as Java's serializers register them: compiled by `protoc`, where it is installed.

A registry that knows `format=serialized` returns them compiled; Apicurio 2.6 does not. Blocks: used in a thread.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

PROTOC_TIMEOUT: Final = 10.0
"""Seconds that compiling a schema may take."""
MAX_REASON: Final = 300
"""Characters of protoc's message."""


def protoc() -> str | None:
    """Return the path of `protoc`: beside this Python, as a package brings it, or on the PATH."""
    return shutil.which("protoc", path=str(Path(sys.executable).parent)) or shutil.which("protoc")


def compiled(program: str, texts: Mapping[str, str], known: DescriptorPool) -> list[FileDescriptorProto]:
    """Return the files of these names, each after those that it imports; `known` has others that they may import.

    Raises ValueError for what does not compile.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-proto-") as folder:
        root = Path(folder)
        for name, text in texts.items():
            _write(root, name, text)
        found, known_set = root / ".found", root / ".known"
        known_set.write_bytes(_known_files(known, texts).SerializeToString())
        command = [program, f"--proto_path={root}", f"--descriptor_set_in={known_set}", "--include_imports",
                   f"--descriptor_set_out={found}", *texts]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, timeout=PROTOC_TIMEOUT, check=False, cwd=root)  # noqa: S603  no shell; names are checked
        except (subprocess.TimeoutExpired, OSError) as exc:
            msg = f"protoc failed: {exc}"
            raise ValueError(msg[:MAX_REASON]) from None
        if done.returncode:
            raise ValueError(_reason(done.stderr, root))
        return list(FileDescriptorSet.FromString(found.read_bytes()).file)


def _write(root: Path, name: str, text: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or any(each.startswith((".", "-")) for each in path.parts):
        msg = f"it imports {name[:80]!r}, which is no file's name"
        raise ValueError(msg)
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _known_files(known: DescriptorPool, texts: Mapping[str, str]) -> FileDescriptorSet:
    """Return the files of a pool that these texts import, each after its own imports."""
    found: dict[str, FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name in found or name in texts:
            return
        try:
            file = known.FindFileByName(name)
        except KeyError:
            return  # protoc names it
        made = FileDescriptorProto()
        file.CopyToProto(made)
        for each in made.dependency:
            add(each)
        found[name] = made

    for text in texts.values():
        for part in text.split('"')[1::2]:
            add(part)
    return FileDescriptorSet(file=found.values())


def _reason(output: bytes, root: Path) -> str:
    text = output.decode(errors="replace").replace(f"{root}/", "").strip() or "protoc says nothing"
    return f"not a Protobuf schema: {text[:MAX_REASON]}"
