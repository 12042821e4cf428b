"""A real nginx on deploy/nginx's own files, with nothing changed but where it listens, writes and finds the workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Self

import pytest

from agents.testing.broker import free_port

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx"
PATIENCE = 10.0
"""Seconds that nginx may take to start or to end."""
NOBODY = "nobody"


def program() -> str | None:
    """Return where nginx is, None if it is not here; Debian has it where only root's PATH leads."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


class Nginx:
    """Opened with `async with`; `url` and, if it was given certificates, `tls_url` are where it is."""

    def __init__(self, *workers: str, certificate: bytes = b"", key: bytes = b"", user: str = "") -> None:
        """`user` is a name and password, name:password, for a login before all of it."""
        self._workers = workers
        self._certificate, self._key, self._user = certificate, key, user
        self._folder = Path(tempfile.mkdtemp(prefix="millrace-nginx-"))
        self._port, self._tls_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.tls_url = f"https://localhost:{self._tls_port}"

    async def __aenter__(self) -> Self:
        found = program()
        if found is None:
            if os.environ.get("CI"):
                pytest.fail("nginx is not on PATH", pytrace=False)
            pytest.skip("needs nginx on PATH")
        self._write()
        nobody = pwd.getpwnam(NOBODY) if os.geteuid() == 0 else None  # as in docker-compose.yml it is not root
        if nobody is not None:
            for path in (self._folder, *self._folder.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        self._process = await asyncio.create_subprocess_exec(
            found, "-c", str(self._folder / "nginx.conf"), "-g", "daemon off;",
            stdin=asyncio.subprocess.DEVNULL,
            user=nobody and nobody.pw_uid, group=nobody and nobody.pw_gid, extra_groups=[] if nobody else None,
        )  # fmt: skip
        await self._until_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await asyncio.wait_for(self._process.wait(), PATIENCE)
        print((self._folder / "error.log").read_text())
        shutil.rmtree(self._folder)

    def lead_to(self, *workers: str) -> None:
        """Lead to these workers from now on; requests that are in progress end where they are."""
        self._workers = workers
        self._write_workers()
        self._process.send_signal(signal.SIGHUP)

    def _write_workers(self) -> None:
        servers = "".join(f"server {worker};\n" for worker in self._workers)
        (self._folder / "workers.conf").write_text(
            f'upstream given {{\n{servers}}}\nmap "" $workers {{ default given; }}\n'
        )

    def _write(self) -> None:
        shutil.copytree(CONFIGURATION, self._folder, dirs_exist_ok=True)
        self._write_workers()
        if self._certificate:
            (self._folder / "tls.crt").write_bytes(self._certificate)
            (self._folder / "tls.key").write_bytes(self._key)
        else:
            shutil.rmtree(self._folder / "tls")
        if self._user:
            (self._folder / "users").write_text(self._user.replace(":", ":{PLAIN}") + "\n")
            web = self._folder / "web.conf"
            web.write_text(web.read_text().replace("# auth_basic", "auth_basic"))
        for path in self._folder.rglob("*.conf"):
            text = path.read_text()
            for old, new in {
                "/tmp/": f"{self._folder}/",  # first: the folder is in there itself
                "/etc/nginx/tls/": f"{self._folder}/tls/",
                "/etc/nginx/millrace/": f"{self._folder}/",
                "/etc/nginx/certificates/": f"{self._folder}/",
                "listen 8080": f"listen 127.0.0.1:{self._port}",
                "listen 8443": f"listen 127.0.0.1:{self._tls_port}",
                "/dev/stdout": f"{self._folder}/access.log",
                "/dev/stderr": f"{self._folder}/error.log",
            }.items():
                text = text.replace(old, new)
            path.write_text(text)

    async def _until_up(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self._process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    writer.close()
                    await writer.wait_closed()
                    return
                await asyncio.sleep(0.02)
        pytest.fail(f"nginx ended with {self._process.returncode}", pytrace=False)
