"""What the files for Kubernetes promise. Reads them as they stand and merged; calls no cluster."""

import base64
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from shared.egress import is_public
from shared.redis_url import read_sentinel_url
from shared.settings import Settings
from shared.store import keys
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
ROLES = ["api", "worker", "tool-runner", "webhooks"]
OVERLAYS = {
    "try": ["base", "components/valkey"],
    "gpu": ["base", "components/gpu", "components/sentinel", "components/keda"],
    "external": ["base", "components/gpu", "components/external-redis", "components/keda"],
    "cells": ["overlays/gpu", "components/router"],
    "two-models": ["overlays/gpu", "components/second-model"],
}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
CUSTOM = ("keda.sh/v1alpha1", "monitoring.coreos.com/v1")
"""Of operators; Kubernetes's schemas have none of their kinds."""
KUBERNETES = "1.37"
METRICS = ("ANTIPHON_METRICS_PORT", "ANTIPHON_METRICS_HOST")
UNITS = {"m": 2**20, "g": 2**30, "Mi": 2**20, "Gi": 2**30}


@cache
def load(path: Path) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(path.read_text()))


def read(folder: str) -> Iterator[dict[str, Any]]:
    """The resources and patches in a folder, without those that say how it is merged."""
    for path in sorted((FOLDER / folder).rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from load(path)


def resources(*folders: str, kind: str = "") -> list[dict[str, Any]]:
    found = [each for folder in folders for each in read(folder) if kind in ("", each["kind"])]
    assert found
    return found


def every_folder() -> list[str]:
    return sorted({folder for folders in OVERLAYS.values() for folder in folders} | {"overlays/external"})


def resource(folder: str, kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in resources(folder, kind=kind) if each["metadata"]["name"] == name)
    return found


def templates(*folders: str) -> dict[str, dict[str, Any]]:
    """Component -> the template of its pods; patches are left out, they have no labels."""
    found = [each["spec"]["template"] for each in resources(*folders) if "template" in each.get("spec", {})]
    return {each["metadata"]["labels"][COMPONENT]: each for each in found if "metadata" in each}


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["spec"]["containers"]
    return dict(found)


def service(name: str, file: str = "compose.yaml") -> dict[str, Any]:
    text = (ROOT / file).read_text().replace("!reset []", "[]")
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text)["services"][name]
    return found


