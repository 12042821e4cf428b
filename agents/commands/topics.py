"""Verify that the topics exist and suit the service, or create missing ones."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from agents.commands import DONE, FAILED, positive, say

HELP = "verify the topics, or create missing ones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--create", action="store_true", help="create missing topics")
    parser.add_argument(
        "--partitions",
        type=positive,
        metavar="N",
        help="partitions of each created topic (default: as many as the existing ones have, or 8)",
    )
    parser.add_argument("--replication", type=int, default=-1, metavar="N",
                        help="replicas of each created topic (default: the broker's default)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Verify the topics; returns 1 if one is missing."""
    from streams.config import settings as configuration

    return asyncio.run(_topics(configuration.load(), options))


async def _topics(settings: Any, options: argparse.Namespace) -> int:
    from agents.redrive.redriver import marks_of
    from streams.kafka.topics import DEFAULT_PARTITIONS, Admin, differences
    from streams.tables.changelogs import changelogs

    makers = dict.fromkeys((*changelogs(settings).values(), settings.workers_topic), "a worker")
    makers[marks_of(settings)] = "redrive"
    async with Admin(settings.kafka) as admin:
        found = await admin.describe(*settings.topics())
        if options.create:
            partitions = options.partitions or max((topic.partitions for topic in found.values()), default=0)
            for name in settings.topics():
                if name not in found:
                    await admin.create(name, partitions or DEFAULT_PARTITIONS, options.replication)
                    say(f"created {name}")
            found = await admin.settled(*settings.topics())
            await _create_own(admin, settings, found[settings.results_topic], options.replication)
        ours = await admin.describe(*makers)
    for topic in (*found.values(), *ours.values()):
        size = topic.max_bytes if topic.max_bytes is not None else "?"
        print(f"{topic.name}\tpartitions={topic.partitions}\treplicas={topic.replication}\tmax.message.bytes={size}")
    for line in differences(settings, found):
        say(line)
    for name, maker in makers.items():
        if name not in ours:
            say(f"topic {name!r} does not exist: {maker} creates it if the broker allows that")
    missing = len(settings.topics()) - len(found)
    if missing:
        say("create them with: millrace topics --create")
    return FAILED if missing else DONE


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
