"""A rolling upgrade under load: runs the code of an earlier commit, and replaces it process by process.

Owns the earlier code's folder and the order of replacement, which is that of docs/deploy.md.
"""

import asyncio
import io
import subprocess
import zipfile
from pathlib import Path

from local.cluster import ROOT, Cluster
from tests.chaos.history import Recorder, Struck

ORDER = ("worker", "tool_runner", "api")
_PACKAGES = ("api", "worker", "tool_runner", "shared")
_BETWEEN_S = 3.0


def check_out(commit: str, folder: Path) -> Path:
    """Checks out the roles' code at that commit into `folder`. Raises CalledProcessError."""
    packed = subprocess.run(
        ["git", "archive", "--format=zip", commit, *_PACKAGES], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    with zipfile.ZipFile(io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder)
    return folder


async def replace_all(cluster: Cluster, recorder: Recorder, root: Path) -> None:
    """Ends each process in order and starts it with the code in `root`, one after the other."""
    for kind in ORDER:
        for name in sorted(name for name in cluster.pids if name.startswith(f"{kind}-")):
            await asyncio.sleep(_BETWEEN_S)
            number = int(name.rpartition("-")[2])
            recorder.note(Struck(recorder.now_s(), "upgrade", kind, number, cluster.pids[name]))
            await cluster.move(kind, number, root)
            await cluster.until_ready()
