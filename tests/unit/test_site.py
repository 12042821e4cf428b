"""What `make docs` makes of the pages, but for Sphinx itself."""

from __future__ import annotations

import pytest

from tests.site import DOCS, ROOT, contents, foreign, prepare, rewrite


def test_links_hold_on_the_site():
    """Those between pages, those to pages of the root, and those of other hosts stay; other files become plain text."""
    for page, text, expected in (
        ("requests.md", "[a](routes.md#tests) ![b](overview.png)", "[a](routes.md#tests) ![b](overview.png)"),
        ("decisions.md", "[a](../ARCHITECTURE.md)", "[a](ARCHITECTURE.md)"),
        ("howto/sizing.md", "[a](../runbook.md) [b](../../CHANGELOG.md)", "[a](../runbook.md) [b](../CHANGELOG.md)"),
        ("ARCHITECTURE.md", "[a](docs/decisions.md#routes)", "[a](decisions.md#routes)"),
        ("metrics.md", "[a](../agents/metrics.py), [b](cookbook/)", "a, b"),
        ("index.md", "[a](https://example.com/x) [b](#here)", "[a](https://example.com/x) [b](#here)"),
    ):
        assert rewrite(text, page) == expected


def test_a_dead_link_is_named():
    """With its page, its text and where it leads."""
    with pytest.raises(ValueError, match=r"howto/sizing\.md: the link \[a\]\(runbook\.md\) leads to nothing"):
        rewrite("[a](runbook.md)", "howto/sizing.md")


def test_every_page_is_in_the_contents(tmp_path):
    """The index names each page of docs/ under one of its headings; the tutorial comes first."""
    found = contents((DOCS / "index.md").read_text())
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - {"index"}
    listed = [line for line in found.splitlines() if line and not line.startswith(("`", ":"))]
    assert pages <= {line.removeprefix("../") for line in listed}
    assert [line for line in found.splitlines() if line.startswith(":caption:")] == [
        ":caption: Start", ":caption: How-tos", ":caption: Reference", ":caption: Explanation",
    ]  # fmt: skip
    few = contents("## How-tos\n- [a](plugins.md)\n")
    assert (few.count("\nplugins\n"), few.partition(":caption: More")[2].count("\nrunbook\n")) == (1, 1)
    prepare(tmp_path)
    assert (tmp_path / "ARCHITECTURE.md").read_text() != (ROOT / "ARCHITECTURE.md").read_text()
    assert all((tmp_path / f"{page}.md").exists() for page in pages)


def test_what_comes_from_another_host_is_named(tmp_path):
    """Scripts, style sheets, fonts and images; a link that a reader may follow is none of these."""
    (tmp_path / "a.html").write_text(
        '<a href="https://h/"></a><link rel="canonical" href="https://h/"><img src="b.png">'
    )
    (tmp_path / "a.css").write_text("a { background: url(b.png) }")
    assert foreign(tmp_path) == []
    (tmp_path / "b.html").write_text('<script src="https://h/a.js"></script><link rel=stylesheet href="//h/a.css">')
    (tmp_path / "b.css").write_text('@font-face { src: url("https://h/f.woff") }')
    assert [line.partition(": ")[0] for line in foreign(tmp_path)] == ["b.css", "b.html", "b.html"]
