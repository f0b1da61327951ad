"""Keeps the sessions: which interpreter a call goes to, how many there are, and what the model is told.

Owns identity, order, bounds and wording. `session.py` owns a session's process.
"""

import asyncio
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tool_runner.builtin.cells import CellOutput, Ran
from tool_runner.builtin.cpython.bubblewrap import Limits, NoSandbox
from tool_runner.builtin.cpython.processes import survey
from tool_runner.builtin.cpython.session import IS_ALIVE, End, Interpreter

_WATCH_INTERVAL_S = 0.1
_CODE_BYTES_MAX = 4 * 2**20
_KEPT_MAX = 4
"""Outcomes kept of each session."""
_LOST = (
    "The variables and files of earlier calls are lost: their session was idle for too long, made room for "
    "others, or was on a server that has been restarted or replaced. This call began a new session"
)
_SHARED = "Other calls have run in this session since, so its variables may have changed"
_GONE = "The variables and files of this session are lost; the next call begins anew"


@dataclass(slots=True)
class _Cell:
    """A cell with its outcome, which is kept for a while, for a caller whose answer was lost."""

    outcome: "asyncio.Task[Ran]"
    waiting: int = 0


_CallName = str | tuple[int, str]
"""What a call is known by: its name or, without one, the number in its state and its code."""


@dataclass(slots=True)
class _Session:
    id: str
    interpreter: Interpreter | None = None
    number: int = 0
    """Of cells that were begun."""
    cells: OrderedDict[_CallName, _Cell] = field(default_factory=OrderedDict)
    """The last few."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_lost: bool = False
    """Its process has been ended, which its next call is told."""
    users: int = 0
    """Cells that run or wait here; a session with any is not idle."""
    idle: asyncio.TimerHandle | None = None


class CPythonSandbox:
    """Runs each session's cells in a process of its own, one after another.

    A state is `<id>.<number of cells>`. Who holds it may go on with that session, so the id cannot be
    guessed. A call that is made again gets the outcome of the first, whatever has run in the session since.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Interpreter]],
        limits: Limits,
        output_bytes_max: int,
        cells_max: int,
        sessions_max: int,
    ) -> None:
        self._start = start
        self._limits = limits
        self._output_bytes_max = output_bytes_max
        self._sessions_max = max(sessions_max, cells_max)
        self._running = asyncio.Semaphore(cells_max)
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        """The least recently used first."""
        self._watched: set[Interpreter] = set()
        self._has_watched = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._starting = 0

    @property
    def is_running(self) -> bool:
        """True while any cell runs."""
        return bool(self._watched)

    @property
    def sessions(self) -> int:
        """The number of sessions that a call may go on with."""
        return len(self._sessions)

    async def run(self, code: str, state: str | None, call: str | None = None) -> Ran:
        if len(code.encode("utf-8", "replace")) > _CODE_BYTES_MAX:
            return Ran(f"[The code is longer than {_CODE_BYTES_MAX} bytes.]\n", has_failed=True)
        session, number = self._find(state, call)
        note = None
        if session is None:
            note = None if state is None else _LOST
            session = self._open()
        elif number < session.number and not session.users:
            note = _SHARED
        name = call or (number, code)
        cell = session.cells.get(name)
        if cell is None:
            cell = session.cells[name] = _Cell(self._begin(session, code, note))
            if len(session.cells) > _KEPT_MAX:
                session.cells.popitem(last=False)
        return await self._wait_for(session, name, cell)

    def _find(self, state: str | None, call: str | None) -> tuple[_Session | None, int]:
        """Returns the session of a state, and the number of cells when it was made.

        Without a state, a call that is made again has the session that it began.
        """
        if state is None and call is not None:
            made = (f"{each.id}.{each.number}" for each in self._sessions.values() if call in each.cells)
            state = next(made, None)
        session_id, _, number = (state or "").partition(".")
        session = self._sessions.get(session_id)
        if session is None or not re.fullmatch(r"[0-9]{1,9}", number):
            return None, 0
        self._sessions.move_to_end(session_id)
        return session, int(number)

    def _open(self) -> _Session:
        if len(self._sessions) >= 2 * self._sessions_max:
            # Only sessions whose process has ended can be so many: those with one are fewer.
            idle = next((each for each in self._sessions.values() if not each.users), None)
            if idle is not None:
                self._end_soon(idle)
        session = _Session(secrets.token_urlsafe(32))
        self._sessions[session.id] = session
        return session

    async def _wait_for(self, session: _Session, name: _CallName, cell: _Cell) -> Ran:
        """Returns a cell's outcome. If everyone who waits for it is cancelled, the cell is ended."""
        cell.waiting += 1
        try:
            return await asyncio.shield(cell.outcome)
        except asyncio.CancelledError:
            if cell.waiting == 1 and not cell.outcome.done():
                session.cells.pop(name, None)
                cell.outcome.cancel()
            raise
        finally:
            cell.waiting -= 1

    # One cell

    def _begin(self, session: _Session, code: str, note: str | None) -> "asyncio.Task[Ran]":
        """Begins a cell, whose session is in use from now on."""
        session.users += 1
        if session.idle is not None:
            session.idle.cancel()
        outcome = asyncio.create_task(self._run(session, code, note))
        outcome.add_done_callback(lambda _: self._rest(session))
        return outcome

    async def _run(self, session: _Session, code: str, note: str | None) -> Ran:
        async with session.turn, self._running:
            session.number += 1
            return await self._run_now(session, code, note)

    async def _run_now(self, session: _Session, code: str, note: str | None) -> Ran:
        shown, state = CellOutput(self._output_bytes_max), f"{session.id}.{session.number}"
        try:
            interpreter = await self._interpreter_of(session)
        except NoSandbox as error:
            return Ran(f"[The sandbox could not be started: {error}]\n", has_failed=True)
        if session.is_lost:
            note, session.is_lost = _LOST, False
        end = await self._run_watched(interpreter, code, shown)
        if end not in IS_ALIVE:
            session.interpreter = None
            await interpreter.close()
        for text in (_tell(end, self._limits), note):
            if text is not None:
                shown.add_note(text)
        return Ran(shown.text, has_failed=end is not End.OVER, state=state)

    async def _interpreter_of(self, session: _Session) -> Interpreter:
        if session.interpreter is not None:
            session.interpreter.look()
            if not session.interpreter.is_alive:
                # Between two calls, for example by a kernel that was out of memory.
                await self._take_away(session)
        if session.interpreter is None:
            await self._make_room()
            self._starting += 1
            try:
                session.interpreter = await self._start_whole()
            finally:
                self._starting -= 1
        return session.interpreter

    async def _start_whole(self) -> Interpreter:
        """Starts an interpreter; if cancelled, ends it as soon as it has started, since bubblewrap that is
        killed while it starts may leave a process behind."""
        starting = asyncio.ensure_future(self._start())
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(NoSandbox):
                await (await starting).close()
            raise

    async def _run_watched(self, interpreter: Interpreter, code: str, shown: CellOutput) -> End:
        """Runs a cell; if cancelled, interrupts it and still waits for its end, which has a limit."""
        running = asyncio.create_task(interpreter.run(code, shown))
        self._watched.add(interpreter)
        self._has_watched.set()
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            interpreter.interrupt(End.GIVEN_UP)
            return await running
        finally:
            self._watched.discard(interpreter)

    async def watch(self) -> None:
        """Looks after the memory of the cells that run, for ever."""
        while True:
            if not self._watched:
                self._has_watched.clear()
                await self._has_watched.wait()
            children = await asyncio.to_thread(survey)
            for interpreter in tuple(self._watched):
                interpreter.check(children)
            await asyncio.sleep(_WATCH_INTERVAL_S)

    # Which sessions live

    async def _make_room(self) -> None:
        """Ends the session that has been idle for longest, if there are as many as there may be.

        If calls wait in all of them, it is one of those, whose next call is told. There is one in which
        nothing runs, because no more cells run than there may be sessions.
        """
        living = [each for each in self._sessions.values() if each.interpreter is not None]
        if len(living) + self._starting < self._sessions_max:
            return
        resting = [each for each in living if each.interpreter not in self._watched]
        for session in sorted(resting, key=lambda each: each.users > 0)[:1]:
            if session.users:
                await self._take_away(session)
            else:
                await self._end(session)

    async def _take_away(self, session: _Session) -> None:
        """Ends a session's process; its next call is told that the variables are lost."""
        interpreter, session.interpreter, session.is_lost = session.interpreter, None, True
        if interpreter is not None:
            await interpreter.close()

    def _rest(self, session: _Session) -> None:
        """Counts a cell that is over; ends its session if nobody uses it for a while."""
        session.users -= 1
        if not session.users:
            loop = asyncio.get_running_loop()
            session.idle = loop.call_later(self._limits.idle_s, self._end_soon, session)

    def _end_soon(self, session: _Session) -> None:
        """Ends an idle session, with which no call can go on from now on."""
        if not session.users:
            self._sessions.pop(session.id, None)
            ending = asyncio.create_task(self._end(session))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end(self, session: _Session) -> None:
        self._sessions.pop(session.id, None)
        if session.idle is not None:
            session.idle.cancel()
        interpreter, session.interpreter = session.interpreter, None
        if interpreter is not None:
            await interpreter.close()

    async def close(self) -> None:
        """Ends every session."""
        await asyncio.gather(*self._ending, *(self._end(each) for each in tuple(self._sessions.values())))


