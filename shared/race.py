"""Waits for several things at once; the first one wins."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def race(*awaitables: Awaitable[_T]) -> _T:
    """Runs all until the first ends, then cancels the others and waits for them.

    Returns the result of the first to end; if several end at once, that of the first argument among them.
    Raises if any of those failed.
    """
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    results = [task.result() for task in tasks if task in ended]
    return results[0]
