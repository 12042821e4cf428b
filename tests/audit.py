"""Known vulnerabilities of pinned packages, by pip-audit. It asks a service on the internet. Where that does not
answer, advisories from a file take its place (tests/advisories.py has the format); without one this says plainly that
nothing was looked at, and ends with 0 all the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from agents.entry import EntryPoint
from tests.advisories import audit_offline

TIMEOUT = "15"
"""Seconds that pip-audit gives the service."""


def audit(requirements: Path, advisories: Path | None = None) -> int:
    """Audit a file of pinned requirements; returns 1 if a vulnerability is known, or the advisories cannot be read."""
    packages, problem = ask(requirements)
    if not any("skip_reason" not in each for each in packages) and advisories is not None:
        print(f"the service cannot be asked from here, so {advisories} is: {problem}".rstrip(": "))
        try:
            packages, newest = audit_offline(requirements, advisories)
        except ValueError as exc:
            print(exc)
            return 1
        print(f"advisories up to {newest}")
    elif problem:
        print(
            "NOT AUDITED: pip-audit could not ask its service from here, and no file of advisories was given:", problem
        )
        return 0
    code, lines = judge(packages)
    print(*lines, sep="\n")
    return code


def ask(requirements: Path) -> tuple[list[dict[str, Any]], str]:
    """Return what pip-audit says of each package, and what went wrong, if anything did."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--no-deps", "--disable-pip",
               "--progress-spinner", "off", "--timeout", TIMEOUT, "--format", "json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)["dependencies"], ""
    except ValueError:
        return [], done.stderr.strip()[-300:] or f"exit code {done.returncode}"


def judge(packages: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Return the exit code, and what to say: each vulnerability, and how many packages were looked at."""
    looked = [each for each in packages if "skip_reason" not in each]
    found = [
        f"{each['name']} {each['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'nothing yet'}"
        for each in looked
        for flaw in each["vulns"]
    ]
    if not looked:
        return 0, [f"NOT AUDITED: the service knows none of {len(packages)} packages, or cannot be reached from here"]
    return int(bool(found)), [
        *found,
        f"{len(looked)} of {len(packages)} packages audited, {len(found)} vulnerabilities",
    ]


if __name__ == "__main__":
    parser = EntryPoint("tests.audit", __doc__)
    parser.add_argument("requirements", metavar="FILE", type=Path, help="pinned requirements, as pip takes them")
    parser.add_argument(
        "--advisories", metavar="PATH", type=Path,
        help="an export of OSV for where the service is away: a folder, a zip or a JSON file",
    )  # fmt: skip
    options = parser.begin()
    raise SystemExit(audit(options.requirements, options.advisories))
