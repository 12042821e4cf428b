"""deploy/kubernetes: against the schemas of Kubernetes, and against itself, the settings and the server's routes."""

from __future__ import annotations

import ipaddress
import re

import kubernetes_validate
import pytest
import yaml

from streams.config.settings import EVERYWHERE, SHUTDOWN_DEADLINE
from tests.unit.deploy.conftest import ROOT

pytestmark = pytest.mark.slow

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.31", kubernetes_validate.latest_version())
"""The oldest that is still much in use, and the newest known."""
KUSTOMIZE = "kustomization.yaml"
PATCHES = {FOLDER / "overlays" / "large" / "deployment.yaml"}
"""Parts of manifests."""
CUSTOM = {"ScaledObject"}
"""Kinds that Kubernetes itself has no schema for."""
WORKLOADS = ("Deployment", "StatefulSet")
PRIVATE = ("10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "127.0.0.1", "100.64.0.1", "fd00::1", "fe80::1",
           "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1")  # fmt: skip


def read(path):
    """Return the documents of a file, a commented octal or a date being what YAML says it is."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


MANIFESTS = [
    (path, document)
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != KUSTOMIZE and path not in PATCHES
    for document in read(path)
]
SERVED = [(path, manifest) for path, manifest in MANIFESTS if manifest["kind"] in WORKLOADS]


def named(pairs):
    """Return the ids of pairs of path and manifest."""
    return [f"{path.parent.name}-{manifest['kind']}" for path, manifest in pairs]


def of_kind(kind):
    """Return the manifests of a kind."""
    return [manifest for _, manifest in MANIFESTS if manifest["kind"] == kind]


def fits(selector, labels):
    """Whether a selector of `matchLabels` picks something with these labels."""
    return selector.items() <= labels.items()


workloads = pytest.mark.parametrize("workload", [manifest for _, manifest in SERVED], ids=named(SERVED))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("path", "manifest"), MANIFESTS, ids=named(MANIFESTS))
def test_manifests_are_valid(path, manifest, version):
    """Every manifest is what Kubernetes' own schemas allow, and has no field that they do not know."""
    if manifest["kind"] not in CUSTOM:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_kustomizations_name_what_is_there():
    """Every kustomization names each manifest beside it, once, and nothing that is not there."""
    for path in FOLDER.rglob(KUSTOMIZE):
        found = yaml.safe_load(path.read_text())
        files = [*found.get("resources", []), *(patch["path"] for patch in found.get("patches", []) if "path" in patch)]
        generated = [name for each in found.get("configMapGenerator", []) for name in each["envs"]]
        for name in (*files, *generated, *found.get("components", [])):
            assert (path.parent / name).exists(), f"{path}: {name}"
        beside = {each.name for each in path.parent.iterdir() if each.is_file()} - {KUSTOMIZE}
        assert beside == {name for name in (*files, *generated) if not name.startswith("..")}, path


@workloads
def test_selectors_pick_the_pods(workload):
    """Workload, Service, budget and network policy each select the labels that the pods have."""
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert fits(workload["spec"]["selector"]["matchLabels"], labels)
    assert all(fits(budget["spec"]["selector"]["matchLabels"], labels) for budget in of_kind("PodDisruptionBudget"))
    assert all(fits(policy["spec"]["podSelector"]["matchLabels"], labels) for policy in of_kind("NetworkPolicy"))
    services = [each for each in of_kind("Service") if fits(each["spec"]["selector"], labels)]
    names = {each["metadata"]["name"] for each in services}
    assert "millrace" in names
    assert workload["spec"].get("serviceName", "millrace") in names


def test_pages_are_those_of_workers_with_tables():
    """Where some workers only answer, the Service of the pages picks the others, by labels that they have."""
    found = yaml.safe_load((FOLDER / "overlays" / "large" / KUSTOMIZE).read_text())
    [patch] = [each for each in found["patches"] if each.get("target", {}).get("kind") == "Service"]
    [change] = yaml.safe_load(patch["patch"])
    key = change["path"].removeprefix("/spec/selector/").replace("~1", "/")
    picked = [each for _, each in SERVED if each["spec"]["template"]["metadata"]["labels"].get(key) == change["value"]]
    arguments = [each["spec"]["template"]["spec"]["containers"][0]["args"] for each in picked]
    assert arguments == [["worker", "--role", "tables"]]


def test_workloads_do_not_pick_each_others_pods():
    """No two workloads have the same selector."""
    selectors = [workload["spec"]["selector"]["matchLabels"] for _, workload in SERVED]
    assert [a for a in selectors for b in selectors if a is not b and fits(a, b)] == []


