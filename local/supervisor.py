"""Keeps one process per role running: starts it, writes its log, restarts it with back-off, ends it.

Does not know what the roles are or when they are ready.
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
"""A process that lived this long starts again without the back-off of earlier deaths."""
EARLY_DEATHS_MAX = 3
_TAIL_LINES = 15
_LAST_BYTES = 4096
_LINE_CHARS_MAX = 160


@dataclass(frozen=True, slots=True)
class Role:
    """One process to keep running; leads its own process group. `port`: where it listens, if it does."""

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
    """A role ended several times before the cluster was ready; the text shows the end of its log."""

    def __init__(self, role: Role, exit_status: str) -> None:
        super().__init__(
            f"{role.name} ended {EARLY_DEATHS_MAX} times before it was ready, at last with {exit_status}. "
            f"The end of {role.log}:\n{read_tail(role.log)}"
        )


def next_delay_s(delay_s: float, lived_s: float) -> float:
    """How long to wait before the next start, after the wait before the last one and the life it had."""
    if lived_s >= SETTLED_AFTER_S or delay_s == 0:
        return BACK_OFF_FIRST_S
    return min(2 * delay_s, BACK_OFF_MAX_S)


def describe_exit(returncode: int) -> str:
    return f"exit code {returncode}" if returncode >= 0 else signal.Signals(-returncode).name


def read_tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join(f"  {line}" for line in lines) or "  (empty)"


def read_last_line(log: Path) -> str:
    """What it said last, cut to about a line of a terminal; empty when it has said nothing."""
    if not log.is_file():
        return ""
    with log.open("rb") as opened:
        opened.seek(max(0, log.stat().st_size - _LAST_BYTES))
        said = opened.read().decode(errors="replace")
    # A progress bar draws itself anew after a carriage return.
    lines = [line.strip() for line in said.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:_LINE_CHARS_MAX] if lines else ""


class Keeper:
    """One role's process, for as long as `keep` runs; cancelling that ends the process."""

    def __init__(self, role: Role, on_change: Callable[[], None]) -> None:
        """`on_change` is called whenever `identity` or `restarts` changed, before the process runs."""
        self.role = role
        self.identity: Identity | None = None
        self.restarts = 0
        self.has_arrived = False
        """Set once the cluster is ready: from then on no number of deaths is too many."""
        self._on_change = on_change

    async def keep(self) -> None:
        """Runs until it is cancelled. Raises DeadOnArrival, and OSError when it cannot start a process."""
        self.role.log.write_bytes(b"")
        delay_s = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            started_s = clock()
            returncode = await self._live_once()
            if not self.has_arrived and self.restarts + 1 >= EARLY_DEATHS_MAX:
                raise DeadOnArrival(self.role, describe_exit(returncode))
            delay_s = next_delay_s(delay_s, clock() - started_s)
            self._note(f"ended with {describe_exit(returncode)}; starts again in {delay_s:g} s")
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
            with suppress(BrokenPipeError):  # killed at the gate: `wait` tells
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
    """SIGTERM, then SIGKILL for what is left of its group after the grace; returns when it is gone."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await process.wait()
    kill_group(process.pid)
    await process.wait()
