"""Connections within bounds, under a limit of files as a system sets it: in a process of its own, on real sockets."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import uvloop
from aiohttp import web

from models.errors import AnswerError
from streams.config.settings import Settings
from streams.files import raise_limit, share
from streams.http.client import client_of
from streams.web.server import Server

FILES = 256
"""What a process of these tests may have open: 64 fetches are to it what 256 are to a worker with 1,024."""
HOSTS = 900
LET_IN = {"allow_networks": "127.0.0.0/8", "allow_ports": "1-65535"}


async def in_a_process(name, port):
    """Run one of the functions below in a process that may open few files; returns what it returned."""
    code = f"from tests.unit.streams import test_connector as t; t.run(t.{name}({port}))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return json.loads(output)


def run(main):
    """Be that process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    sys.stdout.write(json.dumps(uvloop.run(main)))


def files():
    """Return how many files are open, and the highest number of one."""
    found = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
    return len(found), max(found)


@pytest.fixture
async def everywhere():
    """Serve at every address of loopback: as many hosts as there are addresses."""

    async def here(_):
        return web.Response(text="here")

    runner = web.ServerRunner(web.Server(here), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def many_hosts(port):
    """Fetch from many hosts at once while somebody asks the web server and others open connections of their own."""
    outcomes, probes, most = Counter(), Counter(), 0
    async with client_of(Settings(**LET_IN)) as client, Server("127.0.0.1", 0, dict) as server:

        async def fetch(number):
            nonlocal most
            try:
                await client.fetch("GET", f"http://127.0.{number // 250 + 1}.{number % 250 + 1}:{port}/", {})
                outcomes["ok"] += 1
            except AnswerError as error:
                outcomes[error.outcome] += 1
            most = max(most, files()[1])

        async def probe():
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                probes[(await _.readline()).decode()] += 1
                writer.close()
                await asyncio.sleep(0.005)

        probing = asyncio.create_task(probe())
        await asyncio.gather(*map(fetch, range(HOSTS)))
        probing.cancel()
        idle = files()[0]
        failing = [host.name for host in client.hosts if host.breaker.state != "closed"]
    return {"outcomes": outcomes, "probes": probes, "most": most, "idle": idle, "failing": failing}


@pytest.mark.slow
async def test_many_hosts_leave_files_for_others(everywhere):
    """More hosts than files: each is fetched, idle connections give way, and the web server always has a file."""
    found = await in_a_process("many_hosts", everywhere)
    assert found["outcomes"] == {"ok": HOSTS}
    assert list(found["probes"]) == ["HTTP/1.1 200 OK\r\n"]
    assert found["most"] < share(FILES).upstream
    assert found["idle"] < share(FILES).upstream // 2
    assert found["failing"] == []


async def no_files(port):
    """Fetch while others have what files there are, and again when they have given them back."""
    taken, errors = [], []

    def take():
        while not taken or taken[-1].fileno() < share(FILES).upstream:
            taken.append(socket.socket())

    async with client_of(Settings(**LET_IN)) as client:
        take()
        for _ in range(30):  # more failures than a host may have
            try:
                await client.fetch("GET", f"http://127.0.0.2:{port}/", {})
            except AnswerError as error:
                errors.append([error.describe(), error.outcome, error.attempts])
        for each in taken:
            each.close()
        after = await client.fetch("GET", f"http://127.0.0.2:{port}/", {})
        take()
        another = await client.fetch("GET", f"http://127.0.0.3:{port}/", {})  # for which an idle connection ends
        states = {host.breaker.state for host in client.hosts}
    return {"errors": errors, "statuses": [after.status, another.status], "breakers": sorted(states)}


@pytest.mark.slow
async def test_files_that_are_all_taken_are_our_own_fault(everywhere):
    """Without a file to dial with, a fetch is `overloaded` and says so at once; no host is blamed for it."""
    found = await in_a_process("no_files", everywhere)
    assert found["statuses"] == [200, 200]
    assert found["breakers"] == ["closed"]
    assert len(found["errors"]) == 30
    for described, outcome, attempts in found["errors"]:
        assert (outcome, attempts, described["retryable"]) == ("overloaded", 1, True)
        assert "this worker has too many files open (ulimit -n)" in described["message"]


def test_the_soft_limit_is_raised_to_the_hard_one():
    """A worker takes what it may have; it says what that is, and what it was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_000, hard))
    try:
        assert raise_limit() == f"{hard:,} open files allowed, raised from 1,000"
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert raise_limit() == f"{hard:,} open files allowed"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nobody_has_all_files():
    """At every limit each has some, upstreams the most, and all together no more than there are."""
    for limit in (64, 256, 1_024, 4_096, 65_536, 1 << 20):
        found = share(limit)
        assert found.limit == limit
        assert 0 < found.web <= limit // 4
        assert limit // 2 <= found.upstream < limit - found.web - limit // 10
