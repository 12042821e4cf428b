from __future__ import annotations

import argparse
import json

import pytest

from agents.commands import send


def options(*arguments):
    parser = argparse.ArgumentParser()
    send.add_arguments(parser)
    return parser.parse_args(arguments)


def test_one_request_has_what_the_options_say():
    """Each option is its member; a check may have its field; what is not given is left out."""
    given = options("--url", "http://h/", "--check", "is_prime:n", "--check", "sha256", "--max-age", "0",
                    "--timeout", "2.5", "--id", "a", "--schema", "text")  # fmt: skip
    assert json.loads(send._one(given)) == {
        "id": "a", "url": "http://h/", "schema": "text", "checks": [{"name": "is_prime", "field": "n"}, "sha256"],
        "max_age": 0, "timeout": 2.5,
    }  # fmt: skip
    assert json.loads(send._one(options("--url", "http://h/"))) == {"url": "http://h/"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("true", True), ("ACME", "ACME"), ("1.10", "1.10"), ("007", "007"), ("", ""), ("a=b", "a=b"),
     ('"7"', "7"), ("[1, 2]", [1, 2])],
)  # fmt: skip
def test_a_parameter_is_json_or_its_text(text, value):
    """Numbers and such are what they are if that loses nothing of what was typed; the rest is text."""
    given = options("--source", "s", "--param", f"p={text}")
    assert json.loads(send._one(given)) == {"source": "s", "params": {"p": value}}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["f", "--url", "u"], "give only one of"),
        (["--source", "s", "--url", "u"], "give only one of"),
        (["--max-age", "0"], "--max-age: only with --url or --source"),
        (["f", "--json"], "--json: only with"),
        (["--url", "u", "--param", "a=1"], "--param: only with --source"),
        (["--source", "s", "--param", "a"], "invalid parameter 'a': use NAME=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, reason):
    """What would be ignored is said instead; a zero is something, too."""
    assert reason in send._misuse(options(*arguments))
    assert send._misuse(options("--source", "s", "--param", "a=1", "--timeout", "3")) is None
