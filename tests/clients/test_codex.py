"""`codex exec`: the agent's command line, with a configuration that knows nothing but our address."""

import asyncio
import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shared.settings import Settings
from tests.clients.answers import SEPARATORS, SILENCE, TOO_LONG, counted
from tests.clients.conftest import Ask
from tests.clients.recording import recording
from tests.clients.scenarios import NODE, isolated
from tests.clients.sent import carried, thoughts_read
from tests.nodes import node, router
from tests.running import RunningCluster

CODEX = NODE / "node_modules" / ".bin" / "codex"
_TIMEOUT_S = 100.0
_CONFIG = """
model = "default"
model_provider = "antiphon"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
analytics.enabled = false
feedback.enabled = false

[model_providers.antiphon]
name = "Antiphon"
base_url = "{url}"
wire_api = "responses"
env_key = "ANTIPHON_KEY"
request_max_retries = 0
stream_max_retries = 0
stream_idle_timeout_ms = 10000
"""
_WITHOUT_SOCKETS = {
    "ANTIPHON_SOCKETS_MAX": "0",
    "ANTIPHON_WEB_SEARCH": "local",
    "ANTIPHON_SEAL_KEYS": f'["{base64.urlsafe_b64encode(bytes(32)).decode()}"]',
}
"""A node that takes what Codex asks for, but no socket."""
_EDITING_MODEL: dict[str, Any] = {
    "slug": "default",
    "display_name": "default",
    "base_instructions": "Be brief.",
    "apply_patch_tool_type": "freeform",
    "shell_type": "shell_command",
    "visibility": "list",
    "supported_in_api": True,
    "priority": 1,
    "supported_reasoning_levels": [],
    "truncation_policy": {"mode": "tokens", "limit": 10_000},
    "supports_parallel_tool_calls": True,
    "experimental_supported_tools": [],
    "context_window": 100_000,
    "support_verbosity": False,
}
"""A model's entry in its catalog."""


