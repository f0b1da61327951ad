"""The dashboard and the rules in deploy/observability ask for what the code tells; Prometheus reads them."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from shared import metrics
from tests.patience import PATIENCE_S
from tests.unit.alert_faults import FAULTS

FOLDER = Path(__file__).parents[2] / "deploy/observability"
KUBERNETES = FOLDER.parent / "kubernetes"
SERVICES = ("api", "worker", "tool-runner", "webhooks")
PORT = "__meta_kubernetes_pod_container_port_name"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
RULES = [
    rule
    for group in YAML(typ="safe", pure=True).load(FOLDER / "alerts.yml")["groups"]
    for rule in group["rules"]
]
ASKED = [(rule["alert"], rule["expr"]) for rule in RULES] + [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
]
OF_PROCESSES = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
OF_PROMETHEUS = {"instance", "job", "le"}
TOLD_BY_PROMETHEUS = "up{"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, of Debian's prometheus, is not installed"
)
NAME = re.compile(r"\b((?:antiphon|gen_ai|mcp|process)_[a-z_]+)")
SELECTED = re.compile(r"(\w+)\{([^}]*)\}")
GROUPED = re.compile(r"by \(([^)]*)\)")


def read_yaml(path: Path) -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(path.read_text()))


def base_of(name: str) -> str:
    """The metric that a series belongs to."""
    return next(
        (base for end in ("_bucket", "_count", "_sum") if (base := name.removesuffix(end)) in metrics.OURS),
        name,
    )


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for: words that are no labels."""
    labels = {label for entry in metrics.OURS.values() for label in entry.labels}
    return {base_of(name) for name in NAME.findall(expression)} - labels - OF_PROCESSES


@pytest.mark.parametrize(("what", "expression"), ASKED, ids=[f"{what}" for what, _ in ASKED])
def test_what_is_asked_for_is_told_with_these_labels(what: str, expression: str) -> None:
    names = names_in(expression)
    assert names or any(name in expression for name in (*OF_PROCESSES, TOLD_BY_PROMETHEUS)), what
    assert names - metrics.OURS.keys() == set()
    labels = {label for name in names for label in metrics.OURS[name].labels} | OF_PROMETHEUS
    for _, matchers in SELECTED.findall(expression):
        assert {re.split(r"[=!]", matcher)[0] for matcher in re.split(r",\s*", matchers)} <= labels
    for grouped in GROUPED.findall(expression):
        assert set(re.split(r",\s*", grouped)) <= labels


def test_prometheus_asks_the_services_of_compose_on_the_ports_that_they_open() -> None:
    (job,) = YAML(typ="safe", pure=True).load(FOLDER / "prometheus.yml")["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    services = YAML(typ="safe", pure=True).load(FOLDER.parents[1] / "compose.yaml")["services"]
    opened = {
        name: service["environment"]["ANTIPHON_METRICS_PORT"]
        for name, service in services.items()
        if "ANTIPHON_METRICS_PORT" in service.get("environment", {})
    }
    assert opened == dict.fromkeys(found["names"], str(found["port"]))
    assert {services[name]["environment"]["ANTIPHON_METRICS_HOST"] for name in opened} == {"0.0.0.0"}


def test_the_job_is_called_as_the_alerts_and_the_dashboard_expect() -> None:
    (monitor,) = read_yaml(KUBERNETES / "components/pod-monitor/pod-monitor.yaml")
    (pod,) = (each for each in read_yaml(KUBERNETES / "base/api.yaml") if each["kind"] == "Deployment")
    labels = pod["spec"]["template"]["metadata"]["labels"]
    jobs = {labels[monitor["spec"]["jobLabel"]], DASHBOARD["templating"]["list"][1]["query"]}
    for name in ("prometheus.yml", "prometheus-kubernetes.yml"):
        (config,) = read_yaml(FOLDER / name)
        jobs |= {job["job_name"] for job in config["scrape_configs"]}
    jobs |= {name for rule in RULES for name in re.findall(r'job="(\w+)"', rule["expr"])}
    assert jobs == {"antiphon"}


def test_the_pods_of_every_role_are_found_and_no_others() -> None:
    """By the operator's PodMonitor, and by the relabelling of a Prometheus of one's own."""
    (monitor,) = read_yaml(KUBERNETES / "components/pod-monitor/pod-monitor.yaml")
    (config,) = read_yaml(FOLDER / "prometheus-kubernetes.yml")
    (job,) = config["scrape_configs"]
    kept = next(rule for rule in job["relabel_configs"] if rule["action"] == "keep")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        for each in read_yaml(path):
            template = each.get("spec", {}).get("template", {})
            if "metadata" not in template:
                continue
            labels = template["metadata"]["labels"]
            (container,) = template["spec"]["containers"]
            named = {port["name"] for port in container.get("ports", ())}
            selects = monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
            by_monitor = selects and endpoint["port"] in named
            values = {
                "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", name): value
                for name, value in labels.items()
            }
            by_config = any(
                re.fullmatch(
                    kept["regex"],
                    ";".join({**values, PORT: name}.get(label, "") for label in kept["source_labels"]),
                )
                for name in named
            )
            is_ours = labels["app.kubernetes.io/component"] in (*SERVICES, "router")
            assert (by_monitor, by_config) == (is_ours, is_ours), path


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for what, expression in ASKED[len(RULES) :] for name in names_in(expression)}
    assert metrics.OURS.keys() - shown == set()


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_an_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    for rule in RULES:
        assert rule["alert"].startswith("Antiphon")
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} == rule["annotations"].keys()


def test_every_alert_has_a_fault_that_it_is_for() -> None:
    assert {rule["alert"] for rule in RULES} == FAULTS.keys()


@needs_promtool
def test_an_alert_fires_when_its_fault_is_told_and_not_before(tmp_path: Path) -> None:
    tests = [
        {
            "interval": "15s",
            "name": alert,
            "input_series": [{"series": name, "values": told} for name, told in fault.series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": at,
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
                for at, fires in ((fault.well_until, False), (fault.fires_after, True))
            ],
        }
        for alert, fault in FAULTS.items()
    ]
    asked = tmp_path / "faults.json"
    asked.write_text(
        json.dumps({"rule_files": [str(FOLDER / "alerts.yml")], "evaluation_interval": "15s", "tests": tests})
    )
    run_promtool("test", "rules", str(asked))


@needs_promtool
@pytest.mark.parametrize("check", [("rules", "alerts.yml"), ("config", "prometheus.yml")])
def test_prometheus_can_read_it(check: tuple[str, str]) -> None:
    kind, name = check
    run_promtool("check", kind, str(FOLDER / name))


@needs_promtool
def test_prometheus_can_read_the_relabelling_of_pods(tmp_path: Path) -> None:
    """Debian's Prometheus is built without the discovery of pods, so that something else stands for it."""
    (config,) = read_yaml(FOLDER / "prometheus-kubernetes.yml")
    (job,) = config["scrape_configs"]
    assert [found["role"] for found in job.pop("kubernetes_sd_configs")] == ["pod"]
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    asked = tmp_path / "config.json"
    asked.write_text(json.dumps(config))
    run_promtool("check", "config", str(asked))


def run_promtool(*arguments: str) -> None:
    ran = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
