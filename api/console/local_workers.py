"""Kills workers of the local launcher, for whoever wants to see what then happens.

Reads the launcher's list of processes, which only a launcher names in the settings; the launcher starts a
worker that was killed again.
"""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

from api.errors import ClientError

_OWNER = re.compile(r"worker-([0-9]{1,4})-[0-9a-f]{12}")
"""The name of a process whose place the launcher has set to its number."""


def kill(cluster: Path | None, owner: str) -> None:
    """Kills the worker that has this name. Raises ClientError if it is none of a local launcher's."""
    named = _OWNER.fullmatch(owner)
    if cluster is None or named is None:
        raise ClientError(
            404, "The console kills workers of a local launcher only.", "worker_not_found", "owner"
        )
    try:
        roles: list[dict[str, Any]] = json.loads(cluster.read_text())["roles"]
    except (OSError, ValueError, KeyError):
        roles = []
    pids = [role["pid"] for role in roles if (role["kind"], role["number"]) == ("worker", int(named[1]))]
    if not pids or pids[0] is None:
        raise ClientError(409, "That worker is not running just now.", "worker_not_running", "owner")
    try:
        os.kill(pids[0], signal.SIGKILL)
    except ProcessLookupError:
        raise ClientError(409, "That worker has just ended.", "worker_not_running", "owner") from None
