"""Releases of Apache Kafka under the same tests, and requests of other clients: `python -m tests.compat`.

Prints tables in Markdown. Releases: a row each, and for each thing that a user relies on how many tests of it passed.
Clients: a row each, and for each codec how many of the records that the client sent came out as they must.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from agents.entry import EntryPoint

RELEASES = ("3.3.2", "3.6.2", "3.9.1", "4.0.0", "4.1.0", "4.3.0")
"""The default: from the oldest with KRaft ready for production to the one that all other tests run on."""
_HERE = "tests/integration"
COLUMNS = {
    "topics": [
        f"{_HERE}/test_commands.py::test_topics_are_created_and_verified",
        f"{_HERE}/test_topics_anew.py::test_partitions_added_to_requests_are_read",
        f"{_HERE}/test_topics_anew.py::test_requests_made_again_under_a_worker",
    ],
    "answers, codecs": [
        f"{_HERE}/test_codecs.py::test_every_codec_on_every_topic",
        f"{_HERE}/test_delivery.py::test_sigterm_in_mid_run_loses_and_repeats_nothing",
    ],
    "kill -9, restarts": [
        f"{_HERE}/test_delivery.py::test_kill_in_mid_run_loses_nothing_and_repeats_only_what_was_open",
        f"{_HERE}/test_delivery.py::test_members_come_go_and_die_without_a_loss",
        f"{_HERE}/test_delivery.py::test_the_broker_restarts_under_load",
    ],
    "tables": [
        f"{_HERE}/test_tables.py::test_tables_equal_a_replay_after_kills_in_mid_run",
        f"{_HERE}/test_tables.py::test_two_workers_share_the_tables_and_give_up_what_goes",
    ],
    "redrive": [
        f"{_HERE}/test_redrive.py::test_a_redriven_request_keeps_its_id_and_counts_on",
        f"{_HERE}/test_redrive.py::test_killed_in_the_middle_it_goes_on_where_it_was",
    ],
    "routes": [f"{_HERE}/test_routes.py::test_no_record_is_lost_when_a_worker_is_killed"],
}
"""What a user relies on, and the tests that show it."""
CLIENTS = f"{_HERE}/test_producers.py"
SIDE_BY_SIDE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
"""Two files at a time, each with a broker of its own, as `make test` has them."""
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def main(arguments: list[str] | None = None) -> int:
    """Run the tests, print the tables, and return 1 if a test failed or was left out."""
    parser = EntryPoint("tests.compat", __doc__)
    parser.add_argument(
        "releases", metavar="RELEASE", nargs="*", help=f"no clients, and these releases alone, of {' '.join(RELEASES)}"
    )
    parser.add_argument("--clients", action="store_true", help="the clients, and no releases but those that are named")
    options = parser.begin(arguments)
    everything = not (options.releases or options.clients)
    complete, tables = True, []
    if releases := RELEASES if everything else options.releases:
        done, table = _releases(releases)
        complete, tables = complete and done, [*tables, table]
    if everything or options.clients:
        done, table = _clients()
        complete, tables = complete and done, [*tables, table]
    print("\n\n".join(tables))
    return int(not complete)


def _releases(releases: Sequence[str]) -> tuple[bool, str]:
    """Run the tests on a broker of each release; return whether all passed, and the table."""
    tests = [test for column in COLUMNS.values() for test in column]
    rows, complete = [], True
    for release in releases:
        print(f"Apache Kafka {release}: {len(tests)} tests", file=sys.stderr, flush=True)
        cases = _run(tests, *SIDE_BY_SIDE, MILLRACE_KAFKA_VERSION=release)
        passed = {case.get("name", "") for case in cases if _passed(case)}
        found = [[test.partition("::")[2] in passed for test in column] for column in COLUMNS.values()]
        complete = complete and all(map(all, found))
        rows.append([release, *(f"{sum(each)} of {len(each)}" for each in found)])
    return complete, _table(["Apache Kafka", *COLUMNS], rows)


def _clients() -> tuple[bool, str]:
    """Run the tests of the clients; return whether all passed, and the table."""
    print("Requests of other clients", file=sys.stderr, flush=True)
    cases = _run([CLIENTS], "-m", "compat")
    rows = []
    for case in cases:
        properties = {each.get("name"): each.get("value", "") for each in case.iter("property")}
        client = case.get("name", "").partition("[")[2].rstrip("]")
        missing = "failed" if "version" in properties else "not run"
        rows.append([client, properties.get("version", ""), *(properties.get(codec, missing) for codec in CODECS)])
    return bool(cases) and all(map(_passed, cases)), _table(["client", "version", *CODECS], rows)


def _run(tests: Sequence[str], *options: str, **variables: str) -> list[ET.Element]:
    """Run tests on a broker of their own; return what pytest reports of each."""
    environment = dict(os.environ) | variables
    environment.pop("KAFKA_BOOTSTRAP_SERVERS", None)
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--durations=5", "-o", "junit_family=xunit1",
                   f"--junitxml={report}", *options, *tests]  # fmt: skip
        subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
        return list(ET.parse(report).iter("testcase")) if report.exists() else []


def _passed(case: ET.Element) -> bool:
    """Whether a test neither failed nor was left out."""
    return all(case.find(name) is None for name in ("failure", "error", "skipped"))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    sys.exit(main())
