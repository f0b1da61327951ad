"""Other people's clients, each in its own environment: runs one scenario of one and returns what it reports.

Owns the processes. What a client is asked to do stands in `node/` and `python/`, what must come of it in the
tests. Nothing but loopback is reached from here.
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
_NOBODY = "http://127.0.0.1:9"
_TIMEOUT_S = 100.0


def isolated(home: Path) -> dict[str, str]:
    """An environment without our settings and keys, whose way out leads nowhere."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HTTP_PROXY": _NOBODY,
        "HTTPS_PROXY": _NOBODY,
        "NO_PROXY": "127.0.0.1",
    }


Known = Mapping[str, Any]


def run_node(client: str, scenario: str, cases: Sequence[Known], home: Path) -> list[Any]:
    """What `scenario` of `node/CLIENT.mjs` reports of each case, in one process: its start takes long."""
    return _run(["node", "run.mjs", client, scenario], NODE, cases, home)


def run_python(client: str, scenario: str, cases: Sequence[Known], home: Path) -> list[Any]:
    """The same of `python/CLIENT.py`."""
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
