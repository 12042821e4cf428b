"""Under which licences the packages are that Millrace brings along, from what is installed: `make licences` lists them,
and a unit test fails when one comes in that nobody has agreed to.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

from agents.entry import EntryPoint

ALLOWED = frozenset([
    "0BSD", "3-Clause BSD License", "Apache Software License", "Apache-2.0", "BSD License", "BSD-2-Clause",
    "BSD-3-Clause", "ISC", "ISC License (ISCL)", "MIT", "MIT License", "MIT-0", "MIT-CMU", "PSF-2.0",
    "Python Software Foundation License", "Repoze Public License", "The Unlicense (Unlicense)", "Zlib",
    # These ask for nothing of who merely imports the package.
    "GNU Library or Lesser General Public License (LGPL)", "LGPL-3.0-or-later", "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)",
])  # fmt: skip
"""Licences as packages name them."""
SAID_ELSEWHERE = {"aiocache": "BSD-3-Clause"}
"""Of packages whose metadata says nothing: what their LICENSE file says."""
EXTRAS = ("demo", "registry", "rocksdb", "traces")


def brought() -> dict[str, str]:
    """Return the licence of every package that an installation with all extras brings along, by name."""
    found: dict[str, str] = {}
    waiting = [("millrace-kafka", frozenset(EXTRAS))]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:  # for another platform or Python
            continue
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name != "millrace-kafka":
            found[package.metadata["Name"].lower()] = licence(package)
        for requirement in map(Requirement, package.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((requirement.name.lower(), frozenset(requirement.extras)))
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """Return a package's licence as its metadata has it: the expression, else the classifiers, else the field."""
    metadata = package.metadata
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or ()
                   if text.startswith("License :: ") and text != "License :: OSI Approved"]  # fmt: skip
    said = " OR ".join(classifiers) or (metadata.get("License") or "").partition("\n")[0]
    return said or SAID_ELSEWHERE.get(metadata["Name"].lower(), "unknown")


def refused(licences: dict[str, str]) -> Iterator[str]:
    """Name, a line each, the packages under a licence that is not allowed; of several to choose from, one is enough."""
    for name, text in licences.items():
        choices = (choice.strip("() ").split(" AND ") for choice in text.split(" OR "))
        if text not in ALLOWED and not any(ALLOWED.issuperset(choice) for choice in choices):
            yield f"{name}: {text}"


if __name__ == "__main__":
    EntryPoint("tests.licences", "Lists the licences of all packages that Millrace brings along.").begin()
    for name, text in brought().items():
        print(f"{name:44} {text}")
    raise SystemExit("\n".join(refused(brought())) or 0)
