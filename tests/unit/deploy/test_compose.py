"""docker-compose.yml and Dockerfile, as they are read: what they must say, and what they must not."""

from __future__ import annotations

import re

import pytest
import yaml

from streams.config.settings import DECLARED, SHUTDOWN_DEADLINE

WORKERS = ("worker-1", "worker-2")


@pytest.fixture
def services(root):
    """The services of docker-compose.yml."""
    return yaml.safe_load((root / "docker-compose.yml").read_text())["services"]


def filled(text):
    """Return a value as compose makes it of an environment that has nothing but what is demanded."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))
    return re.sub(r"\$\{\w+:\?[^}]*\}", "demanded", text)


@pytest.mark.parametrize("name", WORKERS)
def test_the_workers_settings_are_settings(services, load, name):
    """Every variable of a worker is a setting of this version and its value one that it takes."""
    environment = services[name]["environment"]
    loaded = load({key: filled(value) for key, value in environment.items()})
    assert loaded.worker_id == name
    assert loaded.web_url == f"http://{name}:{loaded.web_port}"


def test_ports_are_published_on_loopback(root):
    """Nothing that compose starts can be reached from another machine, also with TLS added."""
    for path in ("docker-compose.yml", "deploy/nginx/tls.yml"):
        found = yaml.safe_load((root / path).read_text())["services"].values()
        published = [port for service in found for port in service.get("ports", [])]
        assert published
        assert [port for port in published if not re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port)] == []


def test_no_secret_is_in_the_file(services):
    """Secrets come from the environment, and compose refuses to start without the token."""
    given = {
        key: value
        for service in services.values()
        for key, value in service.get("environment", {}).items()
        if key in {each.variable for each in DECLARED if each.secret} or re.search("PASSWORD|SECRET_|TOKEN", key)
    }
    assert re.fullmatch(r"\$\{MILLRACE_WEB_TOKEN:\?.+\}", given.pop("MILLRACE_WEB_TOKEN"))
    assert given == {}


def test_what_is_waited_for_has_a_health_check(services):
    """Whoever waits for `service_healthy` waits for something that can be."""
    for service in services.values():
        for name, wanted in service.get("depends_on", {}).items():
            assert wanted["condition"] == "service_completed_successfully" or "healthcheck" in services[name], name


def test_services_are_hardened(services):
    """All but Kafka, whose image configures itself in its own folders, run with a read-only root; none has rights."""
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only") or name == "kafka", name


def test_workers_may_take_their_time_to_stop(services):
    """Compose kills a worker only after it would have ended itself."""
    for name in WORKERS:
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > SHUTDOWN_DEADLINE


def test_health_checks_ask_what_is_there(services, root, probed):
    """The image and the compose file probe paths that the worker has, on the port that it listens on."""
    checks = [services["worker-1"]["healthcheck"]["test"][-1], (root / "Dockerfile").read_text()]
    for text in checks:
        assert set(re.findall(r"'GET', '([^']+)'", text)) < probed
        assert "6066" in text


def test_what_is_mounted_is_there(root):
    """Each file or folder that a service mounts is in the repository."""
    for path in ("docker-compose.yml", "deploy/nginx/tls.yml"):
        found = yaml.safe_load((root / path).read_text())["services"].values()
        mounted = [text.split(":")[0] for service in found for text in service.get("volumes", [])]
        assert [text for text in mounted if text.startswith("./") and not (root / text).exists()] == []


def test_prometheus_scrapes_the_workers(services, root):
    """Its targets are the workers of the compose file, on the port that they listen on."""
    found = yaml.safe_load((root / "deploy" / "prometheus" / "prometheus.yml").read_text())
    groups = [group for job in found["scrape_configs"] for group in job["static_configs"]]
    assert [target for group in groups for target in group["targets"]] == [f"{name}:6066" for name in WORKERS]
    assert set(WORKERS) < set(services)


def test_the_image_gets_only_what_the_wheel_is_made_of(root):
    """`.dockerignore` denies everything and then allows what pyproject.toml and the build name."""
    lines = [line for line in (root / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    packages = {"agents", "millrace", "models", "streams"}
    linked = {"deploy/kubernetes/base"}  # the projects that `millrace init` writes have it
    assert allowed == packages | linked | {"pyproject.toml", "uv.lock", "README.md", "LICENSE"}
    assert all((root / name).exists() for name in allowed)
