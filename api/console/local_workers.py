"""Kills workers of the local launcher, for whoever wants to see what then happens.

Reads the launcher's list of processes, which only a launcher names in the settings; the launcher starts a
worker that was killed again.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

from api.errors import ClientError


def kill(cluster: Path | None, pid: int) -> None:
    """Kills the worker with this pid. Raises ClientError if it is no local launcher's, or has ended."""
    if cluster is None:
        raise ClientError(
            404, "The console kills workers of a local launcher only.", "worker_not_found", "owner"
        )
    try:
        roles: list[dict[str, Any]] = json.loads(cluster.read_text())["roles"]
    except (OSError, ValueError, KeyError):
        roles = []
    if pid not in [role["pid"] for role in roles if role["kind"] == "worker" and role["pid"]]:
        raise ClientError(409, "That worker is not running just now.", "worker_not_running", "owner")
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        raise ClientError(409, "That worker has just ended.", "worker_not_running", "owner") from None
