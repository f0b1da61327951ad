"""A small process that outlives a launcher which was killed, and then ends what that one had started.

Knows only what it is told (`Warden.watch`); ends nothing while the launcher lives.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from local.processes import Identity, end

_ROOT = Path(__file__).parent.parent


class Warden:
    """The launcher's side. The warden waits for the end of its stdin, which is the launcher's end."""

    def __init__(self) -> None:
        self._process = self._start()

    def watch(self, stages: Iterable[Sequence[Identity]]) -> None:
        """From now on these are to be ended, in this order, when the launcher is gone."""
        line = json.dumps(list(stages)).encode() + b"\n"
        try:
            self._tell(line)
        except BrokenPipeError:
            self._process.wait()
            self._process = self._start()
            self._tell(line)

    def close(self) -> None:
        """Lets the warden go, with nothing left to end."""
        self.watch([])
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)

    def _start(self) -> "subprocess.Popen[bytes]":
        # A session of its own: the terminal's Ctrl-C and hang-up are the launcher's business.
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
        if line.endswith(b"\n"):  # a launcher killed while writing leaves half a line: the one before holds
            stages = decode_stages(line)
    end(stages)


if __name__ == "__main__":
    main()
