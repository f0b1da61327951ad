"""What tests of the CPython sandbox need: bubblewrap, and a kernel that lets it work."""

import asyncio
import functools
import os
import shutil
import sys
from pathlib import Path

import pytest

from tool_runner.builtin.cpython.bubblewrap import Limits, NoSandbox
from tool_runner.builtin.cpython.session import Interpreter, Walls

PYTHON = Path(getattr(sys, "_base_executable", sys.executable))


@functools.cache
def find_fault() -> str | None:
    """Returns why no interpreter can be started behind bubblewrap here, or None."""

    async def try_one() -> None:
        await (await Interpreter.start(Walls.find(PYTHON, Limits()))).close()

    try:
        asyncio.run(try_one())
    except NoSandbox as error:
        return str(error)
    return None


def need_bubblewrap() -> None:
    """Skips the test, saying why, if this machine cannot hold a sandbox.

    Fails where tests must not be skipped for want of a package: CI installs it.
    """
    if shutil.which("bwrap") is None and os.environ.get("CI"):
        pytest.fail("bubblewrap is not installed: .ci/run should have done it")
    fault = find_fault()
    if fault is not None:
        pytest.skip(fault)
