"""Verify that the topics exist and suit the service, or create missing ones."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from agents.commands import DONE, FAILED, positive, say

MAX_REPLICAS = 32_767
"""The largest number of replicas that Kafka's protocol has room for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--create", action="store_true", help="create missing topics")
    parser.add_argument(
        "--partitions",
        type=positive,
        metavar="N",
        help="partitions of each created topic (default: as many as the existing ones have, or 8)",
    )
    parser.add_argument("--replication", type=_replicas, default=-1, metavar="N",
                        help="replicas of each created topic (default: the broker's default)")  # fmt: skip


def _replicas(text: str) -> int:
    """Return the option's number; -1 is the broker's default. Raises ArgumentTypeError."""
    number = -1 if text == "-1" else positive(text)
    if number > MAX_REPLICAS:
        msg = f"invalid number {text!r}: at most {MAX_REPLICAS}"
        raise argparse.ArgumentTypeError(msg)
    return number


def run(options: argparse.Namespace) -> int:
    """Verify the topics; returns 1 if one is missing."""
    from streams.config import settings as configuration

    settings = configuration.load()
    return asyncio.run(_topics(settings, options, _sources(settings)))


def _sources(settings: Any) -> Any:
    from models.source import Sources
    from streams.config.plugins import load_plugins
    from streams.sources import load

    if not settings.sources:
        return Sources()
    load_plugins(settings)  # sources may name their schemas, checks and functions
    return load(settings.sources)


async def _topics(settings: Any, options: argparse.Namespace, sources: Any) -> int:
    from agents.redrive.redriver import marks_of
    from agents.routes.topics import find_matched
    from models.retry_later import delay_topics
    from streams.kafka.topics import Admin, delay_differences, differences, route_differences
    from streams.tables.changelogs import changelogs

    routes = await find_matched(list(sources.routes.values()), settings)
    later = delay_topics(settings.group, sources.delays)
    of_routes = (name for route in routes for name in route.all_topics)
    names = tuple(dict.fromkeys([*settings.topics(), *of_routes, *later]))
    makers = dict.fromkeys((*changelogs(settings).values(), settings.workers_topic), "a worker")
    makers[marks_of(settings)] = "redrive"
    async with Admin(settings.kafka) as admin:
        found = await admin.describe(*names)
        if options.create:
            found = await _create(admin, settings, options, dict.fromkeys(names, 0) | later, found)
        ours = await admin.describe(*makers)
    for topic in (*found.values(), *ours.values()):
        size = topic.max_bytes if topic.max_bytes is not None else "?"
        print(f"{topic.name}\tpartitions={topic.partitions}\treplicas={topic.replication}\tmax.message.bytes={size}")
    differing = [*differences(settings, found), *route_differences(routes, settings.dead_letters_topic, found)]
    for line in [*differing, *delay_differences(later, found)]:
        say(line)
    for name, maker in makers.items():
        if name not in ours:
            say(f"topic {name!r} does not exist: {maker} creates it if the broker allows that")
    for name in names:
        if name not in (*found, *settings.topics()):  # those are named above
            say(f"topic {name!r} of {'retry_later' if name in later else 'a route'} does not exist")
    if settings.exactly_once:
        say("exactly-once: readers of results and dead letters need isolation.level=read_committed; workers need Write "
            f"on the transactional ids that begin with {settings.group}-")  # fmt: skip
    missing = len(names) - len(found)
    if missing:
        say("create them with: millrace topics --create")
    return FAILED if missing else DONE


async def _create(
    admin: Any, settings: Any, options: argparse.Namespace, names: dict[str, int], found: dict[str, Any]
) -> Any:
    """Create what is missing; returns all topics. `names` has the delays of delay topics, 0 for others."""
    from models.retry_later import retention
    from streams.kafka.topics import DEFAULT_PARTITIONS

    partitions = options.partitions or max((topic.partitions for topic in found.values()), default=0)
    for name, delay in names.items():
        if name not in found:
            config = retention(delay) if delay else {}
            await admin.create(name, partitions or DEFAULT_PARTITIONS, options.replication, **config)
            say(f"created {name}")
    found = await admin.settled(*names)
    await _create_own(admin, settings, found[settings.results_topic], options.replication)
    return found


async def _create_own(admin: Any, settings: Any, results: Any, replication: int) -> None:
    """Create the tables' changelogs, the topic of the heartbeats and the one that lists what was redriven."""
    from agents.cluster.heartbeat import make_topic
    from agents.redrive.redriver import MARKS, marks_of
    from streams.tables.changelogs import changelogs, create

    tables, marks = tuple(changelogs(settings).values()), marks_of(settings)
    own = (*tables, settings.workers_topic, marks)
    missing = [name for name in own if name not in await admin.describe(*own)]
    await create(admin, results, [name for name in missing if name in tables], replication)
    if settings.workers_topic in missing:
        await make_topic(settings.kafka, settings.workers_topic, replication)
    if marks in missing:
        await admin.create(marks, 1, replication, **MARKS)
    for name in await admin.settled(*missing) if missing else ():
        say(f"created {name}")
