"""Makes the calls of one turn together, as far as they do not depend on each other.

Owns how many are under way, and that none is left when the attempt ends; `running_call.py` decides which one
waits for which, `attempt.py` when a call is made and what becomes of its result.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from shared.tool_calls import ToolFailure, ToolOutput
from worker.response.running_call import RunningCall, waits_for

_CALLS_AT_ONCE = 16
"""Calls of one response that are under way at a time."""

Result = ToolOutput | ToolFailure
Make = Callable[[RunningCall], Awaitable[Result]]


@asynccontextmanager
async def under_way(
    calls: Sequence[RunningCall], make: Make
) -> AsyncIterator[dict[int, asyncio.Task[Result]]]:
    """Begins the calls; yields the result of each, by its index. At the end, those left are cancelled."""
    places = asyncio.Semaphore(_CALLS_AT_ONCE)
    tasks: list[asyncio.Task[Result]] = []

    async def make_in_turn(call: RunningCall, earlier: list[asyncio.Task[Result]]) -> Result:
        for task in earlier:
            await asyncio.shield(task)
        async with places:
            return await make(call)

    try:
        for place, call in enumerate(calls):
            earlier = [tasks[each] for each in waits_for(calls, place)]
            tasks.append(asyncio.create_task(make_in_turn(call, earlier)))
        yield {call.index: task for call, task in zip(calls, tasks, strict=True)}
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
