"""A folder of entries: one file each, written whole or not at all, checked whenever it is read.

A file is `<path>/<first two hex of the digest>/<key>.entry`: a magic with the version, the expiry in seconds since the
epoch, the payload's length, a checksum over key, expiry and payload, and the payload. Workers may share a folder:
that a file vanishes is normal, and at worst a sweep takes an entry that was just renewed, which is a miss.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import secrets
import stat
import struct
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from streams.config.cache_url import MIB, FileTier

T = TypeVar("T")

MAX_ENTRY_BYTES = 64 * MIB
"""Bytes of a value that is stored, and of one that is read."""
TEMPORARY_AGE = 3600.0
"""Seconds after which the writer of a temporary file is considered dead."""
CLOCK_SLACK = 60.0
"""Seconds that an expiry may be beyond the tier's timeout: further off, a clock was wrong or the timeout longer."""
SWEEP_SHARE = 0.1
"""Share of the threshold that a sweep makes room for, and that may be stored until the next one."""
KEY = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]{40}")
"""Source tag, target tag, digest."""

_SHARD = slice(26, 28)
_NAME = re.compile(rf"({KEY.pattern.decode()})\.(?:(entry)|\d+-[0-9a-f]{{8}}-\d+\.tmp)")
_FOLDER = re.compile(r"[0-9a-f]{2}")
_HEADER = struct.Struct(">8sdQ16s")
_MAGIC = b"mrcache1"
# A FIFO must not hang, a symlink not lead elsewhere.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOREIGN = (errno.ELOOP, errno.EISDIR, errno.ENXIO)  # how opening a symlink, a folder, a socket fails
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Walked(NamedTuple, Generic[T]):
    """What a walk through all files found or did, and what failed on the way."""

    found: T
    errors: list[OSError]


class _ForeignError(Exception):
    """Something with an entry's name that is not a regular file."""


