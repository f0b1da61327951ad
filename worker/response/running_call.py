"""A call that is written and waits for its result, and which calls of one turn may run at a time. Pure.

Owns the order in which a turn's calls may be made; `calls_together.py` makes them, `translator.py` owns their
events.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from shared.responses import ServerCall
from worker.asking.arguments import read_arguments
from worker.asking.routing import McpTarget


@dataclass(frozen=True, slots=True)
class RunningCall:
    """`index`: its output_index; `written`: what the model wrote, which is what runs; the item need not keep
    it."""

    index: int
    item: ServerCall
    target: McpTarget
    written: str
    arguments: str | None
    """What was written, as JSON; None if it is no object, so that the call cannot be made."""

    @classmethod
    def of(cls, index: int, item: ServerCall, target: McpTarget, written: str) -> Self:
        return cls(index, item, target, written, read_arguments(target.server_label, written))


def waits_for(calls: Sequence[RunningCall], place: int) -> list[int]:
    """Returns the places of the earlier calls that must have ended before the call at `place` is made.

    A server has to see its calls in the order in which the model made them, also one without sessions, which
    may keep a file or a table: except among tools that only read, each may depend on what an earlier one has
    changed.
    """
    target = calls[place].target
    return [
        earlier
        for earlier, call in enumerate(calls[:place])
        if call.target.server_label == target.server_label
        and not (call.target.is_read_only and target.is_read_only)
    ]
