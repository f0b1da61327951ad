"""What the compose files, the Dockerfiles and the role requirements promise. Starts no container."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from ruamel.yaml import YAML

from shared.settings import Settings
from shared.tenants_file import Roster
from tests.patience import PATIENCE_S
from tool_runner.builtin.cpython.seccomp import REFUSED

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
COMPOSE_FILES = ["compose.yaml", "deploy/compose.cpu.yaml"]
ROLES = ["api", "worker", "tool_runner", "webhooks"]
IMAGES = {role: role for role in ROLES} | {"worker_gpu": "worker"}
"""Dockerfile -> its role. A worker has two: with the scripted engine, and with vLLM."""
ROUTER = "router"
"""In front of several cells."""
SERVICES = ["proxy", "api", "worker", "tool-runner", "webhooks", "redis"]
PYTHON_TOOL = "python"
"""The CPython sandbox, which runs only with its profile."""
ERRAND = "model"
"""A service that runs once and ends: it fetches the model."""
VLLM_PINS = ["vllm-cpu", "vllm-gpu"]
COMMANDS = {
    "api": ["python", "-m", "api", "--host", "0.0.0.0", "--port", "8000"],
    "worker": ["python", "-m", "worker"],
    "worker_gpu": ["python3", "-m", "worker"],
    "tool_runner": ["python", "-m", "tool_runner"],
    "webhooks": ["python", "-m", "webhooks"],
}
FOREIGN = {
    "api": {"vllm", "torch", "oss-harmony", "openai-harmony", "mcp", "pydantic-monty"},
    "worker": {"vllm", "torch", "openai-harmony", "mcp", "pydantic-monty", "fastapi", "uvicorn"},
    "tool_runner": {"vllm", "torch", "oss-harmony", "openai-harmony", "fastapi"},
    "webhooks": {"vllm", "torch", "oss-harmony", "openai-harmony", "mcp", "pydantic-monty", "fastapi"},
}
"""What must not reach a role's image, though another role needs it."""


class Reset:
    """Stands for compose's `!reset`: the value of the earlier file is dropped."""

    yaml_tag = "!reset"

    @classmethod
    def from_yaml(cls, _constructor: Any, _node: Any) -> "Reset":
        return cls()


def load(name: str) -> dict[str, Any]:
    yaml = YAML(typ="safe", pure=True)
    yaml.register_class(Reset)
    content: dict[str, Any] = yaml.load(ROOT / name)
    return content


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = load("compose.yaml")["services"][name]
    return found


