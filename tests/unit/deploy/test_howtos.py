"""What the pages of docs/howto show: settings, patches of the manifests, and sources."""

from __future__ import annotations

import re

import pytest
import yaml

from streams.sources import parse
from tests.unit.deploy.conftest import ROOT

pytestmark = pytest.mark.slow

PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "howto").glob("*.md")}
BASE = ROOT / "deploy" / "kubernetes" / "base"
SECRETS = "/etc/millrace/secrets/"
"""Where the manifests mount the Secret."""


def blocks(page, language):
    """Return the blocks of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


SETTINGS = [(page, block) for page in sorted(PAGES) for block in blocks(page, "env")]
PATCHES = [(page, block) for page in sorted(PAGES) for block in blocks(page, "yaml") if block.startswith("patches:")]


@pytest.mark.parametrize(("page", "block"), SETTINGS)
def test_settings_are_settings(page, block, load):
    """Each is one of this version, with a value that it takes; files are those that the page puts into the Secret."""
    variables = dict(line.split("=", 1) for line in block.splitlines())
    files = [value for value in variables.values() if value.startswith(SECRETS)]
    for value in files:
        assert value.removeprefix(SECRETS) in PAGES[page].replace("web-token=", "web-token "), value
    kept = {name: value for name, value in variables.items() if not value.startswith(SECRETS) or name.endswith("_FILE")}
    load(kept)


@pytest.mark.parametrize(("page", "block"), PATCHES)
def test_patches_fit_the_base(page, block):
    """They name a manifest of the base, and replace what is there or append to a list."""
    for patch in yaml.safe_load(block)["patches"]:
        [manifest] = [
            found
            for path in BASE.glob("*.yaml")
            if (found := yaml.safe_load(path.read_text()))["kind"] == patch["target"]["kind"]
        ]
        assert manifest["metadata"]["name"] == patch["target"]["name"]
        for change in yaml.safe_load(patch["patch"]):
            place = manifest
            *parents, last = change["path"].strip("/").split("/")
            for name in parents:
                place = place[int(name)] if isinstance(place, list) else place[name]
            assert change["op"] == "add" if last == "-" else last in place
            if page == "kafka-login.md":
                assert place[last] == 9092


def test_the_sources_shown_are_valid(tmp_path):
    """What a reader copies from the page is read without a problem, but for the file that is not here."""
    [text] = blocks("internal-upstreams.md", "toml")
    _, problems = parse(text.encode())
    assert [problem for problem in problems if SECRETS not in str(problem)] == []
