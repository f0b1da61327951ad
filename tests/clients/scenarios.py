"""Runs scenarios of third-party clients, each in its own environment, and returns their reports.

Owns the processes. `node/` and `python/` define what a client does, and the tests what must come of it; only
loopback is reached.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.running import ROOT

NODE = ROOT / "tests" / "clients" / "node"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
CHAT_PYTHON = ROOT / ".venv-chat-clients" / "bin" / "python"
"""Of the clients that need an older `openai`."""
_NOBODY = "http://127.0.0.1:9"
_TIMEOUT_S = 100.0


def isolated(home: Path) -> dict[str, str]:
    """Returns an environment without our settings and keys, and without access to other machines."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HTTP_PROXY": _NOBODY,
        "HTTPS_PROXY": _NOBODY,
        "NO_PROXY": "127.0.0.1",
    }


Known = Mapping[str, Any]


def run_node(client: str, scenario: str, cases: Sequence[Known], home: Path) -> list[Any]:
    """Runs `scenario` of `node/CLIENT.mjs` for each case, in one process, as it starts slowly; returns the
    reports."""
    return _run(["node", "run.mjs", client, scenario], NODE, cases, home)


def run_python(client: str, scenario: str, cases: Sequence[Known], home: Path) -> list[Any]:
    """Runs `scenario` of `python/CLIENT.py` for each case; returns the reports."""
    return _run([str(PYTHON), "-m", "tests.clients.python.run", client, scenario], ROOT, cases, home)


def _run(command: list[str], folder: Path, cases: Sequence[Known], home: Path) -> list[Any]:
    done = subprocess.run(
        command,
        cwd=folder,
        env=isolated(home),
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reports: list[Any] = json.loads(done.stdout)
    return reports
