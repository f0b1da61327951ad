"""The launcher's decisions: when to restart, what is missing, how it reads arguments, what it shows."""

import asyncio
import json
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from local import seed
from local.cells import Cells
from local.cluster import Cluster
from local.command_line import main
from local.models import join_engine_args, name_models
from local.processes import Identity
from local.readiness import describe_missing
from local.record import ClusterRecord, RoleRecord, running_stages
from local.roles import (
    STOP_ORDER,
    DependencyMissing,
    check_dependencies,
    has_webhooks,
    make_environment,
    ready_within_s,
)
from local.seal_key import keep_seal_key
from local.supervisor import BACK_OFF_MAX_S, SETTLED_AFTER_S, describe_exit, next_delay_s, read_last_line
from local.warden import decode_stages
from shared.redis_url import redact
from shared.settings import Settings
from shared.table import lay_out
from tests.patience import until
from tests.webhook_receiver import SECRET


def test_a_role_that_keeps_dying_waits_twice_as_long_up_to_ten_seconds() -> None:
    delay_s, delays = 0.0, []
    for _ in range(8):
        delay_s = next_delay_s(delay_s, lived_s=0.1)
        delays.append(delay_s)
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


@given(delay_s=st.floats(0, BACK_OFF_MAX_S), lived_s=st.floats(SETTLED_AFTER_S, 1e6))
def test_a_role_that_lived_for_a_while_starts_again_at_once(delay_s: float, lived_s: float) -> None:
    assert next_delay_s(delay_s, lived_s) == 0.2


@pytest.mark.parametrize(("returncode", "said"), [(3, "exit code 3"), (-9, "SIGKILL"), (0, "exit code 0")])
def test_an_exit_is_described_as_a_code_or_a_signal(returncode: int, said: str) -> None:
    assert describe_exit(returncode) == said


READY = b'{"status": "ready", "redis": true, "workers": 2, "tool_runners": 1}'


@pytest.mark.parametrize(
    ("status", "body", "missing"),
    [
        (200, READY, None),
        (503, READY, "answers GET /ready with 503"),
        (503, READY.replace(b"true", b"false"), "does not reach Redis"),
        (200, READY.replace(b"2", b"1"), "sees 1 of 2 workers, 1 of 1 tool runners"),
        (200, READY.replace(b"1", b"0"), "sees 2 of 2 workers, 0 of 1 tool runners"),
        (200, READY.replace(b"2", b"5"), None),
        (500, b"Internal Server Error", "answers GET /ready with 500 and something unreadable"),
        (200, b"[]", "answers GET /ready with 200 and something unreadable"),
    ],
)
def test_an_api_node_is_ready_when_it_sees_enough_of_everything(
    status: int, body: bytes, missing: str | None
) -> None:
    assert describe_missing(status, body, workers=2, tool_runners=1) == missing


def test_the_users_variables_reach_the_roles_and_the_arguments_go_over_them() -> None:
    user = {
        "ANTIPHON_MODELS": '["mine"]',
        "ANTIPHON_LOG_LEVEL": "DEBUG",
        "ANTIPHON_SCRIPT": "old",
        "HOME": "/h",
    }
    seen = make_environment(user, {"ANTIPHON_SCRIPT": "new"})
    assert seen["ANTIPHON_MODELS"] == '["mine"]'
    assert seen["ANTIPHON_LOG_LEVEL"] == "DEBUG"
    assert seen["ANTIPHON_SCRIPT"] == "new"
    assert seen["HOME"] == "/h"


