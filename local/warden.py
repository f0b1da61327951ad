"""A small process that outlives a killed launcher, and then ends the processes that the launcher had started.

Knows only the processes passed to `Warden.watch`; ends nothing while the launcher is alive.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from local.processes import Identity, end

_ROOT = Path(__file__).parent.parent


class Warden:
    """The launcher's side. The warden waits for the end of its stdin, which comes when the launcher ends."""

    def __init__(self) -> None:
        self._process = self._start()

    def watch(self, stages: Iterable[Sequence[Identity]]) -> None:
        """Replaces the processes to be ended, in this order, when the launcher is gone."""
        line = json.dumps(list(stages)).encode() + b"\n"
        try:
            self._send(line)
        except BrokenPipeError:
            self._process.wait()
            self._process = self._start()
            self._send(line)

    def close(self) -> None:
        """Ends the warden without ending anything else."""
        self.watch([])
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)

    def _start(self) -> "subprocess.Popen[bytes]":
        # A session of its own, so that the terminal's Ctrl-C and hang-up reach only the launcher.
        return subprocess.Popen(
            [sys.executable, "-S", "-m", "local.warden"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )


def decode_stages(line: bytes) -> list[list[Identity]]:
    return [[Identity(pid, started) for pid, started in stage] for stage in json.loads(line)]


def main() -> None:
    stages: list[list[Identity]] = []
    for line in sys.stdin.buffer:
        if line.endswith(b"\n"):  # a launcher killed while writing leaves half a line: keep the one before
            stages = decode_stages(line)
    end(stages)


if __name__ == "__main__":
    main()
