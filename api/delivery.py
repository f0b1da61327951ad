"""Counts calls that follow a response, by how it had ended and whether the client got the end.

Owns these words; `read.py` owns the following. An outcome is that of the response when the call ended, `open`
if it had none yet; a client that has left may come back, and is then counted again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from shared import metrics
from shared.frames import status_at_end

Fate = Literal["delivered", "disconnected", "cut"]
"""`disconnected`: the client left before the end; `cut`: this node could not go on."""


@dataclass(slots=True)
class FramesGiven:
    """What a client was given."""

    latest: bytes = b""
    """The last frames."""
    is_whole: bool = False
    """It took everything, to the end of the log."""


@contextmanager
def delivery() -> Iterator[FramesGiven]:
    """Counts one call when it ends, however it does."""
    told = FramesGiven()
    fate: Fate = "disconnected"
    try:
        yield told
    except (GeneratorExit, asyncio.CancelledError):
        raise
    except BaseException:
        fate = "cut"
        raise
    finally:
        if told.is_whole:
            fate = "delivered"
        outcome = status_at_end(told.latest) if told.latest else None
        metrics.DELIVERIES.labels(outcome or "open", fate).inc()