def test_a_local_cluster_seals_secrets_and_reaches_tool_servers_on_this_machine_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in make_environment({}, {}).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.secrets_key is not None
    assert settings.egress_networks == [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    for variable, own in (("EGRESS_NETWORKS", "[]"), ("SECRETS_KEY", "mine")):
        assert make_environment({f"ANTIPHON_{variable}": own}, {})[f"ANTIPHON_{variable}"] == own


def test_deliveries_run_if_the_tenants_file_registers_a_webhook(tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    hook = {"url": "https://app.example/", "secrets": [SECRET]}
    for webhooks, expected in (({"main": hook}, True), ({}, False), ({"main": {}}, False)):
        path.write_text(json.dumps({"tenants": {"acme": {"webhooks": webhooks}}}))
        assert has_webhooks({"ANTIPHON_API_KEYS": str(path)}) is expected
    assert not has_webhooks({})
    assert not has_webhooks({"ANTIPHON_API_KEYS": str(tmp_path / "none.json")})


def test_a_local_cluster_keeps_its_seal_key_in_its_folder(tmp_path: Path) -> None:
    """A client may send back what was sealed before the last restart."""
    key = keep_seal_key(tmp_path)
    assert keep_seal_key(tmp_path) == key
    assert [path.stat().st_mode & 0o077 for path in tmp_path.iterdir()] == [0]
    assert json.loads(make_environment({}, {}, key)["ANTIPHON_SEAL_KEYS"]) == [key]
    assert Settings(seal_keys=[SecretStr(key)]).seal_keys
    assert make_environment({"ANTIPHON_SEAL_KEYS": "[]"}, {}, key)["ANTIPHON_SEAL_KEYS"] == "[]"


@pytest.mark.parametrize(
    ("user", "settings", "engine", "models"),
    [
        ({}, {}, "scripted", '["default","scripted"]'),
        ({"ANTIPHON_ENGINE": "vllm"}, {}, "vllm", '["gpt-oss-20b", "openai/gpt-oss-20b"]'),
        ({"ANTIPHON_ENGINE": "vllm"}, {"ANTIPHON_ENGINE_ARGS": "--model /m/mine"}, "vllm", '["mine"]'),
        ({"ANTIPHON_ENGINE": "vllm"}, {"ANTIPHON_ENGINE_ARGS": "vllm.yaml"}, "vllm", None),
        ({"ANTIPHON_ENGINE": "vllm", "ANTIPHON_MODELS": '["a"]'}, {}, "vllm", '["a"]'),
        ({"ANTIPHON_ENGINE": "vllm"}, {"ANTIPHON_ENGINE": "scripted"}, "scripted", '["default","scripted"]'),
        ({}, {"ANTIPHON_ENGINE": "vllm"}, "vllm", '["gpt-oss-20b", "openai/gpt-oss-20b"]'),
    ],
)
def test_an_engine_is_offered_by_the_names_of_what_it_serves(
    user: dict[str, str], settings: dict[str, str], engine: str, models: str | None
) -> None:
    seen = make_environment(user, settings)
    assert (seen["ANTIPHON_ENGINE"], seen.get("ANTIPHON_MODELS")) == (engine, models)


@pytest.mark.parametrize(
    ("engine_args", "names"),
    [
        ("", ["gpt-oss-20b", "openai/gpt-oss-20b"]),
        ("--tensor-parallel-size 2", ["gpt-oss-20b", "openai/gpt-oss-20b"]),
        ("--model=openai/gpt-oss-120b -tp 2", ["gpt-oss-120b", "openai/gpt-oss-120b"]),
        ("--model ./tiny", ["tiny"]),
        ("--model '/a folder/tiny'", ["tiny"]),
        ("--model tiny", ["tiny"]),
        (
            "--lora-modules legal=/l french=/f --enable-lora",
            ["gpt-oss-20b", "openai/gpt-oss-20b", "legal", "french"],
        ),
        ('--model /m --lora_modules \'{"name": "legal", "path": "/l"}\'', ["m", "legal"]),
        ("vllm.yaml", None),
        ("--config vllm.yaml", None),
        ("--model /m --config vllm.yaml", ["m"]),
    ],
)
def test_a_model_and_its_adapters_are_called_by_their_names(
    engine_args: str, names: list[str] | None
) -> None:
    assert name_models(engine_args) == names


@pytest.mark.parametrize(
    ("model", "engine_args", "joined"),
    [
        (None, "", ""),
        (None, "vllm.yaml", "vllm.yaml"),
        ("a/b", "", "--model a/b"),
        ("a b", "--seed 1", "--model 'a b' --seed 1"),
        ("a/b", "vllm.yaml", "--model a/b --config vllm.yaml"),
        ("a/b", "--config vllm.yaml", "--model a/b --config vllm.yaml"),
    ],
)
def test_a_model_goes_before_the_other_arguments_of_the_engine(
    model: str | None, engine_args: str, joined: str
) -> None:
    assert join_engine_args(model, engine_args) == joined


def test_a_real_model_may_take_longer_to_load_than_a_script() -> None:
    limits = [
        ready_within_s(make_environment({}, {"ANTIPHON_ENGINE": name})) for name in ("scripted", "vllm")
    ]
    assert limits[0] <= 60
    assert limits[1] >= 600


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (b"", ""),
        (b"one\ntwo\n\n", "two"),
        (b"loading\r 10%\r 20%", "20%"),
        (b"x" * 9000 + b"\n" + b"y" * 500, "y" * 160),
    ],
)
def test_while_a_role_starts_its_last_line_shows_the_progress(tmp_path: Path, log: bytes, said: str) -> None:
    (tmp_path / "worker-0.log").write_bytes(log)
    assert read_last_line(tmp_path / "worker-0.log") == said
    assert read_last_line(tmp_path / "none.log") == ""


