"""Runs the cells of one session, one after another: the program inside the sandbox.

Owns what a cell means: its variables, the value of its last expression, its traceback. `session.py` starts it
with any CPython, so it imports the standard library only; it limits itself, and then trusts nobody: the code
runs in this same process, and whatever it does to it harms its own session only.

    cells come in at stdin, answers go out at the descriptor ANSWERS: 4 bytes of length, then JSON.
    What a cell prints goes to stdout and stderr, which are one pipe.
"""

import argparse
import ast
import asyncio
import inspect
import io
import json
import linecache
import os
import resource
import signal
import struct
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<I")
_CELL = "<cell "
_CUT = "… [cut]"
_SIGNALS_MAX = 256
"""Of those that wait, and of timers, each of which keeps one."""


def main() -> None:
    arguments = _parse(sys.argv[1:])
    answers = os.fdopen(arguments.answers, "wb", buffering=0)
    cells = os.fdopen(os.dup(0), "rb")
    for owned in (cells.fileno(), answers.fileno()):
        os.set_inheritable(owned, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if arguments.user:
        _become(arguments.user)
    _limit(arguments)
    sys.argv = [""]
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    _serve(cells, answers, arguments.last_bytes_max)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mark")  # for others to know this process by
    for name in (
        "answers",
        "user",
        "memory-bytes",
        "file-bytes",
        "processes",
        "open-files",
        "last-bytes-max",
    ):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args(words)


def _become(user: int) -> None:
    """Gives up root for a user of no other process, which also gives up every capability."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def _limit(arguments: argparse.Namespace) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, arguments.memory_bytes),
        (resource.RLIMIT_FSIZE, arguments.file_bytes),
        (resource.RLIMIT_NPROC, arguments.processes),
        (resource.RLIMIT_NOFILE, arguments.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_SIGPENDING, _SIGNALS_MAX),
    ):
        resource.setrlimit(kind, (most, most))
    # A write beyond the limit is an error of the code's, not the end of its process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _serve(cells: BinaryIO, answers: Any, last_bytes_max: int) -> None:
    notebook, own = _Notebook(), os.getpid()
    signal.signal(signal.SIGINT, notebook.interrupt)
    _answer(answers, {"ready": True})
    while (code := _read(cells)) is not None:
        last = notebook.run(code)
        if os.getpid() != own:
            os._exit(0)  # the code forked, and this is the child at the end of its cell
        if last is not None and len(last) > last_bytes_max:
            last = last[:last_bytes_max] + _CUT
        _answer(answers, {"last": last})


def _read(cells: BinaryIO) -> str | None:
    head = cells.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    code = json.loads(cells.read(_LENGTH.unpack(head)[0]))["code"]
    assert isinstance(code, str)
    return code


def _answer(answers: Any, answer: dict[str, object]) -> None:
    raw = json.dumps(answer).encode()
    whole = memoryview(_LENGTH.pack(len(raw)) + raw)
    while whole:
        whole = whole[answers.write(whole) :]


class _Notebook:
    """The variables of a session, which are those of a module `__main__`."""

    def __init__(self) -> None:
        self._module = types.ModuleType("__main__")
        self._module.__dict__["__builtins__"] = __builtins__
        sys.modules["__main__"] = self._module
        self._count = 0
        self._is_running = False

    def interrupt(self, _number: int, _frame: object) -> None:
        """Ends the cell that runs, at SIGINT; between two cells, it does nothing."""
        if self._is_running:
            raise KeyboardInterrupt

    def run(self, code: str) -> str | None:
        """Returns what a cell shows last: the value of its last expression, or its traceback, or None."""
        self._count += 1
        name = f"{_CELL}{self._count}>"
        linecache.cache[name] = (len(code), None, [f"{line}\n" for line in code.splitlines()], name)
        try:
            self._is_running = True
            try:
                return self._run(code, name)
            finally:
                self._is_running = False
                _flush()
        except BaseException as error:  # noqa: BLE001 - the model is the caller, and reads it
            return _describe(error)

    def _run(self, code: str, name: str) -> str | None:
        tree = compile(code, name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self._execute(compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
        if not isinstance(last, ast.Expr):
            return None
        shown = ast.Expression(last.value)
        value = self._execute(compile(shown, name, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
        self._module.__dict__["_"] = value
        return None if value is None else repr(value)

    def _execute(self, code: types.CodeType) -> object:
        value = eval(code, self._module.__dict__)
        return asyncio.run(_finish(value)) if code.co_flags & inspect.CO_COROUTINE else value


async def _finish(running: Any) -> object:
    return await running


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # the code has closed or replaced it


def _describe(error: BaseException) -> str:
    """Returns the traceback, without the frames that are not the code's own."""
    try:
        described = traceback.TracebackException.from_exception(error)
        for part in _parts(described):
            part.stack[:] = [frame for frame in part.stack if frame.filename.startswith(_CELL)]
        lines = described.format() if described.stack else described.format_exception_only()
        return "".join(lines).rstrip("\n")
    except BaseException:  # noqa: BLE001 - the model is the caller, and reads at least the name
        # Out of memory, out of stack, or an exception that cannot be shown.
        return type(error).__name__


def _parts(error: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """Yields an exception, its causes and those of its group, each once."""
    waiting, seen = [error], set()
    while waiting:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            others = (part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ()))
            waiting += [other for other in others if other is not None]


if __name__ == "__main__":
    main()