def instructions(image: str) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, continued lines joined."""
    text = (ROOT / f"deploy/{image}.Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, rest in lines]


def pins(name: str) -> dict[str, str]:
    """Package -> version, of a compiled requirements file; a version may differ by marker."""
    text = (ROOT / f"requirements/{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def groups() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return found


def direct_dependencies(group: str) -> set[str]:
    names: set[str] = set()
    for entry in groups()[group]:
        match entry:
            case {"include-group": included}:
                names |= direct_dependencies(included)
            case _:
                names.add(re.split(r"[<>=;\s\[]", entry, maxsplit=1)[0])
    return names


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_a_compose_file_keeps_to_the_compose_schema(name: str, tmp_path: Path) -> None:
    as_json = tmp_path / "compose.json"
    as_json.write_text(json.dumps(load(name), default=lambda _reset: []))
    checked = run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", as_json)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("image", [*IMAGES, PYTHON_TOOL])
def test_hadolint_has_nothing_to_say_about_a_dockerfile(image: str) -> None:
    checked = run(TOOLS / "hadolint", ROOT / f"deploy/{image}.Dockerfile")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_services_are_the_roles_with_redis_and_a_proxy() -> None:
    services = load("compose.yaml")["services"]
    assert sorted(services) == sorted([*SERVICES, PYTHON_TOOL, ERRAND, ROUTER])
    profiles = {name: services[name]["profiles"] for name in services if "profiles" in services[name]}
    assert profiles == {ERRAND: [ERRAND], PYTHON_TOOL: ["cpython"], ROUTER: ["cells"]}


def test_the_router_meets_the_api_but_no_redis_and_runs_the_apis_image() -> None:
    router, api = service(ROUTER), service("api")
    assert (router["image"], router["build"]) == (api["image"], api["build"])
    assert router["command"][:3] == ["python", "-m", "api.cells"]
    assert not set(router["networks"]) & set(service("redis")["networks"])
    assert set(router["networks"]) & set(api["networks"])
    assert router["secrets"] == ["api_keys"]


@pytest.mark.parametrize("file", ["compose.yaml", "deploy/compose.cpu.yaml"])
def test_every_image_of_ours_has_the_projects_version(file: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = re.findall(r"image: (antiphon-\S+)", (ROOT / file).read_text())
    assert images
    assert {image.partition(":")[2] for image in images} == {f"${{ANTIPHON_TAG:-{version}}}"}


def test_the_model_is_fetched_by_a_service_that_meets_no_other_and_holds_no_secret() -> None:
    errand = service(ERRAND)
    own = set(errand["networks"])
    assert not own & {network for name in SERVICES for network in service(name)["networks"]}
    assert "secrets" not in errand
    assert errand["restart"] == "no"
    assert errand["image"] == service("worker")["image"]
    assert set(errand["volumes"]) < set(service("worker")["volumes"])
    assert {"memory", "pids"} <= errand["deploy"]["resources"]["limits"].keys()


@pytest.mark.parametrize("name", [*SERVICES, ERRAND, ROUTER])
def test_a_service_runs_with_least_rights(name: str) -> None:
    described = service(name)
    assert described["cap_drop"] == ["ALL"]
    assert described.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "proxy" else [])
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert described["read_only"] is True
    assert described["user"].split(":")[0] not in {"", "0", "root"}
    assert not {"privileged", "devices", "pid", "ipc", "network_mode"} & described.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_limits_a_health_check_and_a_way_to_end(name: str) -> None:
    described = service(name)
    assert {"memory", "pids"} <= described["deploy"]["resources"]["limits"].keys()
    assert described["healthcheck"]["test"]
    assert described["stop_grace_period"]
    assert described["restart"] == "unless-stopped"


def test_the_sandbox_of_cpython_runs_with_least_rights_and_meets_tool_runners_only() -> None:
    described = service(PYTHON_TOOL)
    assert described["cap_drop"] == ["ALL"]
    assert "cap_add" not in described
    assert described["read_only"] is True
    assert described["user"] == "10001:10001"
    assert described["tmpfs"] == ["/tmp:size=64m,mode=1777"]
    assert described["runtime"] == "${ANTIPHON_PYTHON_RUNTIME:-runc}"
    options = ["no-new-privileges:true", "seccomp=deploy/python_seccomp.json", "apparmor=unconfined"]
    assert described["security_opt"] == options
    assert not {"privileged", "devices", "pid", "ipc", "network_mode", "ports", "secrets"} & described.keys()
    assert not {"environment", "env_file", "volumes"} & described.keys()
    assert {"memory", "pids", "cpus"} == described["deploy"]["resources"]["limits"].keys()
    assert described["healthcheck"]["test"]
    networks = described["networks"]
    met = {name for name in SERVICES if set(networks) & set(service(name)["networks"])}
    assert met == {"tool-runner"}
    assert all(load("compose.yaml")["networks"][network] == {"internal": True} for network in networks)


def test_the_container_of_cpython_refuses_what_its_walls_refuse_but_for_what_its_server_needs() -> None:
    profile = json.loads((ROOT / "deploy/python_seccomp.json").read_text())
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    (rule,) = profile["syscalls"]
    assert (rule["action"], rule["errnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    needed = {"mount", "umount2", "pivot_root", "unshare", "sethostname", "seccomp"}
    needed |= {"epoll_create", "epoll_create1"}
    assert rule["names"] == sorted(REFUSED.keys() - needed)


def test_the_image_of_cpython_has_the_server_and_an_environment_for_the_code() -> None:
    words = instructions(PYTHON_TOOL)
    copied = [rest.split()[:-1] for word, rest in words if word == "COPY" and "--from" not in rest]
    requirements = {"requirements/tool_runner.txt", "requirements/notebook.txt"}
    sources = {"shared", "tool_runner"}
    assert {source for group in copied for source in group} == requirements | sources
    installs = [rest for word, rest in words if word == "RUN" and "pip install" in rest]
    assert [rest.count("--require-hashes") for rest in installs] == [2]
    assert [rest.count("--only-binary=:all:") for rest in installs] == [2]
    assert [rest for word, rest in words if word == "USER"] == ["10001:10001"]
    (command,) = [json.loads(rest) for word, rest in words if word == "CMD"]
    assert command[:3] == ["python", "-m", "tool_runner.builtin.cpython"]
    assert command[-2:] == ["--python", "/notebook/bin/python"]
    assert direct_dependencies("notebook") <= pins("notebook").keys()


def test_only_the_proxy_publishes_a_port_and_by_default_on_loopback() -> None:
    assert [name for name in SERVICES if "ports" in service(name)] == ["proxy"]
    assert service("proxy")["ports"] == ["${ANTIPHON_PUBLISH:-127.0.0.1:8080}:8080"]


def test_the_api_can_be_scaled() -> None:
    assert not {"container_name", "hostname", "ports"} & service("api").keys()


@pytest.mark.parametrize("role", ["tool-runner", "webhooks"])
def test_who_calls_servers_outside_meets_redis_and_no_other_service(role: str) -> None:
    own = set(service(role)["networks"])
    met = {name for name in SERVICES if own & set(service(name)["networks"])}
    assert met == {role, "redis"}


@pytest.mark.parametrize("name", ["redis", "api", "worker"])
def test_a_service_without_business_outside_is_on_internal_networks_only(name: str) -> None:
    networks = load("compose.yaml")["networks"]
    assert all(networks[network].get("internal") for network in service(name)["networks"])


def test_only_the_worker_asks_for_a_gpu() -> None:
    reserved = {name: service(name)["deploy"]["resources"].get("reservations") for name in SERVICES}
    devices = reserved.pop("worker")["devices"]
    count = "${ANTIPHON_WORKER_GPUS:-1}"
    assert devices == [{"driver": "nvidia", "count": count, "capabilities": ["gpu"]}]
    assert set(reserved.values()) == {None}


def test_the_cpu_override_takes_the_gpu_away_and_plays_scripts() -> None:
    override = load("deploy/compose.cpu.yaml")
    assert list(override) == ["services"]
    assert list(override["services"]) == ["worker"]
    worker = override["services"]["worker"]
    assert isinstance(worker["deploy"]["resources"]["reservations"]["devices"], Reset)
    assert worker["build"]["dockerfile"] == "deploy/worker.Dockerfile"
    assert worker["image"] != service("worker")["image"]
    assert worker["environment"] == {"ANTIPHON_ENGINE": "scripted"}


def test_no_service_fixes_a_setting_that_the_settings_file_may_change() -> None:
    fixed = {key for name in SERVICES for key in service(name).get("environment", {}) if "ANTIPHON" in key}
    assert fixed == {
        "ANTIPHON_API_KEYS",
        "ANTIPHON_MCP_SERVERS",
        "ANTIPHON_METRICS_PORT",
        "ANTIPHON_METRICS_HOST",
    }


def test_the_gpu_workers_image_has_the_vllm_that_is_pinned() -> None:
    base = [rest.split()[0] for word, rest in instructions("worker_gpu") if word == "FROM"][-1]
    (pinned,) = (entry for entry in groups()["vllm"] if isinstance(entry, str))
    name, _, version = pinned.partition("==")
    assert base == f"vllm/vllm-openai:v{version}"
    assert groups()["vllm_cpu"][-1] == f"{name}-cpu=={version}"
    assert pins("vllm-gpu")["vllm"] == pins("vllm-cpu")["vllm-cpu"] == version
    (check,) = (rest for word, rest in instructions("worker_gpu") if word == "RUN" and "metadata" in rest)
    assert f'"{version}"' in check


def test_a_worker_has_longer_to_end_than_its_engine() -> None:
    """vLLM gives its processes VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS, 5 s, and then kills them."""
    assert int(service("worker")["stop_grace_period"].removesuffix("s")) >= 3 * 5


def test_no_compose_file_contains_a_secret() -> None:
    for name in COMPOSE_FILES:
        text = (ROOT / name).read_text()
        assert not re.search(r"://[^/\s]*:[^/\s]+@", text), f"{name}: an address with a password"
        assert not re.search(r"\bsk-[0-9a-zA-Z]|[0-9a-f]{32}", text), f"{name}: looks like a key"
    for described in load("compose.yaml")["services"].values():
        assert not [key for key in described.get("environment", {}) if "PASSWORD" in key or "URL" in key]


def test_every_role_gets_the_keys_that_it_uses_and_no_other() -> None:
    keys = {name: {"secrets_key", "seal_keys"} & set(service(name).get("secrets", [])) for name in SERVICES}
    assert {name: sorted(held) for name, held in keys.items() if held} == {
        "api": ["seal_keys", "secrets_key"],
        "worker": ["seal_keys"],
        "tool-runner": ["secrets_key"],
    }
    start = (ROOT / "deploy/start.sh").read_text()
    for name in ("secrets_key", "seal_keys", "console_key"):
        assert f'ANTIPHON_{name.upper()}="$(cat /run/secrets/{name})"' in start


def test_a_process_is_named_after_its_container_unless_a_name_is_set() -> None:
    command = ["sh", str(ROOT / "deploy/start.sh"), "sh", "-c", "echo $ANTIPHON_PLACE"]
    assert run(*command).stdout == f"{os.uname().nodename}\n"
    assert run("env", "ANTIPHON_PLACE=pod-1", *command).stdout == "pod-1\n"


def test_every_secret_is_a_file_that_git_and_the_images_leave_out() -> None:
    for name, source in load("compose.yaml")["secrets"].items():
        assert list(source) == ["file"], name
        assert source["file"].startswith("deploy/secrets/"), name
    assert "secrets/" in (ROOT / "deploy/.gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert not [rule for rule in rules if rule.startswith("!deploy/") and "secret" in rule]
    assert "!deploy/" not in rules


@pytest.mark.parametrize(("image", "role"), IMAGES.items())
def test_an_image_holds_the_sources_of_its_role_and_shared_only(image: str, role: str) -> None:
    copied = [
        rest.split()[:-1] for word, rest in instructions(image) if word == "COPY" and "--from" not in rest
    ]
    sources = {source for group in copied for source in group}
    own = {"api": {"admin"}}.get(role, set())
    assert sources == {f"requirements/{role}.txt", "deploy/start.sh", "deploy/probe.py", "shared", role} | own


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_installs_pinned_hashed_wheels_and_runs_its_role_as_a_plain_user(image: str) -> None:
    words = instructions(image)
    (install,) = [rest for word, rest in words if word == "RUN" and "pip install" in rest]
    assert "--require-hashes" in install
    assert "--only-binary=:all:" in install
    assert [rest for word, rest in words if word == "USER"] == ["10001:10001"]
    (command,) = [rest for word, rest in words if word == "CMD"]
    assert json.loads(command) == COMMANDS[image]


@pytest.mark.parametrize("role", ROLES)
def test_a_service_builds_the_image_of_its_role(role: str) -> None:
    built = service(role.replace("_", "-"))["build"]["dockerfile"]
    assert built == f"deploy/{'worker_gpu' if role == 'worker' else role}.Dockerfile"


@pytest.mark.parametrize("role", ROLES)
def test_the_requirements_of_a_role_are_its_own_and_no_other_roles(role: str) -> None:
    assert direct_dependencies(role) <= pins(role).keys()
    assert not FOREIGN[role] & pins(role).keys()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_runs_the_versions_that_the_tests_run(role: str) -> None:
    tested = pins("dev")
    assert {name: tested.get(name) for name in pins(role)} == pins(role)


@pytest.mark.parametrize(("name", "group"), [("vllm-cpu", "vllm_cpu"), ("vllm-gpu", "vllm")])
def test_the_pins_of_vllm_leave_the_versions_of_all_else_as_they_are_tested(name: str, group: str) -> None:
    tested, with_vllm = pins("dev"), pins(name)
    assert direct_dependencies(group) <= with_vllm.keys()
    assert {key: with_vllm[key] for key in tested.keys() & with_vllm.keys()} == {
        key: tested[key] for key in tested.keys() & with_vllm.keys()
    }


def test_without_a_gpu_nothing_for_one_is_installed() -> None:
    for_gpus = ("nvidia-", "cuda-", "torch", "flashinfer")
    assert not [name for name in pins("vllm-cpu") if name.startswith(for_gpus)]
    assert pins("torch-cpu")["torch"].endswith("+cpu")


@pytest.mark.parametrize("name", [*ROLES, *VLLM_PINS, "torch-cpu", "dev", "notebook", "uv"])
def test_every_requirement_has_a_hash_and_no_address(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert not [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert "://" not in text
    # Its files and those of oss-harmony overwrite each other (docs/adr/0005-oss-harmony.md).
    assert "openai-harmony" not in pins(name)


def test_make_secrets_makes_what_compose_mounts_and_a_key_that_fits(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = run("sh", ROOT / "deploy/make_secrets.sh", folder, "acme")
    assert made.returncode == 0, made.stderr
    mounted = {Path(source["file"]).name for source in load("compose.yaml")["secrets"].values()}
    assert {path.name for path in folder.iterdir()} == mounted
    hashed = hashlib.sha256(made.stdout.strip().encode()).hexdigest()
    assert Roster.parse((folder / "api_keys.json").read_bytes()).keys == {hashed: "acme"}
    password = (folder / "redis_password.conf").read_text().removeprefix("requirepass ").strip()
    assert (folder / "redis_url").read_text() == f"redis://:{password}@redis:6379/0"
    assert folder.stat().st_mode & 0o077 == 0
    secrets_key, seal_keys = ((folder / name).read_text() for name in ("secrets_key", "seal_keys"))
    settings = Settings(secrets_key=SecretStr(secrets_key), seal_keys=json.loads(seal_keys))
    assert len(settings.seal_keys) == 1


def test_make_secrets_never_overwrites(tmp_path: Path) -> None:
    refused = run("sh", ROOT / "deploy/make_secrets.sh", tmp_path)
    assert refused.returncode == 1
    assert str(tmp_path) in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_make_secrets_refuses_a_tenant_that_would_break_the_file(tmp_path: Path) -> None:
    refused = run("sh", ROOT / "deploy/make_secrets.sh", tmp_path / "secrets", 'a"b')
    assert refused.returncode == 2
    assert "TENANT" in refused.stderr
    assert list(tmp_path.iterdir()) == []
