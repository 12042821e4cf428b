"""The tests on the Python of another release of Debian: `python -m tests.pythons trixie` (3.13, the image's).

The release is installed into a folder that is kept between runs, the sources as git has them are copied into it, and
the locked packages installed there. Then the unit tests run in it, and one on Kafka: a broker out here serves them.
Options of pytest come behind `--`, before the paths.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from agents.entry import EntryPoint
from agents.testing.broker import broker
from tests import debian

ROOT = Path(__file__).parents[1]
PACKAGES = ("ca-certificates", "git", "make", "python3", "python3-venv")
"""What a machine of a developer has before `make setup`."""
TESTS = ("tests/unit", "tests/integration/test_delivery.py")
"""What runs where nothing else is asked for."""
QUICK = ("-m", "not slow", "tests/unit")
"""What a report runs where nothing else is asked for."""
INSIDE = """set -e
mount -t proc proc /proc
cd /src
test -x /opt/uv/bin/uv || { python3 -m venv /opt/uv; /opt/uv/bin/pip install --quiet uv; }
/opt/uv/bin/uv sync --frozen --quiet --no-managed-python --python "$(command -v python3)" ||
    { echo "packages could not be installed: uv says above which"; exit 1; }
.venv/bin/python -VV
exec .venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --tb=short -p no:cacheprovider \
    --ignore tests/unit/deploy/test_alerts.py "$@"
"""
"""Run with the release as its root, in namespaces of its own, so that what it mounts and starts ends with it. The tests
of alerts run Prometheus's own program, which no Python changes, and are left out.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the tests, and return pytest's exit code, or 1 if the release cannot be had; of a report always 0."""
    parser = EntryPoint("tests.pythons", __doc__)
    parser.add_argument("suite", metavar="SUITE", help="a release of Debian: trixie has Python 3.13, sid the newest")
    parser.add_argument("tests", metavar="PATH", nargs="*", help=f"default: {' '.join(TESTS)}")
    parser.add_argument(
        "--report", action="store_true", help="what fails is printed and fails nothing; quick unit tests"
    )
    given = parser.begin(arguments)
    code = _run(given.suite, given.tests or list(QUICK if given.report else TESTS))
    if given.report:
        print(f"{given.suite}: a report, which fails nothing; pytest's exit code was {code}, its summary stands above")
        return 0
    return code


def _run(suite: str, tests: list[str]) -> int:
    try:
        with tempfile.TemporaryDirectory(prefix="millrace-python-") as name:
            root = Path(name) / "root"
            _unpack(root, suite)
            return _test(root, tests)
    except (debian.DebianError, subprocess.CalledProcessError) as exc:
        print(f"no Python of Debian's {suite} here: {exc}", file=sys.stderr)
        return 1


def _unpack(root: Path, suite: str) -> None:
    """Make the release's files at `root`, with the sources under /src."""
    kept = debian.kept(f"python-{suite}", repr(PACKAGES))
    root.mkdir()
    if not kept.exists():
        with tempfile.TemporaryDirectory() as name:
            debian.bootstrap(Path(name) / "root", suite, PACKAGES)
            with debian.new(kept) as file:
                debian.run("tar", "--create", "--directory", Path(name) / "root", "--file", file, ".")
    debian.run("tar", "--extract", "--directory", root, "--file", kept)
    shutil.copy("/etc/hosts", root / "etc/hosts")  # tests look up this machine's own names
    sources = root / "src"
    sources.mkdir()
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                           cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")  # fmt: skip
    there = b"\0".join(name for name in names if name and (ROOT / os.fsdecode(name)).exists())
    packed = subprocess.run(["tar", "--create", "--directory", ROOT, "--null", "--files-from=-"],
                            input=there, capture_output=True, check=True).stdout  # fmt: skip
    subprocess.run(["tar", "--extract", "--directory", sources], input=packed, check=True)


def _test(root: Path, tests: list[str]) -> int:
    """Run pytest inside, with a broker out here if a test wants one."""
    # Should this process be killed, what runs inside ends too.
    inside = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--pid", "--fork", "--kill-child",
              "--propagation", "private", "chroot", str(root), "bash", "-c", INSIDE, "pytest", *tests]  # fmt: skip
    (root / "dev/shm").mkdir(exist_ok=True)
    environment = dict(os.environ) | debian.ENVIRONMENT | {"PATH": debian.PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
    for name in ("VIRTUAL_ENV", "UV_PYTHON", "PYTHONPATH"):
        environment.pop(name, None)
    if not any("integration" in test for test in tests):
        return subprocess.run(inside, env=environment, check=False).returncode
    with broker(need_real=True) as found:
        environment["KAFKA_BOOTSTRAP_SERVERS"] = found.servers
        return subprocess.run(inside, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