class Codex:
    """One home for several runs: sessions are kept there."""

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        mcp: str | None = None,
        has_patches: bool = False,
        has_socket: bool = False,
    ) -> None:
        """`mcp`: the address of a server of its own. `has_patches`: it is told that the model can edit;
        `has_socket`: that the provider speaks WebSocket."""
        self._folder = folder
        home = folder / ".codex"
        home.mkdir()
        catalog, server = "", f'\n[mcp_servers.test]\nurl = "{mcp}"\n' if mcp else ""
        if has_patches:
            (home / "models.json").write_text(json.dumps({"models": [_EDITING_MODEL]}))
            catalog = f'model_catalog_json = "{home / "models.json"}"\n'
        speaks = f"supports_websockets = {str(has_socket).lower()}\n"
        (home / "config.toml").write_text(catalog + _CONFIG.format(url=url) + speaks + server)

    def execute(self, *arguments: str) -> list[dict[str, Any]]:
        """The events of `codex exec`, which must end well."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.strip().split("\n")]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(CODEX), "exec", *arguments, "--skip-git-repo-check", "--json"],
            cwd=self._folder,
            env=isolated(self._folder) | {"ANTIPHON_KEY": "any", "RUST_LOG": "codex_api=info"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )


def said(events: list[dict[str, Any]]) -> list[str]:
    done = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item["text"] for item in done if item["type"] == "agent_message"]


def test_a_turn(url: str, tmp_path: Path) -> None:
    events = Codex(url, tmp_path).execute("Count from 1 to 20")
    assert said(events) == [counted(20)]
    assert events[-1]["type"] == "turn.completed"
    assert events[-1]["usage"]["output_tokens"] > 0


def test_a_command_that_it_runs_and_a_session_that_goes_on(url: str, tmp_path: Path) -> None:
    codex = Codex(url, tmp_path)
    events = codex.execute('Use exec_command with {"cmd": "echo $((123 * 456))"}')
    ran = [event["item"] for event in events if event["type"] == "item.completed"]
    outputs = [item["aggregated_output"] for item in ran if item["type"] == "command_execution"]
    assert outputs == ["56088\n"]
    assert "56088" in said(events)[-1]
    assert said(codex.execute("resume", "--last", "Count from 1 to 3")) == [counted(3)]


def test_a_command_and_what_follows_on_a_socket(url: str, tmp_path: Path) -> None:
    """It sends only what is new, and stores nothing."""
    codex = Codex(url, tmp_path, has_socket=True)
    done = codex.run('Use exec_command with {"cmd": "echo $((123 * 456))"}')
    assert done.returncode == 0, done.stdout + done.stderr
    assert "56088" in said([json.loads(line) for line in done.stdout.strip().split("\n")])[-1]
    assert "connected to Responses WebSocket" in done.stderr
    assert "Falling back" not in done.stdout


async def test_a_node_without_sockets_is_used_by_http_at_once(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    async with node(Settings(redis_url=cluster.redis_url), **_WITHOUT_SOCKETS) as api:
        codex = Codex(f"{api.url}/v1", tmp_path, has_socket=True)
        done = await asyncio.to_thread(codex.run, "Count from 1 to 3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert counted(3) in done.stdout
    assert "Reconnecting" not in done.stdout


@pytest.mark.parametrize("has_socket", [False, True])
async def test_a_router_in_front_of_cells_changes_nothing(
    cluster: RunningCluster, tmp_path: Path, has_socket: bool
) -> None:
    async with router({"0": cluster.urls}) as front:
        codex = Codex(f"{front.url}/v1", tmp_path, has_socket=has_socket)
        command = 'Use exec_command with {"cmd": "echo $((123 * 456))"}'
        done = await asyncio.to_thread(codex.run, command)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "56088" in said([json.loads(line) for line in done.stdout.strip().split("\n")])[-1]
        assert ("connected to Responses WebSocket" in done.stderr) == has_socket
        more = await asyncio.to_thread(codex.execute, "resume", "--last", "Count from 1 to 3")
        assert said(more) == [counted(3)]


def test_the_tools_of_an_mcp_server_of_its_own(url: str, mcp: str, tmp_path: Path) -> None:
    """It offers them as a namespace."""
    events = Codex(url, tmp_path, mcp=mcp).execute('Use mcp__test.add with {"a": 2, "b": 3}')
    ran = [event["item"] for event in events if event["type"] == "item.completed"]
    calls = [(i["server"], i["tool"], i["status"]) for i in ran if i["type"] == "mcp_tool_call"]
    assert calls == [("test", "add", "completed")]
    assert said(events)[-1].startswith("The tool `mcp__test.add` answered:")
    assert "5" in said(events)[-1]


def test_a_patch_that_it_applies(url: str, tmp_path: Path) -> None:
    """It offers `apply_patch` as a custom tool with a grammar."""
    patch = "*** Begin Patch\n*** Add File: hello.txt\n+Hello é\n*** End Patch"
    codex = Codex(url, tmp_path, has_patches=True)
    events = codex.execute(f"Use apply_patch with {json.dumps({'input': patch})}")
    assert (tmp_path / "hello.txt").read_text() == "Hello é\n"
    assert "The function `apply_patch` answered:" in said(events)[-1]
    assert said(codex.execute("resume", "--last", "Count from 1 to 3")) == [counted(3)]


def test_its_reasoning_comes_back_sealed(url: str, node: Ask, tmp_path: Path) -> None:
    """It stores nothing, and asks for sealed reasoning by itself; it sends back the text too, which a gateway
    on the way may drop."""
    with recording(url) as (address, sent):
        Codex(address, tmp_path).execute('Use exec_command with {"cmd": "echo 1"}')
    first, second = (body for body in sent if "input" in body)
    assert (first["store"], first["include"]) == (False, ["reasoning.encrypted_content"])
    item = carried([second])
    assert item["encrypted_content"].startswith("antiphon1.")
    thoughts = [part["text"] for part in item["content"]]
    assert len(thoughts) == 1
    assert thoughts_read(node, [second]) == thoughts
    del item["content"]
    assert thoughts_read(node, [second]) == thoughts


def test_silence_and_awkward_characters(awkward: str, tmp_path: Path) -> None:
    codex = Codex(awkward, tmp_path)
    assert said(codex.execute("Keep silent")) == [SILENCE]
    assert said(codex.execute("Say separators")) == [SEPARATORS]


def test_a_silence_longer_than_its_watchdog_waits_for_an_event(awkward: str, tmp_path: Path) -> None:
    """Comments do not count for it: with those it gives the stream up, and begins again."""
    assert said(Codex(awkward, tmp_path).execute("Keep silent for long")) == ["That was a long silence."]


def test_a_response_that_fails_ends_the_turn_with_our_words(awkward: str, tmp_path: Path) -> None:
    done = Codex(awkward, tmp_path).run("Please fail")
    assert done.returncode != 0
    assert "The model kept calling 'nowhere.nothing'" in done.stdout


def test_a_prompt_that_is_too_long_is_reported_as_such(awkward: str, tmp_path: Path) -> None:
    """It compares the code, and would begin again for any other."""
    done = Codex(awkward, tmp_path).run(TOO_LONG)
    assert done.returncode != 0
    assert "context window" in done.stdout
