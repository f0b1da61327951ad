"""Runs the process of one session: starts it, hands it cells, watches it, holds it still, ends it.

Owns one process tree and its pipes. `interpreter.py` is the program inside, `bubblewrap.py` the walls;
`sandbox.py` decides which sessions live.
"""

import asyncio
import codecs
import json
import os
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Self

from tool_runner.builtin.cells import CellOutput
from tool_runner.builtin.cpython import bubblewrap, seccomp
from tool_runner.builtin.cpython.bubblewrap import FOLDERS, Limits, NoSandbox, Runtime
from tool_runner.builtin.cpython.kernel_memory import KernelMemory
from tool_runner.builtin.cpython.processes import Process, Survey, descend, survey

_START_TIMEOUT_S = 60.0
_GRACE_S = 3.0
"""How long code that is interrupted may take to end before its process is killed."""
_DYING_MAX_S, _DYING_INTERVAL_S = 60.0, 0.01
"""How long killed processes may take to be gone on a busy machine, and how often they are looked for."""
_PRINTED_BYTES_MAX = 256 * 2**20
"""A cell that prints more is ended; what exceeds the output's limit is read and dropped."""
_CHUNK_BYTES = 64 * 1024
_CHUNKS_AT_A_TIME = 16
_ANSWER_BYTES_MAX = 8 * 2**20
"""More than an honest answer takes, with every character of it escaped."""
_ROUNDS_MAX = 20
_LENGTH = struct.Struct("<I")


class End(Enum):
    """How a cell ended."""

    OVER = auto()
    INTERRUPTED = auto()
    """At the limit of time; the variables stay."""
    GIVEN_UP = auto()
    """Nobody waits for it any more; the variables stay."""
    EXITED = auto()
    """The code ended its own process. From here on, the session's process is gone."""
    TOO_LONG = auto()
    TOO_MUCH_MEMORY = auto()
    TOO_MUCH_OUTPUT = auto()
    UNRULY = auto()
    """It left processes that could not be ended, or answered what no interpreter does."""


IS_ALIVE = frozenset({End.OVER, End.INTERRUPTED, End.GIVEN_UP})
"""The ends after which the session has its process and its variables."""


@dataclass(frozen=True, slots=True)
class Walls:
    """What every session is started with."""

    program: str
    runtime: Runtime
    limits: Limits
    seccomp: bytes
    mark: str

    @classmethod
    def find(cls, python: Path, limits: Limits, mark: str = "no-guard") -> Self:
        """`mark`: what the server's guard knows its sandboxes by. Raises NoSandbox if something is missing
        here."""
        try:
            program = seccomp.make_filter(os.uname().machine)
        except seccomp.UnknownMachine as error:
            raise NoSandbox(str(error)) from None
        return cls(bubblewrap.find_program(), bubblewrap.find_runtime(python), limits, program, mark)


