"""`millrace init`: what it writes is a project that works, and it writes over nothing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from agents.commands import DONE, FAILED, demo_project, init, run
from models import documents
from models.checks import registry
from models.errors import MillraceError
from streams.config.settings import Settings
from streams.sources import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
BASE = ROOT / "deploy" / "kubernetes" / "base"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project as it is written."""
    folder = tmp_path_factory.mktemp("of") / "Order_Rates"
    assert run(["init", str(folder)]) == DONE
    return folder


def python(folder, *arguments):
    """Run a module in a project's folder as its Makefile does."""
    environment = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}", "MILLRACE_PLUGINS": "conversion"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def files(folder):
    """Return the files of a folder, but for what running its tests leaves."""
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "cache" not in str(path)}


def test_it_names_the_files_that_it_writes(tmp_path, capsys):
    """One a line on stdout, each there; a folder that is there and empty will do."""
    assert run(["init", str(tmp_path)]) == DONE
    out, said = capsys.readouterr()
    assert {Path(line) for line in out.splitlines()} == {tmp_path / path for path in files(tmp_path)}
    assert f"cd {tmp_path}" in said
    assert "make demo" in said


def test_it_refuses_a_folder_that_is_not_empty(tmp_path, capsys):
    """Nothing is written, and the message says what to do; likewise with a file in the folder's place."""
    (tmp_path / "mine").write_text("mine")
    for place in (tmp_path, tmp_path / "mine"):
        assert run(["init", str(place)]) == FAILED
        assert f"{place} is not an empty folder: name one that does not exist yet" in capsys.readouterr().err
    assert files(tmp_path) == {Path("mine")}
    assert run(["init", "/dev/null/folder"]) == FAILED
    assert "Not a directory" in capsys.readouterr().err


def test_the_project_has_the_folder_s_name(project):
    """In a form that Kafka, registries of images and of packages take."""
    assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["name"] == "order-rates"
    assert init.NAME not in "".join((project / path).read_text() for path in files(project))
    assert init.project_name(Path("/x/--")) == init.NAME
    assert len(init.project_name(Path("/x") / ("a" * 200))) == init.MAX_NAME
    # The image millrace would be built from itself, and the distribution millrace-kafka depend on itself.
    assert [init.project_name(Path("/x") / name) for name in ("Millrace", "millrace_kafka", "millrace-2")] == [
        "millrace-project", "millrace-kafka-project", "millrace-2",
    ]  # fmt: skip


def test_its_tests_pass_without_sockets(project):
    """As `make test` runs them, and with every socket forbidden."""
    done = python(project, "pytest", "-q", "-p", "no:cacheprovider", "--disable-socket")
    assert (done.returncode, "4 passed" in done.stdout) == (0, True), done.stdout + done.stderr


def test_its_plugin_is_found(project):
    """The setting of Makefile and image names it."""
    done = python(project, "millrace", "check", "plausible", "1.5", "--args", '{"low": 2}')
    assert (done.returncode, done.stdout) == (0, "1.5 plausible: False\n"), done.stderr
    for name in ("Makefile", "Dockerfile"):
        assert "MILLRACE_PLUGINS" in (project / name).read_text()


def test_its_code_is_clean(project):
    """The linter that checks Millrace finds nothing in it either."""
    left_out = "ANN,S101,PLR2004,INP001,COM812,D203,D213,CPY001"
    done = python(
        project, "ruff", "check", "--isolated", "--line-length=120", "--select=ALL", f"--ignore={left_out}", "."
    )
    assert done.returncode == 0, done.stdout
    assert len((project / "README.md").read_text().splitlines()) == 10


def test_its_manifests_are_an_overlay_of_the_base(project):
    """The base is that of deploy/kubernetes, byte for byte; the overlay has the project's image and settings."""
    base = project / "kubernetes" / "base"
    assert {path.name: path.read_bytes() for path in base.iterdir()} == {
        path.name: path.read_bytes() for path in BASE.iterdir()
    }
    found = yaml.safe_load((project / "kubernetes" / "kustomization.yaml").read_text())
    assert found["resources"] == ["base"]
    assert found["images"] == [{"name": "millrace", "newName": "order-rates", "newTag": "latest"}]
    [generated] = found["configMapGenerator"]
    assert (generated["name"], generated["behavior"]) == ("millrace", "merge")
    assert (project / "kubernetes" / generated["envs"][0]).exists()


