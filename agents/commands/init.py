"""Write a small project into an empty or a new folder: sources and a route, a plugin with its test, a demo, a compose
file, an image, and manifests for Kubernetes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from agents.commands import DONE, command, say
from models.errors import MillraceError

TEMPLATES = Path(__file__).with_name("project")
"""The files of a project. The base of the manifests is that of deploy/kubernetes, by symbolic links."""
SUFFIX = ".template"
"""End of the names of files that would mean something here: modules of Python, files that begin with a dot."""
HIDDEN = ("gitignore", "dockerignore")
NAME = "my-project"
"""Name of the project in the templates."""
OWN_NAMES = frozenset({"millrace", "millrace-kafka"})
MAX_NAME = 60
"""Longest name: it becomes a consumer group, an image and a distribution."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write it; its name is the project's")


def run(options: argparse.Namespace) -> int:
    """Write the project and name each file. Raises MillraceError if the folder is not empty or cannot be written to."""
    folder: Path = options.folder
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            msg = f"{folder} is not an empty folder: name one that does not exist yet; nothing was written"
            raise MillraceError(msg)
        for path in _write(folder, project_name(folder)):
            print(path)
    except OSError as exc:
        msg = f"cannot write {exc.filename}: {exc.strerror}"
        raise MillraceError(msg) from None
    python = "" if command() == "millrace" else f" PYTHON={sys.executable}"
    say(f"Next: cd {folder}\n"
        f"  make test{python}     test the plugin without Kafka (needs pytest)\n"
        f"  make demo{python}     run all of it on this machine\n"
        "README.md has the rest.")  # fmt: skip
    return DONE


def project_name(folder: Path) -> str:
    """Return the project's name: the folder's, in small letters, digits and single hyphens. Millrace's own names are
    those of its image and its distribution.
    """
    name = re.sub("[^a-z0-9]+", "-", folder.resolve().name.lower())[:MAX_NAME].strip("-")
    return f"{name}-project" if name in OWN_NAMES else name or NAME


def _write(folder: Path, name: str) -> Iterator[Path]:
    """Write each file, and yield where it is."""
    for template in sorted(TEMPLATES.rglob("*")):
        if not template.is_file():
            continue
        place = folder / target(template.relative_to(TEMPLATES))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(template.read_text(encoding="utf-8").replace(NAME, name), encoding="utf-8")
        yield place


def target(template: Path) -> Path:
    """Return the path of a template's file within the project."""
    name = template.name.removesuffix(SUFFIX)
    return template.with_name(f".{name}" if name in HIDDEN else name)
