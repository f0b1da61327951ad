"""Waiting for several things at once: the first one wins."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def race(*runners: Awaitable[_T]) -> _T:
    """Run all of them until the first returns or fails, then cancel the others and wait for their end.

    Returns what the first returned; of several that end at once, the one named first counts. Raises what
    any of those raised.
    """
    tasks = [asyncio.ensure_future(runner) for runner in runners]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    results = [task.result() for task in tasks if task in ended]
    return results[0]
