"""What nginx, Node's http, Go's net/http, uvicorn and gunicorn answer ends alike on both paths of the HTTP client."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agents.testing.broker import free_port
from models.errors import AnswerError
from models.source import Retries
from streams.config.validators import parse_networks, parse_ports
from streams.http import fit
from streams.http.client import Client
from streams.http.exchange import Exchange
from streams.http.guard import Guard
from streams.http.session import Session
from tests.integration.servers.asgi import TEXT

HERE = Path(__file__).parent / "servers"
ROOT = HERE.parents[2]
PATIENCE = 300.0
"""Seconds that a server may take to be built and to start."""
LOOPBACK = Guard(parse_networks("127.0.0.0/8"), parse_ports("1-65535"))
LARGE = "x" * 1_000_000
PYTHON = sys.executable, "-m"
COMMANDS = {
    "uvicorn h11": (*PYTHON, "uvicorn", "--http", "h11", "--port", "{port}", "tests.integration.servers.asgi:app"),
    "gunicorn": (*PYTHON, "gunicorn", "-k", "gthread", "--threads", "4", "-b", "127.0.0.1:{port}",
                 "tests.integration.servers.wsgi:app"),
    "node": ("node", str(HERE / "node.js"), "{port}"),
    "go": ("go", "run", str(HERE / "main.go"), "{port}"),
    "nginx": ("nginx", "-p", "{folder}", "-c", "{folder}/nginx.conf", "-g", "daemon off;"),
}  # fmt: skip
USUAL = ("plain", "chunked", "slow", "gzip", "none", "close", "unavailable", "echo", "cut")
PATHS = {
    "uvicorn h11": USUAL,
    "gunicorn": USUAL,
    "node": (*USUAL, "hints", "trailers", "early"),
    "go": (*USUAL, "hints", "trailers", "early"),
    "nginx": ("plain", "gzip", "none", "unavailable", "missing", "moved", "limited", "early", "folder"),
}
NGINX = """
{user} error_log stderr crit; pid {folder}/pid; worker_processes 1; events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; keepalive_requests 3;
  proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port}; root {folder}/root; default_type text/plain;
    location /gzip {{ alias {folder}/root/plain; gzip on; gzip_min_length 1; gzip_types text/plain; }}
    location /none {{ return 204; }}
    location /unavailable {{ return 503 later; }}
    location /moved {{ return 302 /plain; }}
    location /limited {{ alias {folder}/root/plain; limit_rate 4k; }}
    location /early {{ client_max_body_size 1k; return 200; }}
  }}
}}
"""


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, tmp_path_factory) -> Iterator[tuple[str, str]]:
    """Start a server; yields its name and URL."""
    command = COMMANDS[request.param]
    found = shutil.which(command[0]) or shutil.which(command[0], path="/usr/sbin")
    if found is None:
        pytest.skip(f"needs {command[0]}")
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    (folder / "root" / "folder").mkdir(parents=True)
    (folder / "root" / "plain").write_bytes(TEXT)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, user="user root;" * (os.geteuid() == 0)))
    arguments = [each.format(port=port, folder=folder) if "{" in each else each for each in command[1:]]
    process = subprocess.Popen([found, *arguments], cwd=ROOT, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE
        while not listens(port):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        yield request.param, f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
        process.wait()


def listens(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def clients(monkeypatch) -> AsyncIterator[list[Client]]:
    """Open a client on each path."""
    async with AsyncExitStack() as stack:
        opened = []
        for kind, missing in ((Exchange, []), (Session, ["the.part"])):
            monkeypatch.setattr(fit, "misfits", lambda missing=missing: missing)
            client = Client(10_000_000, LOOPBACK, retry=Retries(attempts=1))
            opened.append(await stack.enter_async_context(client))
            assert isinstance(client._direct, kind)
        yield opened


async def outcome(client, method, url, body):
    try:
        async with asyncio.timeout(20):
            response = await client.fetch(method, url, {}, body)
    except AnswerError as error:
        return type(error), str(error), error.attempts, error.body, [head.status for head in error.trail]
    # When it was, and whether the server closes the connection, differ by nature.
    headers = [(name, value) for name, value in response.headers.items() if name.lower() not in ("date", "connection")]
    return response.status, response.body, headers, [head.status for head in response.trail()]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_both_paths_end_alike(server, clients, method) -> None:
    """Three times each in a row, over connections that are kept or closed, alone and at once."""
    name, url = server
    for path in PATHS[name]:
        body = {"GET": None, "HEAD": None, "POST": LARGE if path == "early" else "a body"}[method]
        told = []
        for client in clients:
            ended = [await outcome(client, method, f"{url}/{path}", body) for _ in range(3)]
            ended += await asyncio.gather(*(outcome(client, method, f"{url}/{path}", body) for _ in range(4)))
            if (method, path) not in (("POST", "early"), ("HEAD", "cut")):  # a reset may overtake the answer
                assert ended == [ended[0]] * len(ended), path
                told.append(ended[0])
            for host in client.hosts:
                host.breaker._counts = [0, 0, 0, 0]
        assert told[:1] == told[1:], path
        if path == "cut" and method == "GET":
            assert "broke off in the middle" in told[0][1]
        elif path in ("plain", "chunked", "slow", "gzip", "close", "limited", "moved", "trailers") and method == "GET":
            assert told[0][1].content == TEXT
    assert all(not client._direct.pool._acquired for client in clients)
