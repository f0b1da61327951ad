"""The events that begin, continue and end a reasoning item. Pure.

Owns what its item and its events say, and what each dialect calls them; `summary.py` owns the summary, the
translator what comes in between.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import UNSET

from shared import events as ev
from shared.events import StreamEvent
from shared.responses import Dialect, ItemStatus, Reasoning, ReasoningText
from worker.response.summary import Summary, SummaryStyle


class ReasoningEvents(NamedTuple):
    """The events of reasoning's text in one dialect."""

    part_added: type[ev.ContentPartAdded]
    delta: type[ev.ReasoningTextDelta]
    done: type[ev.ReasoningTextDone]
    part_done: type[ev.ContentPartDone]


EVENTS: Mapping[Dialect, ReasoningEvents] = {
    "openai": ReasoningEvents(
        ev.ContentPartAdded, ev.ReasoningTextDelta, ev.ReasoningTextDone, ev.ContentPartDone
    ),
    "vllm": ReasoningEvents(
        ev.ReasoningPartAdded, ev.ReasoningTextDelta, ev.ReasoningTextDone, ev.ReasoningPartDone
    ),
    "open-responses": ReasoningEvents(
        ev.ContentPartAdded, ev.ReasoningDelta, ev.ReasoningDone, ev.ContentPartDone
    ),
}


@dataclass(frozen=True, slots=True)
class ReasoningStyle:
    """What a response's reasoning items have besides their text, and what their events are called."""

    summary: SummaryStyle | None = None
    seal: Callable[[int, str], str] | None = None
    """Seals the text of an item, given its output_index; None if no sealed text is wanted."""
    events: ReasoningEvents = EVENTS["openai"]

    def begin_summary(self, index: int, id_: str) -> Summary | None:
        """Returns the summary of an item that begins, or None if it has none."""
        return None if self.summary is None else Summary(self.summary, index, id_)


TEXT_ALONE = ReasoningStyle()


def begin_reasoning(index: int, id_: str, style: ReasoningStyle) -> list[StreamEvent]:
    return [
        ev.OutputItemAdded(index, Reasoning(id_, "in_progress")),
        style.events.part_added(index, 0, id_, ReasoningText("")),
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
        style.events.done(index, 0, id_, part.text),
        style.events.part_done(index, 0, id_, part),
        *summarised,
        ev.OutputItemDone(index, Reasoning(id_, status, parts, (part,), sealed)),
    ]
