"""How a step of vLLM's engine reaches the feeds of its requests: at once, and never before earlier tokens."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("default")  # what vLLM and torch deprecate is theirs


class Steps:
    """The queue under test, with a note of what was given to feeds and what vLLM had to sort."""

    def __init__(self) -> None:
        from worker.engines.vllm.outputs import _Steps

        self.given: list[str] = []
        self.may_sort = asyncio.Event()
        self.queue = _Steps(self._take)

    def _take(self, step: Any, *, is_direct: bool) -> bool:
        if is_direct and step.is_plain:
            self.given.append(step.name)
            return False
        return True

    async def sort(self) -> None:
        """Stands for vLLM's task, which may pause within a step."""
        while True:
            step: Any = await self.queue.get()
            await self.may_sort.wait()
            self.given.append(step.name)

    def put(self, name: str, *, is_plain: bool = True) -> None:
        self.queue.put_nowait(SimpleNamespace(name=name, is_plain=is_plain))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_plain_step_passes_nothing_that_vllm_has_still_to_sort() -> None:
    steps = Steps()
    steps.put("before anybody reads")
    sorting = asyncio.create_task(steps.sort())
    await turns()
    steps.put("while that is sorted")
    steps.may_sort.set()
    await turns()
    steps.put("plain")
    steps.put("first of a request", is_plain=False)
    steps.put("plain, but behind it")
    assert steps.given == ["before anybody reads", "while that is sorted", "plain"]
    await turns()
    assert steps.given[3:] == ["first of a request", "plain, but behind it"]
    steps.put("plain again")
    assert steps.given[-1] == "plain again"
    sorting.cancel()
    await asyncio.gather(sorting, return_exceptions=True)


async def test_an_error_of_the_engine_reaches_vllm() -> None:
    steps = Steps()
    error = RuntimeError("dead")
    getting = asyncio.create_task(steps.queue.get())
    await turns()
    steps.queue.put_nowait(error)
    assert await getting is error
