from __future__ import annotations

import re
import subprocess
import sys

import pytest

from agents.commands import clipped, command, run

pytestmark = pytest.mark.slow


def test_the_version_is_told(capsys):
    """`--version` is data and no fault."""
    with pytest.raises(SystemExit) as ended:
        run(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"millrace \d+\.\d+\S*\n", capsys.readouterr().out)


def test_the_demo_names_a_command_that_is_there(monkeypatch, tmp_path):
    """By its name where that is found, by its place below or elsewhere, and by Python where it is not installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    bin_ = tmp_path / "project" / ".venv" / "bin"
    bin_.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(bin_ / "python"))
    assert command() == f"{bin_}/python -m millrace"
    (bin_ / "millrace").touch(mode=0o755)
    assert command() == f"{bin_}/millrace"
    monkeypatch.chdir(tmp_path / "project")
    assert command() == ".venv/bin/millrace"
    monkeypatch.setenv("PATH", str(bin_))
    assert command() == "millrace"


def test_a_clipped_text_ends_with_an_ellipsis():
    """What fits is left alone."""
    assert [clipped("abc de", width) for width in (6, 5, 3)] == ["abc de", "abc…", "ab…"]


@pytest.mark.parametrize("library", ["cramjam", "lz4.frame", "zstandard"])
@pytest.mark.parametrize("command", ["worker", "doctor"])
def test_a_codec_that_cannot_be_loaded_is_said_at_the_start(library, command):
    """One line that names the library, not a worker that dies of the first batch that is compressed so."""
    code = f"import sys; sys.modules[{library!r}] = None; from agents.commands import run; sys.exit(run([{command!r}]))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert f"inflates batches cannot be loaded: import of {library} halted" in ended.stderr


@pytest.mark.parametrize("text", ["inf", "nan", "-inf", "-1", "1e999", "soon", ""])
@pytest.mark.parametrize(
    "command",
    [
        ["send", "--url", "http://h/", "--timeout"],
        ["send", "--url", "http://h/", "--max-age"],
        ["tail", "--give-up"],
        ["redrive", "--all", "--rate"],
    ],
)
def test_a_number_that_is_none_is_said_to_be_wrong(command, text, capsys):
    """What no request, record or clock can hold ends with 2 and a sentence that names the option."""
    with pytest.raises(SystemExit) as ended:
        run([*command[:-1], f"{command[-1]}={text}"])
    assert ended.value.code == 2
    assert f"argument {command[-1]}: invalid number {text!r}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "inf", "\u00b2", "9" * 5_000])
@pytest.mark.parametrize(
    "command", [["tail", "--count"], ["redrive", "--limit"], ["topics", "--partitions"], ["demo", "--requests"]]
)
def test_how_many_is_a_number_from_one_on(command, text, capsys):
    """As above, for what is counted."""
    with pytest.raises(SystemExit) as ended:
        run([command[0], f"{command[1]}={text}"])
    assert ended.value.code == 2
    assert f"invalid number {text!r}: must be a whole number, 1 or more" in capsys.readouterr().err


def test_an_argument_that_is_no_utf_8_is_refused(monkeypatch, capsys):
    """It cannot be in a request; which one it is is said."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    assert run(["send", "--url", "http://h/\udcff"]) == 2
    assert capsys.readouterr().err == "millrace: an argument is not UTF-8: 'http://h/\\udcff'\n"


@pytest.mark.parametrize("number", ["40000", "0", "-2", "x"])
def test_replicas_are_a_number_that_kafka_has_room_for(number, capsys):
    """Another is refused before Kafka is asked."""
    with pytest.raises(SystemExit) as ended:
        run(["topics", "--create", f"--replication={number}"])
    assert ended.value.code == 2
    assert "--replication: invalid number" in capsys.readouterr().err
