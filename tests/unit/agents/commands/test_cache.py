from __future__ import annotations

import asyncio

from aiohttp import web

from agents.commands import FAILED, run
from agents.commands.cache import NONE_SHARED
from streams.web.server import Server


async def cache(*arguments):
    return await asyncio.to_thread(run, ["cache", *arguments])


async def removed(_):
    return web.json_response({"removed": 1})


async def test_a_worker_that_refuses_is_told_in_a_sentence(monkeypatch, capsys):
    """Without its token nothing is said to be removed, but what to set; one without a token says so itself."""
    monkeypatch.setenv("MILLRACE_WEB_TOKEN", "another")
    async with Server("127.0.0.1", 0, dict, [web.delete("/api/cache", removed)], token="secret") as server:
        url = f"http://127.0.0.1:{server.port}"
        assert await cache("purge", "--all", "--worker", url) == FAILED
        advice = "the token is missing or wrong: set MILLRACE_WEB_TOKEN to the worker's token"
        assert capsys.readouterr() == ("", f"millrace cache: {url}: {advice}\n")
        monkeypatch.setenv("MILLRACE_WEB_TOKEN", "secret")
        await cache("purge", "--all", "--worker", url)
        assert capsys.readouterr().out == "1 entry removed\n"
    async with Server("127.0.0.1", 0, dict, [web.delete("/api/cache", removed)]) as server:
        url = f"http://127.0.0.1:{server.port}"
        await cache("purge", "--all", "--worker", url)
        reason = "MILLRACE_WEB_TOKEN is not set: nothing can be changed here"
        assert capsys.readouterr() == ("", f"millrace cache: {url}: {reason}\n")
    await cache("stats", "--worker", url)
    assert capsys.readouterr() == ("", f"millrace cache: {url}: no worker responds: Connection refused\n")


async def test_what_is_no_worker_has_no_figures(capsys):
    """A server that answers with some other JSON is named."""

    async def other(_):
        return web.json_response({})

    async with Server("127.0.0.1", 0, dict, [web.get("/api/cache", other)]) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert await cache("stats", "--worker", url) == FAILED
    assert capsys.readouterr() == ("", f"millrace cache: {url}: what responds is no worker\n")


async def test_where_nothing_is_shared_stats_and_get_say_so(monkeypatch, capsys):
    """What `get` did not find in no tier at all is no news of the URL."""
    monkeypatch.setenv("MILLRACE_CACHE", "memory://")
    for arguments in (("stats",), ("get", "--url", "http://h/")):
        await cache(*arguments)
        out, err = capsys.readouterr()
        assert (out, err.startswith(NONE_SHARED)) == ("", True)


async def test_stats_leave_out_what_this_process_has_counted(monkeypatch, capsys, tmp_path):
    """It has counted nothing, and zeros beside the entries of all workers would be taken for theirs."""
    monkeypatch.setenv("MILLRACE_CACHE", f"memory:// file://{tmp_path}/c")
    await cache("stats")
    assert capsys.readouterr().out == f"where=here  tier=file  path={tmp_path}/c  entries=0\n"