def make_role(role: str, number: int, pid: int | None) -> RoleRecord:
    started = None if pid is None else f"start of {pid}"
    return RoleRecord(role, number, pid, started, None, f"/logs/{role}-{number}.log", 0)


def test_what_takes_work_ends_first_and_the_log_last() -> None:
    roles = (
        make_role("valkey", 0, 1),
        make_role("worker", 0, 2),
        make_role("api", 0, 3),
        make_role("api", 1, None),
        make_role("tool_runner", 0, 5),
        make_role("router", 0, 6),
    )
    stages = running_stages(ClusterRecord(Identity(9, "nine"), "redis://h", roles), STOP_ORDER)
    assert [[process.pid for process in stage] for stage in stages] == [[6], [3], [2, 5], [1]]


def test_the_warden_reads_what_the_launcher_writes() -> None:
    line = b'[[[3, "a b"]], [], [[1, "c"]]]\n'
    assert decode_stages(line) == [[Identity(3, "a b")], [], [Identity(1, "c")]]


def test_the_table_has_columns_as_wide_as_their_widest_cell() -> None:
    assert lay_out([("role", "pid"), ("tool_runner-0", "7")]) == ["role           pid", "tool_runner-0  7"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:p%40ss@h:6379/0", "redis://h:6379/0"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
    ],
)
def test_a_redis_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_the_curl_to_try_is_the_seeds_request_at_the_real_port() -> None:
    curl = seed.make_curl("http://127.0.0.1:9001")
    assert 'curl -N -X POST "http://127.0.0.1:9001/v1/responses"' in curl
    assert "Multiply 123*456 using the mcp.code_interpreter tool." in curl
    assert "'" not in curl.partition(" -d '")[2][:-1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["up", "--apis", "0"], "--apis"),
        (["up", "--workers", "many"], "--workers"),
        (["up", "--tool-runners", "65"], "--tool-runners"),
        (["up", "--port", "70000"], "--port"),
        (["up", "--port", "65535", "--apis", "2"], "--port"),
        (["up", "--metrics-port", "65530", "--cells", "2"], "--metrics-port"),
        (["up", "--engine", "gpt"], "--engine"),
        (["up", "--script", "no such file"], "--script"),
        (["up", "--model", "a/b"], "--model"),
        (["up", "--engine", "scripted", "--engine-args", "--seed 1"], "--engine-args"),
        (["up", "--engine", "vllm", "--engine-args", "--model 'a"], "--engine-args"),
        (["up", "--engine", "vllm", "--engine-args=--model"], "--engine-args"),
        ([], "up | status | demo"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_starts(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_missing_engine_is_named_and_nothing_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["up", "--engine", "vllm", "--data", str(tmp_path / "data")]) == 1
    assert "lacks vllm; `make up ENGINE=vllm` makes an environment" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_cpython_without_bubblewrap_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_dependencies("scripted", "monty")
    with pytest.raises(DependencyMissing, match=r"bubblewrap is not installed .*apt install bubblewrap"):
        check_dependencies("scripted", "cpython")


async def test_of_several_cells_the_one_that_is_waited_for_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(self: Cluster) -> None:
        self.missing = "nothing was asked"

    async def until_ready(self: Cluster) -> None:
        if self.data.name == "cell-1":
            self.missing = "api-0 sees no worker"
            await asyncio.Event().wait()

    monkeypatch.setattr(Cluster, "start", start)
    monkeypatch.setattr(Cluster, "until_ready", until_ready)
    cells = Cells(Cluster(tmp_path), 2)
    await cells.start()
    waiting = asyncio.create_task(cells.until_ready())
    try:
        await until(lambda: cells.missing == "api-0 sees no worker")
        assert cells.last_log_line == ""
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