class Interpreter:
    """One interpreter behind bubblewrap, which runs one cell at a time and stands still between cells."""

    def __init__(
        self, process: asyncio.subprocess.Process, output: int, answers: int, limits: Limits
    ) -> None:
        self._process = process
        self._output, self._answers = output, answers
        self._limits = limits
        self._first, self._pid = 0, 0
        """The first process of the namespace, which is bubblewrap's, and the interpreter."""
        self._kernel_memory: KernelMemory | None = None
        self._print: Callable[[str], None] = lambda _text: None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._printed_bytes = 0
        self._received = b""
        self._answer: asyncio.Future[dict[str, object]] | None = None
        self._end: End | None = None
        loop = asyncio.get_running_loop()
        loop.add_reader(output, self._read_output)
        loop.add_reader(answers, self._read_answer)

    @classmethod
    async def start(cls, walls: Walls) -> Self:
        """Returns an interpreter that waits for its first cell.

        Raises NoSandbox, with what bubblewrap said.
        """
        user = bubblewrap.choose_user(os.getuid(), _read_uid_map())
        seccomp_read = _fill_pipe(walls.seccomp)
        output, output_write = _make_pipe()
        answers, answers_write = _make_pipe()
        command = bubblewrap.make_command(
            walls.program, walls.runtime, walls.limits, user, seccomp_read, answers_write, walls.mark
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output_write,
                stderr=output_write,
                pass_fds=(seccomp_read, answers_write),
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            os.close(output)
            os.close(answers)
            raise NoSandbox(f"{walls.program} cannot be started: {error.strerror}") from None
        finally:
            for descriptor in (seccomp_read, output_write, answers_write):
                os.close(descriptor)
        interpreter = cls(process, output, answers, walls.limits)
        try:
            await interpreter._arrive()
        except BaseException:
            await interpreter.close()
            raise
        return interpreter

    async def _arrive(self) -> None:
        said: list[str] = []
        self._print = said.append
        answer = self._expect_answer()
        await asyncio.wait({answer}, timeout=_START_TIMEOUT_S)
        self._read_output()
        own = [process.pid for process in descend(survey(), self._process.pid)]
        # bubblewrap, the first process of its namespace, the interpreter
        if not answer.done() or "ready" not in answer.result() or len(own) != 2:
            raise NoSandbox(f"bubblewrap cannot run Python here: {''.join(said).strip() or 'no answer'}")
        self._first, self._pid = own
        with suppress(OSError):
            self._kernel_memory = KernelMemory.open(self._first, FOLDERS)
        _offer_to_killer(self._pid)
        self._signal(self._pid, signal.SIGSTOP)

    @property
    def is_alive(self) -> bool:
        return self._answers >= 0

    @property
    def counts_kernel_memory(self) -> bool:
        """False where the kernel does not tell how many files and sockets a session has."""
        return self._kernel_memory is not None

    def look(self) -> None:
        """Notices it now if the process has ended between two cells."""
        if self.is_alive:
            self._read_answer()

    # One cell

    async def run(self, code: str, shown: CellOutput) -> End:
        """Runs a cell to its end, whatever that is."""
        if not self.is_alive:
            return End.EXITED
        self._print, self._printed_bytes, self._end = shown.add_printed, 0, None
        answer = self._expect_answer()
        self._signal(self._pid, signal.SIGCONT)
        self._send({"code": code})
        await asyncio.wait({answer}, timeout=self._limits.cell_s)
        if not answer.done():
            self.interrupt(End.INTERRUPTED)
            await asyncio.wait({answer}, timeout=_GRACE_S)
        if not answer.done():
            self._kill(End.TOO_LONG)
        self._drain()
        last = (await answer).get("last")
        if isinstance(last, str):
            shown.add_last(last)
        self._print = lambda _text: None
        end = self._end or End.OVER
        return await self._settle(end) if end in IS_ALIVE else end

    def interrupt(self, end: End) -> None:
        """Interrupts the cell that runs, as Ctrl-C does."""
        if self._end is None:
            self._end = end
            self._signal(self._pid, signal.SIGINT)

    def check(self, children: Survey) -> None:
        """Ends the session if its processes, and the kernel for them, take too much memory together."""
        taken = sum(process.resident_bytes for process in descend(children, self._process.pid))
        if self._kernel_memory is not None:
            taken += self._kernel_memory.count()
        if taken > self._limits.memory_bytes:
            self._kill(End.TOO_MUCH_MEMORY)

    async def _settle(self, end: End) -> End:
        """Holds the interpreter still, threads and all, and ends every process that the cell has left."""
        self._signal(self._pid, signal.SIGSTOP)
        rounds, killed = 0, set[int]()
        clock = asyncio.get_running_loop().time
        gives_up_s = clock() + _DYING_MAX_S
        while rounds < _ROUNDS_MAX and clock() < gives_up_s:
            children = await asyncio.to_thread(survey)
            left = self._list_left(children)
            if not left:
                self.check(children)
                return self._end or end
            if killed.issuperset(process.pid for process in left):
                await asyncio.sleep(_DYING_INTERVAL_S)  # they die once they get the processor
                continue
            rounds += 1
            for stop in (signal.SIGSTOP, signal.SIGKILL):
                for process in left:
                    self._signal(process.pid, stop)
            killed.update(process.pid for process in left)
        self._kill(End.UNRULY)
        return End.UNRULY

    def _list_left(self, children: Survey) -> list[Process]:
        """Returns the processes below ours, other than bubblewrap's own and the interpreter."""
        own = list(descend(children, self._process.pid))
        return [process for process in own[1:] if process.pid != self._pid]

    # Its pipes

    def _expect_answer(self) -> "asyncio.Future[dict[str, object]]":
        self._answer = asyncio.get_running_loop().create_future()
        return self._answer

    def _send(self, message: dict[str, object]) -> None:
        raw = json.dumps(message).encode()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(_LENGTH.pack(len(raw)) + raw)

    def _drain(self) -> None:
        """Reads what the cell printed before it answered: it is in the pipe, or was read."""
        for _ in range(2 * _CHUNKS_AT_A_TIME):
            if not self._read_chunk():
                break
        self._print(self._decoder.decode(b"", final=True))

    def _read_output(self) -> None:
        for _ in range(_CHUNKS_AT_A_TIME):
            if not self._read_chunk():
                break
        if self._printed_bytes > _PRINTED_BYTES_MAX:
            self._kill(End.TOO_MUCH_OUTPUT)

    def _read_chunk(self) -> bool:
        """Returns False if there is nothing to read now."""
        if self._output < 0:
            return False
        try:
            chunk = os.read(self._output, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._output = self._forget(self._output)
            return False
        self._printed_bytes += len(chunk)
        self._print(self._decoder.decode(chunk))
        return True

    def _read_answer(self) -> None:
        try:
            chunk = os.read(self._answers, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self._answers = self._forget(self._answers)
            self._kill(End.EXITED)
            return
        self._received += chunk
        if len(self._received) < _LENGTH.size:
            return
        (length,) = _LENGTH.unpack_from(self._received)
        if length > _ANSWER_BYTES_MAX:
            self._kill(End.UNRULY)
        elif len(self._received) >= _LENGTH.size + length:
            self._take(self._received[_LENGTH.size : _LENGTH.size + length])

    def _take(self, raw: bytes) -> None:
        """Accepts one answer, which code may have forged: it says only what its own session shows."""
        self._received = b""
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or self._answer is None or self._answer.done():
            self._kill(End.UNRULY)
        else:
            self._answer.set_result(answer)

    def _forget(self, descriptor: int) -> int:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        return -1

    # Its end

    def _kill(self, end: End) -> None:
        """Ends the whole session at once: every process ends with the first of its namespace.

        The bubblewrap outside then ends by itself, when it has collected that one.
        """
        self._end = self._end if self._end not in (None, *IS_ALIVE) else end
        # While it starts, the first waits for the one outside, and would wait for ever. One that stands still
        # starts no other.
        own = [self._first]
        if not self._first:
            self._signal(self._process.pid, signal.SIGSTOP)
            own = [*(each.pid for each in descend(survey(), self._process.pid)), self._process.pid]
        for pid in own:
            self._signal(pid, signal.SIGKILL)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result({})

    def _signal(self, pid: int, number: signal.Signals) -> None:
        if pid and self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    async def close(self) -> None:
        """Ends the session's processes, and returns when they have ended."""
        self._kill(End.GIVEN_UP)
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            self._signal(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        for descriptor in (self._output, self._answers):
            if descriptor >= 0:
                self._forget(descriptor)
        self._output = self._answers = -1
        if self._kernel_memory is not None:
            self._kernel_memory.close()
            self._kernel_memory = None
        if self._process.stdin is not None:
            self._process.stdin.close()


def _read_uid_map() -> str:
    return Path("/proc/self/uid_map").read_text()


def _offer_to_killer(pid: int) -> None:
    """Has the kernel choose this process where memory runs out, so that the server stays."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _make_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    return read, write


def _fill_pipe(content: bytes) -> int:
    """Returns the reading end of a pipe that holds `content`, which must be shorter than a pipe's room."""
    read, write = os.pipe()
    try:
        os.write(write, content)
    finally:
        os.close(write)
    return read