@workloads
def test_probes_and_services_meet_the_server(workload, probed, load):
    """Probes ask for routes that are there, on the port that the settings and the Services name."""
    [container] = workload["spec"]["template"]["spec"]["containers"]
    [port] = container["ports"]
    assert port["containerPort"] == load({}).web_port
    probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert [probe["path"] for probe in probes] == ["/livez", "/livez", "/readyz"]
    assert {probe["path"] for probe in probes} <= probed
    assert {probe["port"] for probe in probes} == {port["name"]}
    targets = {each["targetPort"] for service in of_kind("Service") for each in service["spec"]["ports"]}
    assert targets == {port["name"]}
    assert workload["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])


@workloads
def test_settings_are_settings(workload, load):
    """Every variable that a container gets is a setting of this version, and its value one that it takes."""
    [container] = workload["spec"]["template"]["spec"]["containers"]
    [source] = container["envFrom"]
    assert source == {"configMapRef": {"name": "millrace"}}
    lines = (FOLDER / "base" / "worker.env").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    variables |= {each["name"]: each.get("value", "10.1.2.3") for each in container["env"]}
    for address, host in (("10.1.2.3", "10.1.2.3"), ("fd00:10::5", "[fd00:10::5]")):
        loaded = load({name: value.replace("$(POD_IP)", address) for name, value in variables.items()})
        assert loaded.web_url == f"http://{host}:{loaded.web_port}"
    assert loaded.web_host == EVERYWHERE
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    files = [value for name, value in variables.items() if name.endswith("_FILE")]
    assert [value for value in files if value.rpartition("/")[0] not in mounts] == []
    if loaded.store.startswith("rocksdb://"):
        assert loaded.store.removeprefix("rocksdb://") in mounts
    # As many children as CPUs asked for, not as the node has.
    assert loaded.pool_workers == int(container["resources"]["requests"]["cpu"])


@workloads
def test_pods_are_restricted(workload):
    """Each pod meets the restricted profile of Pod Security, and has a read-only root and no token."""
    pod = workload["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert set(pod["volumes"][0]) == {"name", "secret"}
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert pod["terminationGracePeriodSeconds"] > SHUTDOWN_DEADLINE
    assert f"USER {pod['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text()


def test_both_workloads_run_their_container_in_the_same_way():
    """What the StatefulSet has beside the Deployment is its role and its disk."""
    (_, deployment), (_, stateful) = sorted(SERVED, key=lambda pair: pair[1]["kind"])
    one, other = (each["spec"]["template"]["spec"] for each in (deployment, stateful))
    [mine], [its] = one.pop("containers"), other.pop("containers")
    for pod in (one, other):
        del pod["topologySpreadConstraints"]
    assert one == other
    assert its.pop("args") == [*mine.pop("args"), "--role", "tables"]
    assert its["env"].pop()["name"] == "MILLRACE_STORE"
    its["volumeMounts"].remove({"name": "tables", "mountPath": "/var/lib/millrace"})
    assert mine == its


def test_no_secret_is_in_a_manifest():
    """Secrets are referred to, never given."""
    assert of_kind("Secret") == []
    assert all(not re.search("(?i)(password|token|secret)=(?!/)", path.read_text()) for path in FOLDER.rglob("*.env"))


def test_egress_leaves_out_what_is_private():
    """Private, local and metadata addresses are in no range that the policy lets workers reach by address."""
    [policy] = of_kind("NetworkPolicy")
    blocks = [to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
    for text in PRIVATE:
        address = ipaddress.ip_address(text)
        reached = [block["cidr"] for block in blocks if address in ipaddress.ip_network(block["cidr"])
                   and not any(address in ipaddress.ip_network(hole) for hole in block["except"])]  # fmt: skip
        assert reached == [], text


def test_scaling_follows_the_workers_group(load):
    """KEDA looks at the lag of the settings' group and topic at their broker, from where workers begin."""
    [scaled] = of_kind("ScaledObject")
    settings = load({})
    [trigger] = scaled["spec"]["triggers"]
    asked = trigger["metadata"]
    assert (asked["consumerGroup"], asked["topic"]) == (settings.group, settings.requests_topic)
    assert f"KAFKA_BOOTSTRAP_SERVERS={asked['bootstrapServers']}\n" in (FOLDER / "base" / "worker.env").read_text()
    assert asked["offsetResetPolicy"] == "earliest"
    assert scaled["spec"]["scaleTargetRef"]["name"] in {each["metadata"]["name"] for each in of_kind("Deployment")}
    assert all(isinstance(value, str) for value in asked.values())  # KEDA's schema has strings only
