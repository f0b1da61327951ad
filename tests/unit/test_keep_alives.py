"""When keep-alives of a node's streams are sent, and how many at once; in virtual time."""

import asyncio
from contextlib import ExitStack
from typing import cast

import pytest

from api import sse
from api.answer import Wire
from api.sse import EventStreams
from shared.settings import Settings
from tests.virtual_time import run_in_virtual_time

STREAMS, EVERY_S = 1_000, 20.0
LINE = b": keep-alive\n"


class Notebook:
    """Notes when each stream got something, and how many got something before anybody else had a turn."""

    def __init__(self) -> None:
        self.came_s: dict[object, list[float]] = {}
        self.at_once: list[int] = []
        self._is_begun = False

    def note(self, wire: object) -> None:
        loop = asyncio.get_running_loop()
        self.came_s.setdefault(wire, []).append(loop.time())
        if not self._is_begun:
            self._is_begun = True
            self.at_once.append(0)
            loop.call_soon(self._end)
        self.at_once[-1] += 1

    def _end(self) -> None:
        self._is_begun = False


class FreeWire:
    """A client that reads."""

    is_free = True

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook

    def write(self, body: bytes) -> None:
        assert body == LINE
        self._notebook.note(self)


@pytest.mark.parametrize("streams", [1, STREAMS])
def test_keep_alives_come_at_their_interval_and_those_of_many_streams_in_slices(streams: int) -> None:
    async def run() -> Notebook:
        notebook, node = Notebook(), EventStreams(Settings(keep_alive_s=EVERY_S))
        with ExitStack() as kept:
            for _ in range(streams):
                kept.enter_context(node.kept_alive(cast(Wire, FreeWire(notebook)), LINE))
            running = asyncio.create_task(node.run())
            await asyncio.sleep(3.5 * EVERY_S)
            running.cancel()
        return notebook

    notebook = run_in_virtual_time(run)
    assert len(notebook.came_s) == streams
    late_s = EVERY_S / sse._TICKS
    for came_s in notebook.came_s.values():
        assert len(came_s) == 3
        for number, at_s in enumerate(came_s, 1):
            assert number * EVERY_S <= at_s <= number * (EVERY_S + 1.1 * late_s)
    assert max(notebook.at_once) == min(streams, sse._SENT_MAX)
