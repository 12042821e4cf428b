"""What is served and what is not; what our own scripts and templates must not contain."""

from __future__ import annotations

import hashlib
import re

import pytest

from agents.web.assets import FOLDER, Assets

TEMPLATES = FOLDER.parent / "templates"
VENDORED = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""SHA-256 of the files of uplot 1.6.32 as its package has them."""
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|\beval\b|new Function"
)
INLINE = re.compile(
    r"<script(?![^>]*\bsrc=)|<style\b|\sstyle=|\son[a-z]+=|javascript:|\|\s*safe\b|Markup", re.IGNORECASE
)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_our_scripts_make_no_markup_of_text(path):
    """No script of ours turns text into elements or code; what is shown is set as text."""
    assert MARKUP.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_templates_have_nothing_inline_and_nothing_unescaped(path):
    """No inline script, style or handler, which the content policy would refuse, and no way round the escaping."""
    assert INLINE.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", VENDORED)
def test_uplot_is_as_its_package_has_it(name):
    """The vendored files are those of the published package, to the byte, with the licence beside them."""
    assert hashlib.sha256((FOLDER / "uplot" / name).read_bytes()).hexdigest() == VENDORED[name]
    assert "MIT License" in (FOLDER / "uplot" / "LICENSE").read_text(encoding="utf-8")


def test_a_file_has_an_address_with_its_digest():
    """The address changes with the content; a file that does not exist has none, nor one that is not the pages'."""
    assets = Assets()
    digest = hashlib.sha256((FOLDER / "app.css").read_bytes()).hexdigest()
    assert assets.address("app.css") == f"/static/app.css?v={digest[:12]}"
    for path in ("nope.css", "../pages.py", "docs/index.html"):
        with pytest.raises(KeyError):
            assets.address(path)