def _tell(end: End, limits: Limits) -> str | None:
    """Returns what the model is told about the end of a cell, if it was none of the code's own."""
    match end:
        case End.OVER:
            return None
        case End.INTERRUPTED:
            return (
                f"The code ran for longer than {limits.cell_s:g} s and was interrupted. The variables stay "
                "as it left them"
            )
        case End.GIVEN_UP:
            return "The call was given up and its code interrupted. The variables stay as it left them"
        case End.EXITED:
            return f"The code ended its own interpreter. {_GONE}"
        case End.TOO_LONG:
            return (
                f"The code ran for longer than {limits.cell_s:g} s, could not be interrupted and was ended. "
                f"{_GONE}"
            )
        case End.TOO_MUCH_MEMORY:
            return f"The code took more than {limits.memory_bytes >> 20} MiB of memory and was ended. {_GONE}"
        case End.TOO_MUCH_OUTPUT:
            return f"The code printed without end and was ended. {_GONE}"
        case End.UNRULY:
            return f"The code left processes that could not be ended in order, so its session was. {_GONE}"


@asynccontextmanager
async def open_sandbox(
    start: Callable[[], Awaitable[Interpreter]],
    limits: Limits,
    output_bytes_max: int,
    cells_max: int,
    sessions_max: int,
) -> AsyncIterator[CPythonSandbox]:
    """Opens a sandbox, whose sessions all end with it."""
    sandbox = CPythonSandbox(start, limits, output_bytes_max, cells_max, sessions_max)
    watching = asyncio.create_task(sandbox.watch())
    try:
        yield sandbox
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await sandbox.close()