def image_of(composed: dict[str, Any]) -> str:
    """The image's name; its tag here is the overlays'."""
    name, _, tag = composed["image"].partition(":")
    assert tag == f"${{ANTIPHON_TAG:-{VERSION}}}"
    return str(name)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_that_merged_pods_mount_and_read_is_there(overlay: str) -> None:
    found = merge(overlay)
    kept = {each["metadata"]["name"] for each in found if each["kind"] == "ConfigMap"}
    claims = {each["metadata"]["name"] for each in found if each["kind"] == "PersistentVolumeClaim"}
    used = set()
    for each in found:
        pod = each["spec"]["template"]["spec"] if "template" in each.get("spec", {}) else {}
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        claimed = {one["metadata"]["name"] for one in each.get("spec", {}).get("volumeClaimTemplates", [])}
        for one in pod.get("containers", []):
            assert {mount["name"] for mount in one["volumeMounts"]} <= volumes.keys() | claimed
            used |= {source["configMapRef"]["name"] for source in one.get("envFrom", [])}
        used |= {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
        named = {
            v["persistentVolumeClaim"]["claimName"]
            for v in volumes.values()
            if len(v.keys() & {"persistentVolumeClaim"})
        }
        assert named <= claims
    assert used == kept


def test_a_router_is_composes_and_reaches_the_api_nodes_of_its_cells_only() -> None:
    pod = templates("components/router")["router"]
    described, composed = container(pod), service("router")
    assert described["image"] == image_of(composed)
    assert described["args"] == composed["command"]
    own = {one["name"]: one["value"] for one in described["env"]}
    assert own | {name: settings_file("base")[name] for name in METRICS} == composed["environment"]
    (secrets,) = (volume["projected"] for volume in pod["spec"]["volumes"] if volume["name"] == "secrets")
    assert [item["path"] for s in secrets["sources"] for item in s["secret"]["items"]] == composed["secrets"]
    limit = composed["deploy"]["resources"]["limits"]["memory"]
    assert amount(described["resources"]["limits"]["memory"]) == amount(limit)
    least = int(composed["stop_grace_period"].removesuffix("s"))
    hook = described["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= hook + least > hook + Settings().drain_grace_s
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert described[kind]["httpGet"] == {"path": "/health", "port": "http"}
    out = resource("components/router", "NetworkPolicy", "router")
    assert admitted(out, "to") == {("api", 8000)}
    to_nodes, spans = out["spec"]["egress"]
    assert [spans] == resource("base", "NetworkPolicy", "roles-to-collector")["spec"]["egress"]
    own_rule, others = to_nodes["to"]
    assert "namespaceSelector" not in own_rule
    assert others["namespaceSelector"] == {"matchLabels": {"antiphon/cell": "true"}}
    into = resource("components/router", "NetworkPolicy", "router-into-api")
    assert admitted(into, "from") == {("router", 8000)}


def test_the_cells_of_a_router_are_valid_and_have_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (FOLDER / "components/router/cells.env").read_text().splitlines()
    ((name, value),) = (line.split("=", 1) for line in lines if not line.startswith("#"))
    assert name == "ANTIPHON_CELLS"
    monkeypatch.setenv(name, value)
    (port,) = resource("base", "Service", "api")["spec"]["ports"]
    assert Settings().cells[Settings().cell].nodes == (f"http://api:{port['port']}",)


def amount(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\D+)", re.sub(r"\$\{\w+:-(\w+)\}", r"\1", text)).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def check(each: dict[str, Any]) -> None:
    """Fails if a resource does not keep to the schema of its kind, or has a field that is not in it."""
    schemas = pytest.importorskip("kubernetes_validate", reason="`make env` installs it")
    try:
        schemas.validate(each, KUBERNETES, strict=True)
    except schemas.ValidationError as wrong:
        pytest.fail(f"{each['kind']} {each['metadata']['name']}: {list(wrong.path)}: {wrong.message}")


def settings_file(folder: str) -> dict[str, str]:
    lines = (FOLDER / folder / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


EVERY_POD = templates(*every_folder())
"""Of a component that is in two folders (redis), the one behind Sentinels."""


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_joins_is_there(overlay: str) -> None:
    (plan,) = load(FOLDER / f"overlays/{overlay}/kustomization.yaml")
    folder = FOLDER / "overlays" / overlay
    joined = [(folder / name).resolve() for name in [*plan["resources"], *plan["components"]]]
    assert joined == [(FOLDER / name).resolve() for name in OVERLAYS[overlay]]
    parts = [path.parent for each in [*joined, folder] for path in each.rglob("kustomization.yaml")]
    for each in parts:
        (part,) = load(each / "kustomization.yaml")
        generated = [
            part for one in part.get("configMapGenerator", []) for part in one.get("envs", one.get("files"))
        ]
        named = [
            *part.get("resources", []),
            *part.get("components", []),
            *(p["path"] for p in part.get("patches", []) if "path" in p),
            *generated,
        ]
        assert [name for name in named if not (each / name).exists()] == []
        files = {path.name for path in each.iterdir()} - {"kustomization.yaml"}
        assert files <= set(named), f"{each.name}: not used"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_image_of_ours_has_the_projects_version(overlay: str) -> None:
    (plan,) = load(FOLDER / f"overlays/{overlay}/kustomization.yaml")
    assert {image["newTag"] for image in plan["images"]} == {VERSION}
    pods = templates(*OVERLAYS[overlay])
    worker = "antiphon-worker-gpu" if overlay != "try" else "antiphon-worker-scripted"
    ours = {worker if name == "worker" else container(pod)["image"] for name, pod in pods.items()}
    if overlay == "two-models":  # its pods are made of the base's
        ours = {"antiphon-worker-gpu"}
    assert {image["name"] for image in plan["images"]} == {image for image in ours if "/" not in image}
    for pod in (each["spec"]["template"] for each in merge(overlay) if "template" in each.get("spec", {})):
        name, _, tag = container(pod)["image"].rpartition(":")
        assert "antiphon-" not in name or tag == VERSION
        assert overlay == "try" or "/" in name


@pytest.mark.parametrize("folder", every_folder())
def test_what_is_in_a_folder_keeps_to_kubernetess_schema(folder: str) -> None:
    for each in read(folder):
        if each["apiVersion"] not in CUSTOM:
            is_patch = each["kind"] == "Deployment" and "selector" not in each["spec"]
            check({**each, "spec": {**each["spec"], "selector": {}}} if is_patch else each)


def merge(overlay: str) -> list[dict[str, Any]]:
    return merged(FOLDER / "overlays" / overlay)


@cache
def merged(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would apply."""
    kubectl = Path(sys.executable).parent / "kubectl"
    if not kubectl.exists():
        pytest.skip("`make env` installs kubectl")
    command = [str(kubectl), "kustomize", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stderr
    return list(YAML(typ="safe", pure=True).load_all(ran.stdout))


def merge_own(folder: Path, overlay: str, *components: str) -> list[dict[str, Any]]:
    """An operator's own overlay: one of ours, and components that are in none."""
    plan = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "antiphon",
        "resources": [os.path.relpath(FOLDER / "overlays" / overlay, folder)],
        "components": [os.path.relpath(FOLDER / "components" / name, folder) for name in components],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(plan))
    return merged(folder)


def test_the_metrics_of_an_overlay_can_be_given_to_the_prometheus_operator(tmp_path: Path) -> None:
    added = [each for each in merge_own(tmp_path, "gpu", "pod-monitor") if each not in merge("gpu")]
    assert [(each["kind"], each["metadata"]["namespace"]) for each in added] == [("PodMonitor", "antiphon")]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_merged_into_what_keeps_to_the_schema(overlay: str) -> None:
    found = merge(overlay)
    for each in found:
        if each["apiVersion"] not in CUSTOM:
            check(each)
    (worker,) = (
        each for each in found if (each["kind"], each["metadata"]["name"]) == ("Deployment", "worker")
    )
    images = [one["image"] for one in worker["spec"]["template"]["spec"]["containers"]]
    assert images == [
        f"antiphon-worker-scripted:{VERSION}"
        if overlay == "try"
        else f"registry.example/antiphon-worker-gpu:{VERSION}"
    ]
    assert ("replicas" in worker["spec"]) == (overlay == "try")
    if overlay != "try":
        env = {
            one["name"]: one["value"] for one in worker["spec"]["template"]["spec"]["containers"][0]["env"]
        }
        assert env == {"ANTIPHON_ENGINE": "vllm"}


@pytest.mark.parametrize("name", EVERY_POD)
def test_a_pod_runs_with_least_rights(name: str) -> None:
    spec = EVERY_POD[name]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["runAsGroup"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(EVERY_POD[name])["securityContext"] == RESTRICTED
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "projected", "secret", "configMap", "persistentVolumeClaim"}


@pytest.mark.parametrize("name", EVERY_POD)
def test_a_container_has_requests_a_limit_of_memory_and_files_of_a_bounded_size(name: str) -> None:
    described = container(EVERY_POD[name])
    assert described["resources"]["requests"].keys() >= {"cpu", "memory"}
    assert "memory" in described["resources"]["limits"]
    assert (
        "cpu" not in described["resources"]["limits"]
    )  # a throttled process delays every stream that it has
    for volume in EVERY_POD[name]["spec"]["volumes"]:
        assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]
    mounted = {mount["name"] for mount in described["volumeMounts"]}
    claimed = {"data"} if name in ("redis", "sentinel") else set()
    assert mounted == {volume["name"] for volume in EVERY_POD[name]["spec"]["volumes"]} | claimed


def test_the_namespace_refuses_pods_with_more_rights() -> None:
    labels = resource("base", "Namespace", "antiphon")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", ROLES)
def test_a_role_is_what_compose_runs(name: str) -> None:
    pod = templates("base")[name]
    described = container(pod)
    composed = service(name, "deploy/compose.cpu.yaml" if name == "worker" else "compose.yaml")
    environment = service(name).get("environment", {}) | composed.get("environment", {})
    assert described["image"] == image_of(composed)
    assert not {"command", "args"} & described.keys(), "the image says what runs, as in compose"
    own = {one["name"]: one["value"] for one in described.get("env", [])}
    assert own | {name: settings_file("base")[name] for name in METRICS} == environment
    user = service(name)["user"]
    assert (
        f"{pod['spec']['securityContext']['runAsUser']}:{pod['spec']['securityContext']['runAsGroup']}"
        == user
    )
    (secrets,) = (volume["projected"] for volume in pod["spec"]["volumes"] if volume["name"] == "secrets")
    sources = [each["secret"] for each in secrets["sources"] if not each["secret"].get("optional")]
    mounted = [item["path"] for source in sources for item in source["items"]]
    assert sorted(mounted) == sorted(service(name)["secrets"])
    assert described["envFrom"] == [{"configMapRef": {"name": "settings"}}]
    if name != "worker":
        limit = service(name)["deploy"]["resources"]["limits"]["memory"]
        assert amount(described["resources"]["limits"]["memory"]) == amount(limit)


@pytest.mark.parametrize("name", ROLES)
def test_a_role_has_longer_to_end_than_in_compose_and_a_drain(name: str) -> None:
    spec = templates("base")[name]["spec"]
    hook = (
        container(templates("base")[name])
        .get("lifecycle", {})
        .get("preStop", {})
        .get("sleep", {})
        .get("seconds", 0)
    )
    least = int(service(name)["stop_grace_period"].removesuffix("s"))
    assert spec["terminationGracePeriodSeconds"] >= hook + least
    assert least > Settings().drain_grace_s


def test_the_gpu_workers_are_those_of_compose() -> None:
    (patch,) = (each for each in read("components/gpu") if each["kind"] == "Deployment")
    spec = patch["spec"]["template"]["spec"]
    described, composed = container(patch["spec"]["template"]), service("worker")
    assert described["image"] == image_of(composed)
    assert described["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert amount(described["resources"]["limits"]["memory"]) == amount(
        composed["deploy"]["resources"]["limits"]["memory"]
    )
    sizes = {volume["name"]: volume.get("emptyDir", {}).get("sizeLimit") for volume in spec["volumes"]}
    assert amount(sizes["shm"]) == amount(composed["shm_size"].removesuffix("b"))
    assert f"/tmp:size={sizes['tmp'].lower().removesuffix('i')},mode=1777,exec" in composed["tmpfs"]
    mounted = {f"{mount['name']}:{mount['mountPath']}" for mount in described["volumeMounts"]}
    assert mounted == {*composed["volumes"], "shm:/dev/shm"}
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_the_job_downloads_what_compose_downloads_and_what_the_workers_run() -> None:
    job, composed = container(templates("components/gpu")["model"]), service("model")
    assert job["image"] == image_of(composed)
    command = [re.sub(r"\$\{\w+:-(.+)\}", r"\1", word) for word in composed["command"]]
    assert job["args"] == command
    assert {one["name"]: one["value"] for one in job["env"]} == composed["environment"]
    model = command[2]
    settings = settings_file("components/gpu")
    assert f"--model {model} " in settings["ANTIPHON_ENGINE_ARGS"]
    assert json.loads(settings["ANTIPHON_MODELS"]) == [model.partition("/")[2]]


def test_every_setting_exists_and_every_value_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {f"ANTIPHON_{name.upper()}" for name in Settings.model_fields}
    for folder in ("base", "components/gpu", "components/sentinel"):
        for name, value in settings_file(folder).items():
            assert name in fields, f"{folder}: {name}"
            monkeypatch.setenv(name, value)
    Settings()
    for name, pod in EVERY_POD.items():
        named = {one["name"] for one in container(pod).get("env", []) if one["name"].startswith("ANTIPHON")}
        assert named <= fields, name


@pytest.mark.parametrize("name", ROLES)
def test_a_role_has_probes_that_ask_about_the_process_itself(name: str) -> None:
    described = container(templates("base")[name])
    if name == "api":
        port = described["ports"][0]
        assert port["containerPort"] == 8000
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert described[kind]["httpGet"] == {"path": "/health", "port": port["name"]}
        return
    command = described["readinessProbe"]["exec"]["command"]
    assert command == service(name)["healthcheck"]["test"][1:] or name == "worker"
    assert command[-2:] == ["role", name.replace("-", "_")]
    assert "livenessProbe" not in described, "an outage of Redis must not end it"


def test_the_api_is_reached_at_the_port_that_its_image_listens_on() -> None:
    listening = re.search(r'"--port", "(\d+)"', (ROOT / "deploy/api.Dockerfile").read_text())
    assert listening
    (port,) = resource("base", "Service", "api")["spec"]["ports"]
    named = container(templates("base")["api"])["ports"][0]
    assert (port["port"], port["targetPort"]) == (int(listening[1]), named["name"])
    assert named["containerPort"] == int(listening[1])


def test_budgets_selectors_and_services_select_pods_that_exist() -> None:
    labelled = [
        template["metadata"]["labels"] for folder in every_folder() for template in _templates_in(folder)
    ]
    budgets = resources(*every_folder(), kind="PodDisruptionBudget")
    assert {each["spec"]["selector"]["matchLabels"][COMPONENT] for each in budgets} == {
        *ROLES,
        "router",
        "redis",
        "sentinel",
    }
    assert {each["spec"]["maxUnavailable"] for each in budgets} == {1}
    selectors = [each["spec"]["selector"]["matchLabels"] for each in budgets]
    selectors += [each["spec"]["selector"] for each in resources(*every_folder(), kind="Service")]
    for each in resources(*every_folder()):
        if each["kind"] in ("Deployment", "StatefulSet") and "selector" in each["spec"]:
            assert each["spec"]["selector"]["matchLabels"] == each["spec"]["template"]["metadata"]["labels"]
    assert [each for each in selectors if each not in labelled] == []


def _templates_in(folder: str) -> list[dict[str, Any]]:
    try:
        return list(templates(folder).values())
    except AssertionError:
        return []


# Networks


def admitted(policy: dict[str, Any], side: str) -> set[tuple[str, int]]:
    """(component, port) of the pods that a policy lets in, or out to."""
    rules = policy["spec"].get({"from": "ingress", "to": "egress"}[side], [])
    return {
        (name, port["port"])
        for rule in rules
        for peer in rule[side]
        if "podSelector" in peer and "namespaceSelector" not in peer
        for name in peer["podSelector"]["matchExpressions"][0]["values"]
        for port in rule["ports"]
    }


def test_what_no_policy_allows_is_refused() -> None:
    spec = resource("base", "NetworkPolicy", "refuse-all")["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_redis_is_reached_by_the_roles_and_its_like_only() -> None:
    alone = resource("components/valkey", "NetworkPolicy", "roles-into-redis")
    assert admitted(alone, "from") == {(name, 6379) for name in ROLES}
    out = resource("components/valkey", "NetworkPolicy", "roles-to-redis")
    assert admitted(out, "to") == {("redis", 6379)}
    watched = {name: resource("components/sentinel", "NetworkPolicy", name) for name in ("redis", "sentinel")}
    for name, port in (("redis", 6379), ("sentinel", 26379)):
        assert watched[name]["spec"]["podSelector"]["matchLabels"][COMPONENT] == name
        assert admitted(watched[name], "from") == {(each, port) for each in [*ROLES, "redis", "sentinel"]}
        assert admitted(watched[name], "to") == {("redis", 6379), ("sentinel", 26379)}


def test_only_who_calls_servers_outside_may_leave_the_cluster() -> None:
    leaving = {
        each["spec"]["podSelector"]["matchLabels"][COMPONENT]
        for each in resources("base", "components/gpu", kind="NetworkPolicy")
        for rule in each["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    }
    assert leaving == {"tool-runner", "webhooks", "model"}


def test_metrics_are_read_at_the_port_that_the_roles_serve_them_on() -> None:
    spec = resource("base", "NetworkPolicy", "metrics-from-roles")["spec"]
    (rule,) = spec["ingress"]
    number = int(settings_file("base")["ANTIPHON_METRICS_PORT"])
    assert [port["port"] for port in rule["ports"]] == [number]
    assert spec["podSelector"]["matchExpressions"][0]["values"] == ROLES
    for name in ROLES:
        assert {"name": "metrics", "containerPort": number} in container(templates("base")[name])["ports"]


@pytest.mark.parametrize("name", ["tool-runner", "webhooks"])
def test_the_way_out_is_the_one_that_the_settings_allow(name: str) -> None:
    (rule,) = resource("base", "NetworkPolicy", f"{name}-to-outside")["spec"]["egress"]
    ports = [
        str(port["port"]) + (f"-{port['endPort']}" if "endPort" in port else "") for port in rule["ports"]
    ]
    assert ports == Settings().egress_ports
    blocks = [peer["ipBlock"] for peer in rule["to"]]
    for block in blocks:
        for edge in [block["cidr"], *block["except"]]:
            network = ip_network(edge)
            for number in (int(network[0]) - 1, int(network[0]), int(network[-1]), int(network[-1]) + 1):
                if not 0 <= number < 2**network.max_prefixlen:
                    continue
                address = ip_address(number) if network.version == 4 else type(network[0])(number)
                inside = any(
                    address in ip_network(one["cidr"])
                    and not any(address in ip_network(e) for e in one["except"])
                    for one in blocks
                )
                assert inside == is_public(address), address


# Scaling


def scaled(folder: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each["spec"] for each in resources(folder, kind="ScaledObject")}


@pytest.mark.parametrize("folder", ["components/keda", "overlays/external"])
def test_the_triggers_count_the_keys_that_the_store_writes(folder: str) -> None:
    counted = {
        name: {each["name"]: each["metadata"]["listName"] for each in spec["triggers"]}
        for name, spec in scaled(folder).items()
    }
    assert counted == {
        "worker": {"waiting": keys.RESPONSES_QUEUE, "open": keys.ACTIVE},
        "tool-runner": {"waiting": keys.TOOLS_QUEUE},
    }
    for spec in scaled(folder).values():
        for trigger in spec["triggers"]:
            assert trigger["authenticationRef"] == {"name": "redis"}
            assert int(trigger["metadata"]["listLength"]) > 0


def test_a_second_model_has_workers_a_download_and_a_queue_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {(each["kind"], each["metadata"]["name"]): each for each in merge("two-models")}
    own = {kind: each for (kind, name), each in found.items() if name.endswith("-gpt-oss-120b")}
    assert own.keys() == {"Deployment", "PodDisruptionBudget", "Job", "ScaledObject"}
    for one in container(own["Deployment"]["spec"]["template"])["env"]:
        monkeypatch.setenv(one["name"], one["value"])
    settings = Settings()
    (served,) = settings.served_models
    assert (served, settings.engine) == ("gpt-oss-120b", "vllm")
    assert f"--model openai/{served} " in settings.engine_args
    assert f"openai/{served}" in container(own["Job"]["spec"]["template"])["args"]
    (runs,) = map(int, re.findall(r"--max-num-seqs (\d+)", settings.engine_args))
    assert settings.responses_in_flight_max == runs * 5 // 4
    scaling = own["ScaledObject"]["spec"]
    assert scaling["scaleTargetRef"] == {"name": own["Deployment"]["metadata"]["name"]}
    assert "replicas" not in own["Deployment"]["spec"]
    assert f"`{keys.queue_of(served)}`" in (ROOT / "docs/kubernetes.md").read_text()
    first = found["ScaledObject", "worker"]["spec"]["triggers"][0]
    assert scaling["triggers"] == [
        {**first, "metadata": {**first["metadata"], "listName": keys.queue_of(served)}}
    ]


def test_the_workers_of_two_models_differ_in_what_is_the_models_and_are_told_apart() -> None:
    workers = [
        each
        for each in merge("two-models")
        if each["kind"] == "Deployment" and each["metadata"]["name"].startswith("worker")
    ]
    selectors = [each["spec"]["selector"]["matchLabels"] for each in workers]
    budgets = [
        each["spec"]["selector"] for each in merge("two-models") if each["kind"] == "PodDisruptionBudget"
    ]
    for each, selector in zip(workers, selectors, strict=True):
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert [other for other in selectors if other.items() <= labels.items()] == [selector]
        # Two budgets for one pod, and nothing may evict it.
        assert [b["matchLabels"] for b in budgets if b["matchLabels"].items() <= labels.items()] == [selector]
        assert labels[COMPONENT] == "worker"  # by which network policies and Prometheus know it
    first, second = (each["spec"]["template"] for each in workers)
    assert _without(container(first), "env", "resources") == _without(container(second), "env", "resources")
    own = ("containers", "topologySpreadConstraints")
    assert _without(_spec_of(first), *own) == _without(_spec_of(second), *own)


def _spec_of(template: dict[str, Any]) -> dict[str, Any]:
    return dict(template["spec"])


def _without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def test_workers_are_added_before_they_are_full() -> None:
    """A worker takes what its engine runs at once (ADR 58), and an autoscaler tolerates a tenth more."""
    settings = settings_file("components/gpu")
    (runs,) = map(int, re.findall(r"--max-num-seqs (\d+)", settings["ANTIPHON_ENGINE_ARGS"]))
    assert int(settings["ANTIPHON_RESPONSES_IN_FLIGHT_MAX"]) == runs * 5 // 4
    for folder in ("components/keda", "overlays/external"):
        (target,) = (
            int(e["metadata"]["listLength"])
            for e in scaled(folder)["worker"]["triggers"]
            if e["name"] == "open"
        )
        assert target == runs * 4 // 5
        assert target * 1.1 < runs


def test_pods_are_taken_away_one_at_a_time_and_never_for_an_outage_of_redis() -> None:
    for spec in scaled("components/keda").values():
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert [(policy["type"], policy["value"]) for policy in down["policies"]] == [("Pods", 1)]
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        assert spec["minReplicaCount"] >= 1


def test_who_is_scaled_has_no_number_of_its_own() -> None:
    (plan,) = load(FOLDER / "components/keda/kustomization.yaml")
    (patch,) = plan["patches"]
    targets = {
        each["spec"]["scaleTargetRef"]["name"]
        for each in resources("components/keda")
        if "scaleTargetRef" in each["spec"]
    }
    assert set(patch["target"]["name"].split("|")) == targets
    assert YAML(typ="safe").load(patch["patch"]) == [{"op": "remove", "path": "/spec/replicas"}]


# Redis and secrets


@pytest.mark.parametrize("folder", ["components/valkey", "components/sentinel"])
def test_redis_is_configured_as_in_compose(folder: str) -> None:
    assert (FOLDER / folder / "valkey.conf").read_text() == (ROOT / "deploy/valkey.conf").read_text()
    described, composed = container(templates(folder)["redis"]), service("redis")
    assert described["image"] == composed["image"]
    assert amount(described["resources"]["limits"]["memory"]) == amount(
        composed["deploy"]["resources"]["limits"]["memory"]
    )
    if folder == "components/valkey":
        assert described["args"] == composed["command"]
    check = composed["healthcheck"]["test"][1].replace("$$", "$")
    assert described["readinessProbe"]["exec"]["command"] == ["sh", "-c", check]
    mounted = {mount["name"]: mount["mountPath"] for mount in described["volumeMounts"]}
    assert (mounted["configuration"], mounted["secrets"], mounted["data"]) == (
        "/etc/valkey",
        "/run/secrets",
        "/data",
    )


@pytest.mark.parametrize("is_watched", [False, True])
def test_the_secrets_are_those_that_the_pods_mount(is_watched: bool, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run(
        ["sh", ROOT / "deploy/make_secrets.sh", folder], check=True, capture_output=True, timeout=PATIENCE_S
    )
    command = ["sh", str(FOLDER / "secrets.sh"), *(["--sentinels"] if is_watched else []), str(folder)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout
    made = {each["metadata"]["name"]: each["data"] for each in YAML(typ="safe").load_all(printed) if each}
    mounted = {
        (source["name"] if "name" in source else source["secretName"], item["key"])
        for pod in EVERY_POD.values()
        for volume in pod["spec"]["volumes"]
        for source in [
            volume.get("secret"),
            *(s["secret"] for s in volume.get("projected", {}).get("sources", [])),
        ]
        if source and not source.get("optional")
        for item in source["items"]
    }
    mounted.add(("redis", "password"))  # KEDA's
    assert {(name, key) for name, data in made.items() for key in data} == mounted
    content = {key: base64.b64decode(value).decode() for data in made.values() for key, value in data.items()}
    for name in ("secrets_key", "seal_keys", "api_keys.json", "mcp_servers.json", "redis_password.conf"):
        assert content[name] == (folder / name).read_text()
    assert content["password"] == content["redis_password.conf"].removeprefix("requirepass ").strip()
    sentinels = read_sentinel_url(content["redis_url"])
    assert (sentinels is not None) == is_watched
    if sentinels is None:
        assert content["redis_url"] == (folder / "redis_url").read_text()
        (port,) = resource("components/valkey", "Service", "redis")["spec"]["ports"]
        assert f"@redis:{port['port']}/" in content["redis_url"]


def test_secrets_are_printed_only_from_a_folder_that_has_them(tmp_path: Path) -> None:
    refused = subprocess.run(
        ["sh", FOLDER / "secrets.sh", tmp_path],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert str(tmp_path) in refused.stderr


def test_no_file_contains_a_secret() -> None:
    for path in FOLDER.rglob("*.*"):
        text = path.read_text()
        assert not re.search(r"\bsk-[0-9a-zA-Z]|[0-9a-f]{32}|kind: Secret$", text) or path.suffix == ".sh", (
            path
        )
