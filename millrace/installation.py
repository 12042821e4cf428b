"""Whether the packages that Python finds are Millrace's: `agents`, `models` and `streams` are common names, and an
application's folder or another distribution may come first on the path, or may have overwritten ours.

Imports none of them: code of another package would run, and fail with misleading errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

DISTRIBUTION = "millrace-kafka"
"""Name of the distribution; each of its packages repeats it as `DISTRIBUTION`."""
PACKAGES = ("agents", "models", "streams")
_NAMED = re.compile(rb'^DISTRIBUTION = "%s"\r?$' % DISTRIBUTION.encode(), re.MULTILINE)


def foreign_packages() -> Iterator[str]:
    """Yield a message for each package that is not Millrace's: where it comes from, and what to do."""
    for package in PACKAGES:
        spec = PathFinder.find_spec(package)
        origin = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        if origin is None:
            yield f"the package `{package}` is missing: reinstall {DISTRIBUTION}"
        elif not _is_ours(Path(origin)):
            found = f"{origin}{_owner(package)}"
            yield f"the package `{package}` is not Millrace's: Python finds {found}. {_advice(origin)}"


def _is_ours(init: Path) -> bool:
    """Whether a package's `__init__.py` names this distribution."""
    try:
        return _NAMED.search(init.read_bytes()) is not None
    except OSError:
        return False


def _owner(package: str) -> str:
    from importlib.metadata import packages_distributions  # noqa: PLC0415  takes long, and is seldom needed

    others = sorted(set(packages_distributions().get(package, ())) - {DISTRIBUTION})
    return f" (installed by {', '.join(others)})" if others else ""


def _advice(origin: str) -> str:
    if Path(origin).is_relative_to(Path(__file__).parents[1]):
        return f"Another distribution has overwritten it: install {DISTRIBUTION} in its own environment"
    return "Remove its folder from PYTHONPATH, start from another folder, or rename it"
