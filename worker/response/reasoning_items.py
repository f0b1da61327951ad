"""The events that begin and end a reasoning item. Pure.

Owns what its item and its events say; `summary.py` owns the summary, the translator what comes in between.
"""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import UNSET

from shared import events as ev
from shared.events import StreamEvent
from shared.responses import ItemStatus, Reasoning, ReasoningText
from worker.response.summary import Summary, SummaryStyle


@dataclass(frozen=True, slots=True)
class ReasoningStyle:
    """What a response's reasoning items have besides their text."""

    summary: SummaryStyle | None = None
    seal: Callable[[int, str], str] | None = None
    """Seals the text of an item, given its output_index; None if no sealed text is wanted."""

    def begin_summary(self, index: int, id_: str) -> Summary | None:
        """Returns the summary of an item that begins, or None if it has none."""
        return None if self.summary is None else Summary(self.summary, index, id_)


TEXT_ALONE = ReasoningStyle()


def begin_reasoning(index: int, id_: str) -> list[StreamEvent]:
    return [
        ev.OutputItemAdded(index, Reasoning(id_, "in_progress")),
        ev.ContentPartAdded(index, 0, id_, ReasoningText("")),
    ]


def end_reasoning(
    place: tuple[int, str],
    pieces: list[str],
    status: ItemStatus,
    summary: Summary | None,
    style: ReasoningStyle,
) -> list[StreamEvent]:
    """Ends an item whose text is `pieces`, and its summary, if it has one. `place`: its index and id."""
    index, id_ = place
    part = ReasoningText("".join(pieces))
    summarised = summary.end(pieces) if summary is not None else []
    parts = summary.parts if summary is not None else ()
    sealed = style.seal(index, part.text) if style.seal is not None else UNSET
    return [
        ev.ReasoningTextDone(index, 0, id_, part.text),
        ev.ContentPartDone(index, 0, id_, part),
        *summarised,
        ev.OutputItemDone(index, Reasoning(id_, status, parts, (part,), sealed)),
    ]
