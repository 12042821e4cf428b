"""The documentation as a site with a search, in reports/site: `make docs`. Sphinx builds it from the files that the
repository shows; a dead link ends the build, and so does a page that loads anything from another host.

Links to files of the repository that are no pages become plain text.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from agents.entry import EntryPoint

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = ROOT / "reports" / "site"
PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md")
"""Pages that stand in the repository's root."""
SETTINGS = """
project = "Millrace"
html_title = "Millrace"
html_theme = "furo"
html_show_sphinx = False
html_copy_source = False
extensions = ["myst_parser"]
myst_heading_anchors = 4
highlight_language = "text"
suppress_warnings = ["misc.highlighting_failure"]
"""
CONTENTS = """
```{{toctree}}
:hidden:
:caption: {title}

{pages}
```
"""
_HEADING = re.compile(r"^## (.+)\n", re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)\s]+)\)")
_LOADED = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|
                         <link\b(?![^>]*\brel=["']?canonical)[^>]*\bhref=["']?(?:https?:)?//|
                         @import\s|url\(["']?(?:https?:)?//""", re.VERBOSE)  # fmt: skip
"""What a browser would load from another host."""


def main() -> int:
    """Build the site; returns 1 if it could not be built as it should."""
    EntryPoint("tests.site", __doc__).begin()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        try:
            prepare(source)
        except ValueError as exc:
            print(exc)
            return 1
        shutil.rmtree(SITE, ignore_errors=True)
        build = [
            sys.executable,
            "-m",
            "sphinx",
            "--quiet",
            "--fail-on-warning",
            "--keep-going",
            "-d",
            f"{name}/doctrees",
        ]
        if subprocess.run([*build, source, SITE], check=False).returncode:
            return 1
    problems = foreign(SITE)
    print(*problems or [f"{SITE / 'index.html'}"], sep="\n")
    return int(bool(problems))


def prepare(source: Path) -> None:
    """Write the pages into a folder as Sphinx takes them. Raises ValueError for a link to a missing file."""
    pages = {path.relative_to(DOCS).as_posix(): path for path in DOCS.rglob("*.md")}
    pages |= {name: ROOT / name for name in PAGES}
    for page, path in pages.items():
        text = rewrite(path.read_text(encoding="utf-8"), page)
        (source / page).parent.mkdir(parents=True, exist_ok=True)
        (source / page).write_text(text + (contents(text) if page == "index.md" else ""), encoding="utf-8")
    for image in (*DOCS.glob("*.png"), *DOCS.glob("*.svg")):
        shutil.copy(image, source)
    (source / "conf.py").write_text(SETTINGS, encoding="utf-8")


def contents(index: str) -> str:
    """Return the tables of contents that the index's lists of links are: the tutorial first, unnamed pages last."""
    _, *parts = _HEADING.split(index)
    named = [("Start", "tutorial"), *zip(parts[::2], map(_pages, parts[1::2]), strict=True)]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - {"index"}
    if rest := pages - {page for _, several in named for page in several.split()}:
        named.append(("More", "\n".join(sorted(rest))))
    return "".join(CONTENTS.format(title=title, pages=pages) for title, pages in named)


def _pages(text: str) -> str:
    return "\n".join(target.removesuffix(".md") for _, _, target in _LINK.findall(text))


def rewrite(markdown: str, page: str) -> str:
    """Return a page's text with links that hold on the site. Raises ValueError for one to a missing file."""
    home = ROOT if page in PAGES else DOCS / Path(page).parent
    place = DOCS / Path(page).parent

    def link(found: re.Match[str]) -> str:
        image, text, target = found.groups()
        path, hash_, anchor = target.partition("#")
        if not path or ":" in path.partition("/")[0]:
            return found[0]
        file = Path(os.path.normpath(home / path))
        if not file.exists():
            msg = f"{page}: the link [{text}]({target}) leads to nothing"
            raise ValueError(msg)
        if file.parent == ROOT and file.name in PAGES:
            file = DOCS / file.name
        elif not file.is_relative_to(DOCS) or file.is_dir():
            return text
        return f"{image}[{text}]({os.path.relpath(file, place)}{hash_}{anchor})"

    return _LINK.sub(link, markdown)


def foreign(site: Path) -> list[str]:
    """Return what pages and style sheets of a site load from other hosts, a line each."""
    return [
        f"{path.relative_to(site)}: {found[0]}"
        for path in sorted(site.rglob("*"))
        if path.suffix in {".html", ".css"}
        for found in _LOADED.finditer(path.read_text(encoding="utf-8"))
    ]


if __name__ == "__main__":
    raise SystemExit(main())
