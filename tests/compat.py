"""Brokers of several releases of Apache Kafka, one after the other, under the same tests: `python -m tests.compat`.

Prints a table in Markdown: a row a release, and for each thing that a user relies on how many tests of it passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
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


def main(arguments: list[str] | None = None) -> int:
    """Run the tests on each release, print the table, and return 1 if one failed."""
    parser = EntryPoint("tests.compat", __doc__)
    parser.add_argument(
        "releases", metavar="RELEASE", nargs="*", default=RELEASES, help=f"default: {' '.join(RELEASES)}"
    )
    releases = parser.begin(arguments).releases
    rows = {}
    for release in releases:
        print(f"Apache Kafka {release}: {sum(map(len, COLUMNS.values()))} tests", file=sys.stderr, flush=True)
        rows[release] = _run(release)
    print("| Apache Kafka |" + "".join(f" {name} |" for name in COLUMNS))
    print("|---|" + "---|" * len(COLUMNS))
    for release, cells in rows.items():
        print(f"| {release} |" + "".join(f" {passed} of {total} |" for passed, total in cells))
    return int(any(passed < total for cells in rows.values() for passed, total in cells))


def _run(release: str) -> list[tuple[int, int]]:
    """Run the tests on a broker of one release; return how many passed and how many there are, a pair a column."""
    tests = [test for column in COLUMNS.values() for test in column]
    environment = dict(os.environ) | {"MILLRACE_KAFKA_VERSION": release}
    environment.pop("KAFKA_BOOTSTRAP_SERVERS", None)
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}", *tests]
        subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
        passed = _passed(report) if report.exists() else set()
    return [(len(passed & {test.partition("::")[2] for test in column}), len(column)) for column in COLUMNS.values()]


def _passed(report: Path) -> set[str]:
    """Return the names of the tests that a report of pytest says passed: neither failed nor left out."""
    cases = ET.parse(report).iter("testcase")
    return {case.get("name", "") for case in cases if not list(case.iterfind("failure")) + list(case.iterfind("error"))
            + list(case.iterfind("skipped"))}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
