"""Reads a turn: the model's tokens become segments, segments become events for the log.

Owns what one response has said so far (items, messages, counts); drives nothing and waits for
nothing. `attempt` feeds it and decides what comes next.
"""

from dataclasses import dataclass, field

from shared import events as ev
from shared.events import StreamEvent
from shared.responses import FunctionCall, Item, McpApprovalRequest
from worker.harmony import (
    ChatMessage,
    MessageClosed,
    MessageCut,
    MessageOpened,
    SegmentParser,
    TextDelta,
)
from worker.harmony import Segment as HarmonySegment
from worker.translator import RunningMcpCall, Segment, Translation, step
from worker.usage import Turn


@dataclass(slots=True)
class Reader:
    """`translation` and `items` are always those of the events handed out so far."""

    translation: Translation
    parallel_calls: bool = True
    items: list[Item] = field(default_factory=list)
    messages: list[ChatMessage] = field(default_factory=list)
    """What the model and the tools said, each message once."""
    turns: list[Turn] = field(default_factory=list)
    unknown_recipient: str | None = None
    """Recipient of a call that nobody is known for: the model is to be told."""
    _parser: SegmentParser = field(default_factory=SegmentParser)
    _opened: MessageOpened | None = None
    _text: list[str] = field(default_factory=list)

    @property
    def is_waiting(self) -> bool:
        """The turn is over, whatever else the model would say: a call or a question stands."""
        if isinstance(self.translation.open_item, RunningMcpCall):
            return True
        if self.translation.open_item is not None or not self.items:
            return False
        last = self.items[-1]
        return isinstance(last, McpApprovalRequest) or (
            isinstance(last, FunctionCall) and not self.parallel_calls
        )

    def begin_turn(self, turn: Turn) -> None:
        self.turns.append(turn)
        self.unknown_recipient = None
        self._parser.begin_turn()

    def read(self, token: int) -> list[StreamEvent]:
        """One token of the model further."""
        turn = self.turns[-1]
        turn.output += 1
        was_reasoning = self._is_reasoning
        events: list[StreamEvent] = []
        for segment in self._parser.feed(token):
            self._record(segment)
            events += self.advance(segment)
        turn.reasoning += was_reasoning
        return events

    def end(self) -> list[StreamEvent]:
        """The model says no more: what it left open is closed as it stands."""
        events: list[StreamEvent] = []
        for segment in self._parser.end():
            self._record(segment)
            events += self.advance(segment)
        return events

    def advance(self, segment: Segment) -> list[StreamEvent]:
        """Also for segments that do not come from the model: listings, approvals, tool results."""
        self.translation, events = step(self.translation, segment)
        self.items += [event.item for event in events if isinstance(event, ev.OutputItemDone)]
        return events

    @property
    def _is_reasoning(self) -> bool:
        return self._opened is not None and self._opened.channel == "analysis"

    def _record(self, segment: HarmonySegment) -> None:
        match segment:
            case MessageOpened():
                self._opened, self._text = segment, []
                self.unknown_recipient = None
            case TextDelta(text):
                self._text.append(text)
            case MessageClosed() | MessageCut():
                self._record_message(isinstance(segment, MessageClosed) and segment.is_call)

    def _record_message(self, is_call: bool) -> None:
        opened, self._opened = self._opened, None
        if opened is None:
            return
        text = "".join(self._text)
        self.messages.append(
            ChatMessage("assistant", text, opened.channel, opened.recipient, opened.content_type)
        )
        if is_call and opened.recipient and opened.recipient not in self.translation.routing:
            self.unknown_recipient = opened.recipient
