"""The log: lines for people and for machines, without secrets and without lines of strangers."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import pytest
from aiokafka import TopicPartition

from streams.telemetry import logs
from streams.telemetry.logs import BURST


@pytest.fixture
def log():
    """Log into a text; gives back what was set up before."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level

    class Log(io.StringIO):
        def start(self, style, *secrets):
            return logs.setup("INFO", style, secrets, self)

        def lines(self):
            return self.getvalue().splitlines()

    kept = [handler for handler in before if type(handler).__module__.startswith("_pytest")]
    for handler in before:
        root.removeHandler(handler)  # force=True would close pytest's
    yield Log()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    logging.captureWarnings(capture=False)
    for handler in [*kept, *(each for each in before if each not in kept)]:
        root.addHandler(handler)
    root.setLevel(level)


logger = logging.getLogger("streams.example")


def log_error(error):
    """Log an error that was raised, with its stack."""
    try:
        raise error
    except type(error):
        logger.exception("failed")


def test_a_line_for_people_says_when_how_bad_who_and_what(log):
    """Time, level, logger and message stand on one line, debugging is left out, and a stack follows its error."""
    log.start("console")
    logger.debug("not this")
    logger.info("%d partitions", 4)
    log_error(KeyError("k"))
    first, second, *stack = log.lines()
    assert first[:4].isdigit()
    assert first.endswith(" INFO    streams.example: 4 partitions")
    assert second.endswith(" ERROR   streams.example: failed")
    assert (stack[0], stack[-1]) == ("Traceback (most recent call last):", "KeyError: 'k'")


def test_a_line_for_machines_is_one_object(log):
    """Each line is an object, also one with a stack, a line break, a quote and what is no Unicode text."""
    log.start("json")
    logger.info('a "word"\nand more\udcff')
    log_error(ValueError("two\nlines"))
    plain, failed = map(json.loads, log.lines())
    assert plain["time"][10] == "T"
    assert plain["time"].endswith("Z")
    assert {**plain, "time": ""} == {
        "time": "", "level": "info", "logger": "streams.example", "message": 'a "word"\nand more\udcff',
    }  # fmt: skip
    assert (failed["error"]["type"], failed["error"]["message"]) == ("ValueError", "two\nlines")
    assert failed["error"]["stack"].startswith("Traceback")


@pytest.mark.parametrize("style", ["console", "json"])
async def test_lines_of_a_task_name_its_request(log, style):
    """The request that a task is about is in its lines and in nobody else's."""
    log.start(style)

    async def work(name):
        logs.request_id.set(name)
        await asyncio.sleep(0)
        logger.info("working")

    await asyncio.gather(work("a1"), work("b2"))
    logger.info("idle")
    one, other, none = log.lines()
    if style == "json":
        told = [json.loads(line).get("request_id") for line in (one, other, none)]
        assert told == ["a1", "b2", None]
    else:
        assert (one[-12:], other[-12:], none[-4:]) == ("(request a1)", "(request b2)", "idle")


def test_a_stranger_cannot_write_lines_of_his_own(log):
    """Line breaks and terminal codes in a value are written as escapes."""
    log.start("console")
    logger.info("host %s", "x\r\n2026-01-01 INFO all is well \x1b[2J\x85\u2028")
    (line,) = log.lines()
    assert line.endswith(r"host x\r\n2026-01-01 INFO all is well \x1b[2J\x85\u2028")


SECRETS = [
    ("known hunter22 here", "hunter22"),
    ("escaped %s" % json.dumps('pa"ss\\word'), json.dumps('pa"ss\\word')[1:-1]),
    ("in a URL: http://h/?q=s%2Fcret%2Ft", "s%2Fcret%2Ft"),
    ("login https://user:p@ss@w0rd@host/path", "w0rd"),
    ("login https://user:pw@host/path", "user:pw"),
    ("query https://host/?a=1&api_key=abc&b=2", "abc"),
    ("query https://host/?X-Amz-Signature=abcdef", "abcdef"),
    ("header Authorization: Bearer abc.def-123", "abc.def-123"),
    ("header Basic dXNlcjpwdw==", "dXNlcjpwdw"),
]


@pytest.mark.parametrize("style", ["console", "json"])
@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_no_secret_is_written(log, style, text, secret):
    """Known secrets, logins and credentials are masked in messages, in values, in errors and in their stacks."""
    log.start(style, "hunter22", 'pa"ss\\word').add(["s/cret/t"])
    logger.info(text)
    logger.info("value: %s", text)
    log_error(ValueError(text))
    token = logs.request_id.set(text)
    logger.info("about it")
    logs.request_id.reset(token)
    written = log.getvalue()
    assert logs.MASK in written
    assert secret not in written
    assert "host/path" in written or "host/path" not in text


def test_short_secrets_are_no_reason_to_mask_words(log):
    """A secret of a few characters would take the words from every line: it is not looked for."""
    log.start("console", "in", "")
    logger.info("in between")
    assert log.lines()[0].endswith("in between")


def test_warnings_are_lines_too(log):
    """What Python warns of is a line like any other."""
    log.start("json")
    logging.getLogger("py.warnings").warning("%s", "old")
    assert json.loads(log.lines()[0])["message"] == "old"


def test_a_flood_is_cut_and_its_size_told_at_the_end(log):
    """The same line a thousand times is written BURST times; how many were left out is told when the log
    closes, and is about no request.
    """
    log.start("console")
    token = logs.request_id.set("a1")
    for number in range(1000):
        logger.warning("failed: %d", number)
    logger.warning("another kind")
    assert len(log.lines()) == BURST + 1
    for handler in list(logging.getLogger().handlers):
        handler.close()
    logs.request_id.reset(token)
    assert log.lines()[-1].endswith(f"{1000 - BURST} more lines like this were left out: failed: {BURST}")


@pytest.mark.parametrize("style", ["console", "json"])
def test_partitions_are_named_as_we_name_them(log, style):
    """Lines of aiokafka have Python's names in them, and some that nobody can do anything about."""
    log.start(style)
    partition = TopicPartition("results", 3)
    logging.getLogger("aiokafka.x").setLevel(logging.WARNING)  # whatever a command made of its parent's
    logging.getLogger("aiokafka.x").warning("Got error for %s and %s", partition, {partition})
    logging.getLogger("asyncio").error("Unclosed AIOKafkaConnection\nconn: <...>")
    [line] = log.lines()
    assert "Got error for results-3 and {results-3}" in line
