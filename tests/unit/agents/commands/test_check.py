"""`millrace check` judges by the rules of a request."""

from __future__ import annotations

import pytest

from agents.commands import DONE, MISUSED, run


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["range", "5"], "give low, high or both"),
        (["range", "5", "--args", '{"low": 5, "high": 1}'], "low"),
        (["length", "ab"], "give low, high or both"),
        (["is_prime", "7", "--args", '{"a": 1}'], "a: no such argument"),
    ],
)
def test_arguments_that_a_request_may_not_have_are_refused(capsys, arguments, reason):
    """No verdict is given, and the exit code is that of a misuse."""
    assert run(["check", *arguments]) == MISUSED
    written = capsys.readouterr()
    assert (written.out, "millrace check: --args: " in written.err) == ("", True)
    assert reason in written.err


@pytest.mark.slow
def test_a_verdict_is_none_of_the_command_s(capsys):
    """False is a result like true."""
    assert run(["check", "range", "5", "--args", '{"high": 1}']) == DONE
    assert capsys.readouterr().out == "5 range: False\n"
