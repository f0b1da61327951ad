"""What the engines of the measurements share: no limits, nothing to load, and no death of their own."""

import asyncio
import sys
from collections.abc import Sequence

from worker.engines.protocol import EngineFigures


class UnlimitedEngine:
    """All of an engine (`worker/engines/protocol.py`) but `generate`; generations end when their tasks are
    cancelled."""

    context_tokens_max = 2**31 - 1
    names: Sequence[str] = ()
    adapters: Sequence[str] = ()

    def sequences_max(self) -> int:
        return sys.maxsize

    async def start(self) -> None:
        """Nothing is loaded."""

    def figures(self) -> EngineFigures:
        return EngineFigures()

    async def wait_until_dead(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        """Nothing is held."""
