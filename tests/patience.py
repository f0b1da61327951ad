"""How long a test waits for what a sound system does in a moment: a bound for what hangs, never for speed.

A loaded machine takes many times as long as an idle one; no verdict may depend on that.
"""

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 100.0
_LOOK_AGAIN_S = 0.005


async def until(is_so: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(_LOOK_AGAIN_S)


def wait_until(is_so: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """`until` for who has no event loop. Raises AssertionError."""
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(_LOOK_AGAIN_S)
