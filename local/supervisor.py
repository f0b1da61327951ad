"""Keeps a process running: starts it, writes its log, restarts it with back-off, ends it.

Does not know what the roles are, or when they are ready.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from local.processes import GATE, GRACE_S, Identity, identify, kill_group

BACK_OFF_FIRST_S = 0.2
BACK_OFF_MAX_S = 10.0
SETTLED_AFTER_S = 10.0
"""A process that ran for this long is restarted without the back-off of earlier exits."""
EARLY_DEATHS_MAX = 3
_TAIL_LINES = 15
_LAST_BYTES = 4096
_LINE_CHARS_MAX = 160


@dataclass(frozen=True, slots=True)
class Role:
    """One process to keep running, which leads its own process group.

    `port`: where it listens, if it does.
    """

    kind: str
    number: int
    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    log: Path
    port: int | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"


class DeadOnArrival(Exception):
    """A process ended several times before the cluster was ready; the message shows the end of its log."""

    def __init__(self, role: Role, exit_status: str) -> None:
        super().__init__(
            f"{role.name} ended {EARLY_DEATHS_MAX} times before it was ready, at last with {exit_status}. "
            f"The end of {role.log}:\n{read_tail(role.log)}"
        )


def next_delay_s(delay_s: float, lived_s: float) -> float:
    """Returns the wait before the next start, given the last wait and how long the process then ran."""
    if lived_s >= SETTLED_AFTER_S or delay_s == 0:
        return BACK_OFF_FIRST_S
    return min(2 * delay_s, BACK_OFF_MAX_S)


def describe_exit(returncode: int) -> str:
    return f"exit code {returncode}" if returncode >= 0 else signal.Signals(-returncode).name


def read_tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join(f"  {line}" for line in lines) or "  (empty)"


def read_last_line(log: Path) -> str:
    """Returns the last line of a log, cut to about the width of a terminal; empty if there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as opened:
        opened.seek(max(0, log.stat().st_size - _LAST_BYTES))
        text = opened.read().decode(errors="replace")
    # A progress bar redraws itself after a carriage return.
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:_LINE_CHARS_MAX] if lines else ""


class Keeper:
    """Keeps one process running for as long as `keep` runs; cancelling that ends the process."""

    def __init__(self, role: Role, on_change: Callable[[], None]) -> None:
        """`on_change` is called when `identity` has changed, before a new process runs."""
        self.role = role
        self.identity: Identity | None = None
        self.restarts = 0
        self.has_arrived = False
        """Set once the cluster is ready: from then on, the process is restarted any number of times."""
        self._on_change = on_change

    async def keep(self) -> None:
        """Runs until cancelled. Raises DeadOnArrival, and OSError if a process cannot be started."""
        self.role.log.write_bytes(b"")
        delay_s = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            started_s = clock()
            returncode = await self._live_once()
            if not self.has_arrived and self.restarts + 1 >= EARLY_DEATHS_MAX:
                raise DeadOnArrival(self.role, describe_exit(returncode))
            delay_s = next_delay_s(delay_s, clock() - started_s)
            self._note(f"ended with {describe_exit(returncode)}; restarting in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            self.restarts += 1

    async def _live_once(self) -> int:
        process = await self._start()
        try:
            return await process.wait()
        finally:
            await end_child(process)
            self._change_identity(None)

    async def _start(self) -> asyncio.subprocess.Process:
        gate_out, gate_in = os.pipe()
        try:
            with self.role.log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *GATE,
                    *self.role.command,
                    cwd=self.role.folder,
                    env=self.role.environment,
                    stdin=gate_out,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._change_identity(identify(process.pid))
            with suppress(BrokenPipeError):  # killed at the gate, which `wait` reports
                os.write(gate_in, b"go\n")
            return process
        finally:
            os.close(gate_out)
            os.close(gate_in)

    def _change_identity(self, identity: Identity | None) -> None:
        self.identity = identity
        self._on_change()

    def _note(self, text: str) -> None:
        with self.role.log.open("a") as log:
            log.write(f"[launcher] {self.role.name} {text}\n")


async def end_child(process: asyncio.subprocess.Process, grace_s: float = GRACE_S) -> None:
    """Ends a child: SIGTERM, then SIGKILL for what is left of its group after `grace_s`; waits until it is
    gone."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await process.wait()
    kill_group(process.pid)
    await process.wait()
