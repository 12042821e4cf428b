"""Run a worker: take requests from the requests topic until told to stop by SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.config.settings import Settings
    from streams.telemetry.logs import Mask

HELP = "run a worker"

EXIT_GRACE = 3.0
"""Seconds that the process may take to end once everything is stopped."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--role", choices=("all", "answer", "tables"), help="what this worker does (default: all)")


def run(options: argparse.Namespace) -> int:
    """Run it; returns 0 after an orderly stop, 1 after a crash."""
    import uvloop

    from agents.commands import FAILED, MISUSED
    from agents.worker import create
    from models.errors import MillraceError, SettingsError
    from streams.app import run as run_worker
    from streams.config import settings as configuration
    from streams.config.docs import unknown_names
    from streams.config.secrets import secrets_of
    from streams.files import raise_limit, share
    from streams.kafka.client import caution

    settings = configuration.load()
    settings = replace(settings, role=options.role or settings.role)
    mask = setup_logging(settings)
    logger = logging.getLogger(__name__)
    logger.info("%s", raise_limit())
    if (most := share().upstream // 2) < settings.max_in_flight:
        logger.warning(
            "MILLRACE_MAX_IN_FLIGHT=%d needs more open files: at most %d fetches at once", settings.max_in_flight, most
        )
    for line in filter(None, (*unknown_names(), caution(settings.kafka))):
        logger.warning("%s", line)

    async def main() -> int:
        worker = create(settings)
        mask.add(secret for source in worker.sources.by_name.values() for secret in secrets_of(source))
        return await run_worker(worker.apps, worker.open)

    try:
        code = uvloop.run(main())
    except MillraceError as exc:
        if settings.log_format != "json":
            raise  # it is told to whoever sits there
        logger.critical("%s", exc)
        code = MISUSED if isinstance(exc, SettingsError) else FAILED
    # Python joins its threads at the end: one that waits for a disk that hangs must not keep the process.
    last_resort = threading.Timer(EXIT_GRACE, _exit, (code,))
    last_resort.daemon = True
    last_resort.start()
    return code


def _exit(code: int) -> None:
    """End the process, and say which threads would not let it."""
    left = [each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
    logging.getLogger(__name__).warning(
        "threads still run %g s after the stop: %s; exiting", EXIT_GRACE, ", ".join(left)
    )
    logging.shutdown()
    os._exit(code)


def setup_logging(settings: Settings) -> Mask:
    """Log to stderr, one line an event; the libraries only when something is wrong."""
    from streams.config.settings import secret_values
    from streams.telemetry import logs

    level = settings.log_level
    mask = logs.setup(level, settings.log_format, secret_values(settings))
    if level != "DEBUG":
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_event)
    for name in ("faust", "mode", "aiokafka", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    # A timer that is late, or overlaps, is nothing to act on: what holds up a commit has a line of ours.
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
    # It calls an ERROR what it tries again; what it gives up on ends the worker, with the reason (`_watch_group`).
    logging.getLogger("aiokafka.consumer.group_coordinator").setLevel(logging.CRITICAL)
    logging.getLogger("aiokafka.conn").addFilter(_is_unlogged)
    # A commit that waits for Kafka makes Faust's timers late: whoever reads that can do nothing about it.
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
    return mask


def _is_unlogged(record: logging.LogRecord) -> bool:
    """Say whether a line is more than what `caution` has said already: aiokafka says that at each connection."""
    return not str(record.msg).startswith("Sending username and password in the clear")


def _is_event(record: logging.LogRecord) -> bool:
    """Say whether a line is more than a service of Faust's, which we extend, saying that it starts, stops or waits."""
    return record.levelno > logging.WARNING or not str(record.msg).startswith("[^")