def test_its_image_and_compose_file_run_a_worker(project):
    """The image has what the settings in it name; services are hardened, and wait for what has a health check."""
    recipe = (project / "Dockerfile").read_text()
    assert "COPY conversion.py sources.toml /project/" in recipe
    assert "FROM ${MILLRACE}" in recipe
    kept_out = (project / ".dockerignore").read_text().split()
    assert kept_out == ["*", "!conversion.py", "!sources.toml"]
    services = yaml.safe_load((project / "compose.yml").read_text())["services"]
    assert services["topics"]["image"] == services["worker"]["image"] == "order-rates:latest"
    ours = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services["kafka"]["image"] == ours["kafka"]["image"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert services["worker"]["read_only"]


@pytest.fixture
def plugin(project, monkeypatch):
    """The project's plugin, registered for one test alone."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(documents, "_REGISTRY", dict(documents._REGISTRY))
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.delitem(sys.modules, "conversion", raising=False)
    importlib.import_module("conversion")


def samples(folder, project):
    """Return the records of a demo's folder for the project's sources."""
    return list(demo_project._samples(folder, Settings(), load(str(project / "sources.toml"))))


@pytest.mark.usefixtures("plugin")
def test_the_demo_sends_each_line_to_the_topic_of_its_file(project):
    """What becomes of it is expected on the results, or on the route's topics."""
    found = samples(project / "demo", project)
    assert [sample.topic for sample in found] == ["orders"] * 4 + ["requests"]
    assert {sample.outputs for sample in found} == {("orders-priced", "orders-failed"), ("results",)}


@pytest.mark.usefixtures("plugin")
def test_a_demo_without_records_or_of_topics_that_nothing_reads_is_refused(project, tmp_path):
    """The message names the file that is missing, or the one that is in vain."""
    with pytest.raises(MillraceError, match=r"it needs a file TOPIC\.jsonl, such as requests\.jsonl"):
        samples(tmp_path, project)
    (tmp_path / "order.jsonl").write_text("{}")
    with pytest.raises(MillraceError, match=r"no route of MILLRACE_SOURCES reads the topic of .*: 'order'"):
        samples(tmp_path, project)


async def test_recorded_responses_are_served_by_host_path_and_query(tmp_path):
    """PATH?QUERY takes precedence over PATH; what has no file is not found, wherever the path leads."""
    from aiohttp import ClientSession
    from yarl import URL

    folder = tmp_path / "responses"
    (folder / "host").mkdir(parents=True)
    (folder / "host" / "a").write_text("1")
    (folder / "host" / "a?b=2").write_text("2")
    (tmp_path / "secret").write_text("3")
    async with demo_project._serve(folder) as address, ClientSession() as session:
        found = []
        for path in ("host/a", "host/a?b=2", "host/a?b=3", "host", "..%2Fsecret", "host/..%2F..%2Fsecret"):
            async with session.get(URL(f"http://{address}/{path}", encoded=True)) as response:
                found.append(await response.text() if response.ok else response.status)
    assert found == ["1", "2", "1", 404, 404, 404]


def test_urls_of_sources_lead_to_the_recorded_responses():
    """URLs of sources and of token endpoints, and no other text."""
    text = 'url = "https://a.example.com/x"\nurl="http://b/"\ntoken_url = \'https://id/\'\nproxy_url2 = "http://p/"\n# http://c'
    assert demo_project._URL.sub(r"\1http://h:1/", text) == (
        'url = "http://h:1/a.example.com/x"\nurl="http://h:1/b/"\ntoken_url = \'http://h:1/id/\'\n'
        'proxy_url2 = "http://p/"\n# http://c'
    )
