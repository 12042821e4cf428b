"""Known vulnerabilities of pinned packages, by pip-audit. It asks a service on the internet. Where that does not answer
pip-audit itself reports nothing found; this says plainly that nothing was looked at, and ends with 0 all the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from agents.entry import EntryPoint

TIMEOUT = "15"
"""Seconds that pip-audit gives the service."""


def audit(requirements: str) -> int:
    """Audit a file of pinned requirements; returns 1 only if a vulnerability is known."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", requirements, "--no-deps", "--disable-pip",
               "--progress-spinner", "off", "--timeout", TIMEOUT, "--format", "json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        print("NOT AUDITED: pip-audit could not ask its service from here:", done.stderr.strip()[-300:], sep="\n")
        return 0
    code, lines = judge(packages)
    print(*lines, sep="\n")
    return code


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
    parser.add_argument("requirements", metavar="FILE", help="pinned requirements, as pip takes them")
    raise SystemExit(audit(parser.begin().requirements))
