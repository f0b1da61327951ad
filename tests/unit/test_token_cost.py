"""What a token costs a worker, in counts that do not depend on the machine."""

import gc
from collections import deque
from typing import cast

from shared.store.log.appender import Appender
from tests.memory import MemoryLog, lease_of
from tests.requests import make_request
from worker.harmony.tokens import CHANNEL, MESSAGE, encode
from worker.response.history import History
from worker.response.log_writer import LogWriter
from worker.response.translator import Translation
from worker.response.turn_reader import TurnReader
from worker.response.usage import Turn

REQUEST = make_request()


async def test_the_garbage_collector_has_nothing_to_walk_in_the_text_of_an_open_item() -> None:
    log = MemoryLog()
    writer = LogWriter(cast("Appender", log), lease_of(REQUEST), History(deque(), deque()))
    reader = TurnReader(Translation(REQUEST.response.id, {}))
    reader.begin_turn(Turn(0))

    async def read(tokens: list[int]) -> None:
        for token in tokens:
            await writer.put(reader.read(token), (token,))
        await writer.flush()

    await read([CHANNEL, *encode("final"), MESSAGE, *encode("The")])
    tracked = count_tracked()
    await read(encode(" whole") * 1000)
    assert len(log.entries) > 1000
    assert count_tracked() - tracked < 50


def count_tracked() -> int:
    """Returns how many objects a full collection has to walk."""
    gc.collect()
    return len(gc.get_objects())
