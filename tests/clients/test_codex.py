"""`codex exec`: the agent's command line, with a configuration that knows nothing but our address."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.clients.answers import SEPARATORS, SILENCE, TOO_LONG, counted
from tests.clients.scenarios import NODE, isolated

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


class Codex:
    """One home for several runs: sessions are kept there."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder = folder
        home = folder / ".codex"
        home.mkdir()
        (home / "config.toml").write_text(_CONFIG.format(url=url))

    def execute(self, *arguments: str) -> list[dict[str, Any]]:
        """The events of `codex exec`, which must end well."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.strip().split("\n")]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(CODEX), "exec", *arguments, "--skip-git-repo-check", "--json"],
            cwd=self._folder,
            env=isolated(self._folder) | {"ANTIPHON_KEY": "any"},
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
