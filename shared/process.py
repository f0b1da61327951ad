"""Starts and ends the process of a role: settings, logging, signals, exit code.

Owns what is the same for every role; the role owns what it does in between.
"""

import asyncio
import gc
import re
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from shared import logs, traces
from shared.settings import Settings
from shared.tracer import TracesUnusable

FAILED, MISUSED = 1, 2
"""Exit codes: something outside the process failed; a setting, or a file that a setting names, is invalid."""


class Misuse(Exception):
    """The process cannot start as configured; the message is for the operator."""


def start(
    role: str,
    main: Callable[[Settings], None],
    read_settings: Callable[[], Settings] = Settings,
    *,
    misuses: tuple[type[Exception], ...] = (),
    failures: tuple[type[Exception], ...] = (),
) -> int:
    """Runs `main` with the settings of the environment; returns the exit code of the process.

    0: `main` returned. FAILED: it raised one of `failures`. MISUSED: a setting is invalid, or it raised
    Misuse or one of `misuses`. Each of these errors is printed to stderr as one message that begins with the
    role.
    """
    misuses = (Misuse, TracesUnusable, *misuses)
    try:
        settings = read_settings()
    except ValidationError as error:
        return _refuse(role, error, MISUSED)
    except SettingsError as error:
        return _refuse(role, Misuse(describe_unreadable(error)), MISUSED)
    logs.log_to_stderr(role, settings.log_level, settings.log_format)
    try:
        traces.start(settings, role)
        main(settings)
    except failures as error:
        return _refuse(role, error, FAILED)
    except misuses as error:
        return _refuse(role, error, MISUSED)
    finally:
        traces.stop()
    return 0


def describe_unreadable(error: SettingsError) -> str:
    """Returns which variable cannot be read at all: a list or an object whose text is no JSON."""
    field = re.search(r'field "(\w+)"', str(error))
    name = f"ANTIPHON_{field[1].upper()}" if field else "a setting"
    return f"{name} is not JSON: {error.__cause__}"


def run_until_stopped(
    run: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Runs a role on an event loop.

    SIGTERM and SIGINT set the event passed to `run`, which must then return.
    """
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_with_signals(run))


def collect_rarely() -> None:
    """Makes the garbage collector ignore existing objects and run less often. Called once a role has started.

    A large request creates a million objects, which the default threshold would scan 1,400 times. New objects
    are scanned by the ten thousand, which takes a fraction of a millisecond.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 100, 100)


async def _with_signals(run: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await run(stopped)


def _refuse(role: str, error: Exception, code: int) -> int:
    print(f"{role}: {logs.words_of(error)}", file=sys.stderr)  # noqa: T201  a command reports its errors on stderr
    return code
