"""How long tests wait for what a sound system does at once: a bound for what hangs, never for speed.

A loaded machine takes many times as long as an idle one; no verdict may depend on that.
"""

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 100.0
_POLL_INTERVAL_S = 0.005


async def until(is_so: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Waits until the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(_POLL_INTERVAL_S)


def wait_until(is_so: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Waits like `until`, without an event loop. Raises AssertionError."""
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(_POLL_INTERVAL_S)
