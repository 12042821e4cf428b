"""Run a worker until SIGTERM or SIGINT: answer requests, keep the tables, or both."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.config.settings import Settings
    from streams.telemetry.logs import Mask

EXIT_GRACE = 3.0
"""Seconds for the process to exit once everything is stopped."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--role",
        choices=("all", "answer", "tables"),
        help="answer requests, keep the tables, or do both (default: MILLRACE_ROLE)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the worker; returns 0 after an orderly stop, 1 after a failure, 2 for invalid settings."""
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

    gc.freeze()  # what was imported stays; memory.settle need not walk it
    settings = configuration.load()
    settings = replace(settings, role=options.role or settings.role)
    mask = setup_logging(settings)
    logger = logging.getLogger(__name__)
    logger.info("%s", raise_limit())
    if (most := share().upstream // 2) < settings.max_in_flight:
        logger.warning(
            "MILLRACE_MAX_IN_FLIGHT=%d needs more open files; limited to %d at once",
            settings.max_in_flight,
            most,
        )
    for line in filter(None, (*unknown_names(), caution(settings.kafka))):
        logger.warning("%s", line)

    async def main() -> int:
        worker = create(settings)
        mask.add(secret for source in worker.sources.by_name.values() for secret in secrets_of(source))
        try:
            code = await run_worker(worker.apps, worker.open)
        except MillraceError:
            raise
        except BaseException:  # such as MemoryError: nothing may have been stopped
            _exit_in_time(FAILED)
            raise
        _exit_in_time(code)
        return code

    try:
        code = uvloop.run(main())
    except MillraceError as exc:
        if settings.log_format != "json":
            raise  # the command line prints it for people
        logger.critical("%s", exc)
        code = MISUSED if isinstance(exc, SettingsError) else FAILED
        _exit_in_time(code)
    return code


def _exit_in_time(code: int) -> None:
    """Exit soon in any case. The event loop waits for tasks that it cancels, which those of Faust may outlive, and
    Python joins its threads, one of which may wait for a hung disk.
    """
    last_resort = threading.Timer(EXIT_GRACE, _exit, (code,))
    last_resort.daemon = True
    try:
        last_resort.start()
    except (MemoryError, RuntimeError):  # no thread can be had, so nothing would end what hangs
        _exit(code)


def _exit(code: int) -> None:
    """Exit the process, and log which threads kept it alive."""
    left = [each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
    logging.getLogger(__name__).warning(
        "threads still running %g s after the stop: %s; exiting anyway",
        EXIT_GRACE,
        ", ".join(left) or "none, but tasks",
    )
    logging.shutdown()
    os._exit(code)


def setup_logging(settings: Settings) -> Mask:
    """Log to stderr, one line per event; from libraries only warnings and errors."""
    from streams.config.settings import secret_values
    from streams.telemetry import logs

    level = settings.log_level
    mask = logs.setup(level, settings.log_format, secret_values(settings))
    if level != "DEBUG":
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_event)
    for name in ("faust", "mode", "aiokafka", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    # Late timers need no action: they follow commits that wait for Kafka, which we log ourselves.
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
    # It logs retries as ERROR; what it gives up on ends the worker, with the reason (`_watch_group`).
    logging.getLogger("aiokafka.consumer.group_coordinator").setLevel(logging.CRITICAL)
    logging.getLogger("aiokafka.conn").addFilter(_is_unlogged)
    return mask


def _is_unlogged(record: logging.LogRecord) -> bool:
    """Return False for the warning that aiokafka repeats at each connection; `caution` gives it once."""
    return not str(record.msg).startswith("Sending username and password in the clear")


def _is_event(record: logging.LogRecord) -> bool:
    """Return False for the lines in which Faust's services report that they start, stop or wait."""
    return record.levelno > logging.WARNING or not str(record.msg).startswith("[^")
