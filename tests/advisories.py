"""Advisories from a file, for `make audit` where no service can be reached: an export of OSV (https://osv.dev).

That is a folder or a zip of JSON files, each an advisory (OSV's own `PyPI/all.zip` is one), or a JSON file with one
advisory or a list of them (https://ossf.github.io/osv-schema/). Of an advisory counts `affected`: packages of the
ecosystem PyPI, with `versions`, or `ranges` of the type ECOSYSTEM.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ECOSYSTEM = "PyPI"
_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)(\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


def audit_offline(requirements: Path, advisories: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the packages of a file of pinned requirements in pip-audit's form, and when the newest advisory changed.

    Raises ValueError if the file of advisories is none, or has none.
    """
    flaws: dict[str, list[dict[str, Any]]] = {}
    newest = ""
    for advisory in read(advisories):
        newest = max(newest, str(advisory.get("modified", "")))
        if "withdrawn" not in advisory:
            for affected in advisory.get("affected", ()):
                package = affected.get("package", {})
                if package.get("ecosystem") == ECOSYSTEM:
                    flaws.setdefault(canonicalize_name(package["name"]), []).append({**affected, "id": advisory["id"]})
    if not newest:
        msg = f"{advisories} has no advisory: it must be an export of OSV, as a folder, a zip or a JSON file"
        raise ValueError(msg)
    pinned = _PINNED.findall(requirements.read_text(encoding="utf-8"))
    return [_judged(name, version, flaws.get(canonicalize_name(name), ())) for name, _, version in pinned], newest


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the advisories of a folder, a zip or a JSON file. Raises ValueError if it cannot be read as one."""
    try:
        if path.is_dir():
            texts = (file.read_bytes() for file in sorted(path.rglob("*.json")))
        elif zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            texts = (archive.read(name) for name in archive.namelist() if name.endswith(".json"))
        else:
            texts = iter([path.read_bytes()])
        for text in texts:
            found = json.loads(text)
            yield from found if isinstance(found, list) else [found]
    except (OSError, ValueError) as exc:
        msg = f"{path} cannot be read as advisories: {exc}"
        raise ValueError(msg) from None


def _judged(name: str, version: str, flaws: Any) -> dict[str, Any]:
    vulns = [{"id": flaw["id"], "fix_versions": _fixed(flaw)} for flaw in flaws if affects(flaw, version)]
    return {"name": name, "version": version, "vulns": vulns}


def affects(affected: dict[str, Any], version: str) -> bool:
    """Whether a version is one of those that an advisory names, one by one or by ranges."""
    return version in affected.get("versions", ()) or any(
        _within(each.get("events", ()), Version(version))
        for each in affected.get("ranges", ())
        if each.get("type") == "ECOSYSTEM"
    )


def _within(events: Any, version: Version) -> bool:
    """Whether the last event up to a version is its introduction; `last_affected` still counts as affected."""
    inside = False
    for event in events:
        kind, text = next(iter(event.items()))
        at = Version("0.dev0") if text == "0" else _version(text)
        if at is None:
            continue
        if kind == "introduced" and version >= at:
            inside = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            inside = False
    return inside


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _fixed(affected: dict[str, Any]) -> list[str]:
    return [event["fixed"] for each in affected.get("ranges", ()) if each.get("type") == "ECOSYSTEM"
            for event in each.get("events", ()) if "fixed" in event]  # fmt: skip
