"""Reads a turn: the model's tokens become segments, segments become events for the log.

Owns what one response has said so far (items, messages, counts); drives nothing and waits for
nothing. `attempt` feeds it and decides what comes next.
"""

from dataclasses import dataclass, field, replace

from shared import events as ev
from shared.events import StreamEvent
from shared.responses import FunctionCall, Item, McpApprovalRequest, McpCall
from worker.engine import TokenLogprob
from worker.harmony import (
    CONTROL_TOKENS,
    ChatMessage,
    MessageClosed,
    MessageCut,
    MessageOpened,
    SegmentParser,
    TextDelta,
)
from worker.harmony import Segment as HarmonySegment
from worker.headers import TEXT_RECIPIENTS
from worker.logprobs import describe_token
from worker.routing import McpTarget, find_target
from worker.segments import MeasuredText, Segment
from worker.translator import OpenMessage, RunningMcpCall, Translation, step
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
    """Recipient of a call that nobody is known for, "" if it names nobody: the model is to be told."""
    refused: McpTarget | None = None
    """What the model has called once too often: nothing was run, and the model is to be told."""
    _parser: SegmentParser = field(default_factory=SegmentParser)
    _opened: MessageOpened | None = None
    _text: list[str] = field(default_factory=list)
    _measured: list[tuple[int, TokenLogprob]] = field(default_factory=list)
    """Tokens that have made no segment yet, if they come with logprobs."""

    @property
    def is_waiting(self) -> bool:
        """The turn is over, whatever else the model would say: a call or a question stands."""
        if isinstance(self.translation.open_item, RunningMcpCall) or self.refused is not None:
            return True
        if self.translation.open_item is not None or not self.items:
            return False
        last = self.items[-1]
        return isinstance(last, McpApprovalRequest) or (
            isinstance(last, FunctionCall) and not self.parallel_calls
        )

    @property
    def has_called(self) -> bool:
        """A call was made in this response, or the client is asked whether it may be."""
        return any(isinstance(item, FunctionCall | McpCall | McpApprovalRequest) for item in self.items)

    def begin_turn(self, turn: Turn, *, are_calls_spent: bool = False) -> None:
        """`are_calls_spent`: a further call of a tool is not made, and leaves no item."""
        self.turns.append(turn)
        self.unknown_recipient, self.refused = None, None
        self.translation = replace(self.translation, are_calls_spent=are_calls_spent)
        self._parser.begin_turn()

    def read(self, token: int, measured: TokenLogprob | None = None) -> list[StreamEvent]:
        """One token of the model further."""
        turn = self.turns[-1]
        turn.output += 1
        if measured is not None:
            self._measured.append((token, measured))
        was_reasoning = self._is_reasoning
        events: list[StreamEvent] = []
        for segment in self._parser.feed(token):
            self._record(segment)
            events += self.advance(self._measure(segment) if self._measured else segment)
        turn.reasoning += was_reasoning
        return events

    def end(self) -> list[StreamEvent]:
        """The model says no more: what it left open is closed as it stands."""
        events: list[StreamEvent] = []
        for segment in self._parser.end():
            self._record(segment)
            events += self.advance(self._measure(segment) if self._measured else segment)
        return events

    def advance(self, segment: Segment) -> list[StreamEvent]:
        """Also for segments that do not come from the model: listings, approvals, tool results."""
        self.translation, events = step(self.translation, segment)
        self.items += [event.item for event in events if isinstance(event, ev.OutputItemDone)]
        return events

    def _measure(self, segment: HarmonySegment) -> Segment:
        """A message's text gets the logprobs of the tokens that made it; nothing else has some."""
        measured, self._measured = self._measured, []
        if not isinstance(segment, TextDelta) or not isinstance(self.translation.open_item, OpenMessage):
            return segment
        of_text = (describe_token(*each) for each in measured if each[0] not in CONTROL_TOKENS)
        return MeasuredText(segment.text, tuple(of_text))

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
                self._record_message(segment)

    def _record_message(self, end: MessageClosed | MessageCut) -> None:
        opened, self._opened = self._opened, None
        if opened is None:
            return
        text = "".join(self._text)
        self.messages.append(
            ChatMessage("assistant", text, opened.channel, opened.recipient, opened.content_type)
        )
        if isinstance(end, MessageClosed):
            self.unknown_recipient = self._unknown_in(opened, end.is_call)
            self.refused = self._refused_in(opened)

    def _unknown_in(self, opened: MessageOpened, is_call: bool) -> str | None:
        """A final message is an answer, however it ends; any other `<|call|>` waits for one."""
        if opened.recipient is None or opened.recipient in TEXT_RECIPIENTS:
            return "" if is_call and opened.channel != "final" else None
        is_known = find_target(self.translation.routing, opened.recipient) is not None
        return None if is_known else opened.recipient

    def _refused_in(self, opened: MessageOpened) -> McpTarget | None:
        if opened.recipient is None or opened.recipient in TEXT_RECIPIENTS:
            return None
        target = find_target(self.translation.routing, opened.recipient)
        if isinstance(target, McpTarget) and self.translation.refuses(target):
            return target
        return None
