"""How long tests wait for what a sound system does at once: a bound for what hangs, never for speed.

A loaded machine takes many times as long as an idle one; no verdict may depend on that.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

PATIENCE_S = 100.0
_POLL_INTERVAL_S = 0.005


async def until(is_so: Callable[[], object | Awaitable[object]], within_s: float = PATIENCE_S) -> None:
    """Polls until `is_so`, or what it returns when awaited, is true. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            answer = is_so()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(_POLL_INTERVAL_S)


async def outlast(seconds: float) -> None:
    """Waits that long, for what must not happen meanwhile. `seconds`: a bound of the system's own, such as
    a lease; how fast the machine is makes no difference to it."""
    clock = asyncio.get_running_loop().time
    ends_s = clock() + seconds
    await until(lambda: clock() >= ends_s, seconds + PATIENCE_S)


def wait_until(is_so: Callable[[], object], what: str = "", within_s: float = PATIENCE_S) -> None:
    """Waits like `until`, without an event loop. Raises AssertionError, which names `what` was awaited."""
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what or is_so}"
        time.sleep(_POLL_INTERVAL_S)