class Folder:
    """The entries of a tier. All of it works at the disk and raises OSError. `clock` gives seconds since the epoch."""

    def __init__(self, tier: FileTier, clock: Callable[[], float]) -> None:
        self._tier, self._clock = tier, clock
        self._mark = f"{os.getpid()}-{secrets.token_hex(4)}"  # workers in containers may all have one pid
        self._numbers = itertools.count(1)
        self.closed = False
        """Whether a walk in progress has to end early."""
        self.is_full = False
        """Whether the next sweep has to make room."""

    def open(self) -> None:
        """Make the folder if there is none, and see that it can be written to."""
        with contextlib.suppress(FileExistsError):  # if it is not a folder, the next call fails
            self._tier.path.mkdir(mode=0o700, parents=True)
        probe = self._tier.path / f"{self._mark}.probe"
        try:
            os.close(os.open(probe, _CREATE, 0o600))
            probe.unlink(missing_ok=True)
        except OSError as exc:
            if exc.errno not in _FULL:  # what is there can be read, and a sweep makes room
                raise

    def read(self, key: bytes) -> tuple[str, bytes | None]:
        """Return "" and the value, or why there is none: `expired` or `torn`, then removed, `foreign`, "" if absent."""
        path = self._path(key)
        try:
            data = _contents(path)
        except FileNotFoundError:
            return "", None
        except _ForeignError:
            return "foreign", None
        reason, value = ("torn", None) if data is None else self._examine(data, key)
        if value is None:
            with contextlib.suppress(OSError):  # it stays a miss; the sweep reports why
                os.unlink(path)  # noqa: PTH108  a Path costs more than the call
        return reason, value

    def read_all(self, left: deque[bytes], found: dict[bytes, tuple[str, bytes | None] | OSError]) -> None:
        """Read what is left, as other threads may do at the same time; what fails is its error."""
        while True:
            try:
                key = left.popleft()
            except IndexError:
                return
            try:
                found[key] = self.read(key)
            except OSError as exc:
                found[key] = exc

    def _examine(self, data: bytes, key: bytes) -> tuple[str, bytes | None]:
        if len(data) < _HEADER.size:
            return "torn", None
        magic, expiry, length, checksum = _HEADER.unpack_from(data)
        value = data[_HEADER.size :]
        if magic != _MAGIC or length != len(value) or checksum != _checksum(key, expiry, value):
            return "torn", None
        return ("", value) if self._lives(expiry) else ("expired", None)

    def _lives(self, expiry: float) -> bool:
        now = self._clock()
        return now < expiry <= now + self._tier.timeout + CLOCK_SLACK

    def write(self, key: bytes, value: bytes, expiry: float) -> bool:
        """Put an entry in its place; returns True."""
        try:
            self._write(key, value, expiry)
        except FileNotFoundError:  # the first of its shard, or somebody deleted folders
            for folder in (self._tier.path, Path(self._path(key)).parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(key, value, expiry)
        return True

    def _write(self, key: bytes, value: bytes, expiry: float) -> None:
        path = self._path(key)
        temporary = f"{path.removesuffix('entry')}{self._mark}-{next(self._numbers)}.tmp"
        descriptor = os.open(temporary, _CREATE, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_HEADER.pack(_MAGIC, expiry, len(value), _checksum(key, expiry, value)))
                file.write(value)
                if self._tier.fsync:
                    file.flush()
                    os.fsync(descriptor)
            os.replace(temporary, path)  # noqa: PTH105  a Path costs more than the call
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108  as above
            raise
        if self._tier.fsync:
            _fsync_folder(path)

    def delete(self, key: bytes) -> int:
        """Remove an entry; returns how many there were."""
        path = Path(self._path(key))
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return 0
            path.unlink()
        except FileNotFoundError:
            return 0
        return 1

    def purge(self, matches: Callable[[bytes], bool]) -> Walked[int]:
        """Remove the entries whose key matches; returns how many."""
        errors: list[OSError] = []
        return Walked(
            sum(_remove(file.path, errors) for file, key in self._files(errors) if key and matches(key)), errors
        )

    def keys(self) -> Walked[list[bytes]]:
        """Return the keys of all entries, the expired too."""
        errors: list[OSError] = []
        return Walked([key for _, key in self._files(errors) if key], errors)

    def sweep(self) -> Walked[int]:
        """Remove what is expired, what dead writers left, and the oldest of too many, or, where that makes no room on a
        disk that `is_full`, a share of the oldest; returns how many.
        """
        errors: list[OSError] = []
        doomed: list[str] = []
        living: list[tuple[float, str]] = []
        for file, key in self._files(errors):
            try:
                written, lives = self._look(file.path, key)
            except (FileNotFoundError, _ForeignError):
                continue
            except OSError as exc:
                errors.append(exc)
                continue
            if not lives:
                doomed.append(file.path)
            elif key:
                living.append((written, file.path))
        excess = len(living) - self._tier.threshold
        if excess > 0:
            doomed += [path for _, path in sorted(living)[: excess + int(self._tier.threshold * SWEEP_SHARE)]]
        elif self.is_full and not doomed:
            doomed += [path for _, path in sorted(living)[: int(len(living) * SWEEP_SHARE)]]
        self.is_full = False
        return Walked(sum(_remove(path, errors) for path in doomed), errors)

    def _look(self, path: str, key: bytes) -> tuple[float, bool]:
        descriptor, status = _open(path)
        try:
            written = status.st_mtime
            if not key:
                return written, self._clock() < written + TEMPORARY_AGE
            magic, expiry, _, _ = _HEADER.unpack(os.read(descriptor, _HEADER.size).ljust(_HEADER.size, b"\0"))
            return written, magic == _MAGIC and self._lives(expiry)
        finally:
            os.close(descriptor)

    def _files(self, errors: list[OSError]) -> Iterator[tuple[os.DirEntry[str], bytes]]:
        """Yield the files that are ours with their key, empty for a temporary one."""
        for shard in _scan(self._tier.path, errors):
            if not _FOLDER.fullmatch(shard.name) or not shard.is_dir(follow_symlinks=False):
                continue
            for file in _scan(shard.path, errors):
                if self.closed:
                    return
                name = _NAME.fullmatch(file.name)
                if name and file.name[_SHARD] == shard.name and file.is_file(follow_symlinks=False):
                    yield file, name[1].encode() if name[2] else b""

    def _path(self, key: bytes) -> str:
        name = key.decode()
        return f"{self._tier.path}/{name[_SHARD]}/{name}.entry"


def _contents(path: str) -> bytes | None:
    """Return what is in an entry's file, with as few calls as that takes; None if it is too large to be an entry."""
    descriptor, status = _open(path)
    try:
        size = status.st_size
        if size > _HEADER.size + MAX_ENTRY_BYTES:
            return None
        data = os.read(descriptor, size)
        while 0 < len(data) < size and (more := os.read(descriptor, size - len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)


def _open(path: str) -> tuple[int, os.stat_result]:
    """Open a regular file; the caller closes it."""
    try:
        descriptor = os.open(path, _READ)
    except OSError as exc:
        if exc.errno in _FOREIGN:
            raise _ForeignError from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise _ForeignError
    return descriptor, status


def _checksum(key: bytes, expiry: float, value: bytes) -> bytes:
    summed = hashlib.blake2b(key + struct.pack(">d", expiry), digest_size=16)
    summed.update(value)
    return summed.digest()


def _fsync_folder(path: str) -> None:
    descriptor = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str, errors: list[OSError]) -> bool:
    try:
        os.unlink(path)  # noqa: PTH108  a Path costs more than the call
    except FileNotFoundError:
        return False
    except OSError as exc:
        errors.append(exc)
        return False
    return True


def _scan(path: str | Path, errors: list[OSError]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except FileNotFoundError:
        return []
    except OSError as exc:
        errors.append(exc)
        return []
