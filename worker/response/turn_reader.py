"""Reads a turn: turns the model's tokens into segments, and segments into events for the log.

Owns a response's output so far (items, messages, counts) and what a turn waits for (`Pending`). Drives
nothing: `generation.py` feeds it tokens, `attempt.py` decides what comes next.
"""

from dataclasses import dataclass, field, replace

from shared import events as ev
from shared.client_tools import ClientCall
from shared.events import StreamEvent
from shared.hosted_tools import CallItem
from shared.responses import Compaction, FunctionCall, Item, McpApprovalRequest
from worker.asking.routing import ClientTarget, McpTarget
from worker.engines.protocol import TokenLogprob
from worker.harmony.parser import (
    HarmonySegment,
    MessageClosed,
    MessageCut,
    MessageOpened,
    SegmentParser,
    TextContinued,
)
from worker.harmony.tokens import CONTROL_TOKENS, ChatMessage
from worker.response.logprobs import describe_token
from worker.response.segments import CallApproved, Segment, TextWithLogprobs, ToolReturned
from worker.response.translator import (
    OpenClientCall,
    OpenItem,
    OpenMcpCall,
    OpenMessage,
    OpenReasoning,
    OpenSpentCall,
    OpenText,
    RunningCall,
    Translation,
    open_text,
    step,
)
from worker.response.usage import Turn

# --- what a turn waits for ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallTool:
    """The model has called a tool; the call's item stays open until the result."""

    call: RunningCall


@dataclass(frozen=True, slots=True)
class ReportSpent:
    """The model has made a call beyond the limit: there is no item, and the model is to read a refusal."""

    target: McpTarget


@dataclass(frozen=True, slots=True)
class ReportUnknown:
    """The model has made a call that reaches no tool, and is to read that.

    This does not end the turn: if the model continues, what it writes next replaces this.
    """

    recipient: str
    """The recipient of the call; "" if it had none."""


@dataclass(frozen=True, slots=True)
class ReportUnreadable:
    """The model has called a tool of the client's with arguments of which no call could be made, and is to
    read that. Like ReportUnknown, this does not end the turn."""

    target: ClientTarget
    complaint: str


@dataclass(frozen=True, slots=True)
class AskClient:
    """The client must run a function or approve a call, so the response ends."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """The model waits for nothing; if it stops here, the response is complete."""


Pending = CallTool | ReportSpent | ReportUnknown | ReportUnreadable | AskClient | Nothing


@dataclass(slots=True)
class TurnReader:
    """Reads the turns of one response.

    `translation` and `items` reflect exactly the events returned so far.
    """

    translation: Translation
    parallel_calls: bool = True
    items: list[Item] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    messages: list[ChatMessage] = field(default_factory=list)
    """Every message of the model and the tools, once."""
    pending: Pending = Nothing()
    _parser: SegmentParser = field(default_factory=SegmentParser)
    _opened: MessageOpened | None = None
    _text: list[str] = field(default_factory=list)
    _open_text: OpenText | None = None
    """As `open_text` returns it, while a message is open."""
    _logprobs: list[tuple[int, TokenLogprob]] = field(default_factory=list)
    """Tokens that have not yet made a segment, if they have logprobs."""

    @property
    def is_turn_over(self) -> bool:
        """True once no more of this turn is read, even if the model would continue."""
        return isinstance(self.pending, CallTool | ReportSpent | AskClient)

    @property
    def awaits_client(self) -> bool:
        """True if the client has a call of this response to run, so that only its next request goes on."""
        return any(isinstance(item, ClientCall | FunctionCall) for item in self.items)

    @property
    def has_called(self) -> bool:
        """True if this response contains a call or a request to approve one."""
        return any(isinstance(item, CallItem | McpApprovalRequest) for item in self.items)

    def begin_turn(self, turn: Turn, *, are_calls_spent: bool = False) -> None:
        """Begins a turn. `are_calls_spent`: no further call is made; a further one leaves no item."""
        self.turns.append(turn)
        self.pending = Nothing()
        self.translation = replace(self.translation, are_calls_spent=are_calls_spent)
        self._parser.begin_turn()

    def read(self, token: int, logprob: TokenLogprob | None = None) -> list[StreamEvent]:
        """Reads one token of the model; returns the events that it completes."""
        turn = self.turns[-1]
        turn.output += 1
        if logprob is not None:
            self._logprobs.append((token, logprob))
        was_reasoning = turn.is_reasoning
        events: list[StreamEvent] = []
        for segment in self._parser.feed(token):
            events += self._take(segment)
        turn.reasoning += was_reasoning
        return events

    def read_text(self, token: int, number: int) -> bytes | None:
        """Reads a token that does nothing but continue the open item's text, without log probabilities.

        Returns the frame of its one event, under that sequence number, the same bytes that `read` would come
        to. None, and nothing read, for any other token.
        """
        if self._open_text is None or (text := self._parser.read_text(token)) is None:
            return None
        pieces, frames, is_more = self._open_text
        if is_more is not None and is_more(text):
            return None
        turn = self.turns[-1]
        turn.output += 1
        turn.reasoning += turn.is_reasoning
        self._text.append(text)
        pieces.append(text)
        return frames.make(number, text)

    def end(self) -> list[StreamEvent]:
        """Ends the turn; returns the events that close what the model left open."""
        events: list[StreamEvent] = []
        for segment in self._parser.end():
            events += self._take(segment)
        return events

    def advance(self, segment: CallApproved | ToolReturned) -> list[StreamEvent]:
        """Takes a segment that does not come from the model; returns its events."""
        events = self._step(segment)
        running = self.translation.open_item
        self.pending = CallTool(running) if isinstance(running, RunningCall) else Nothing()
        return events

    def take_item(self, item: Compaction) -> None:
        """Takes an item that comes from none of these turns, and whose events are in the log."""
        self.items.append(item)
        self.translation = replace(self.translation, output_index=self.translation.output_index + 1)

    def _take(self, segment: HarmonySegment) -> list[StreamEvent]:
        match segment:
            case TextContinued(text):
                self._text.append(text)
                return self._step(self._with_logprobs(segment))
            case MessageOpened():
                self._opened, self._text, self.pending = segment, [], Nothing()
                self.turns[-1].is_reasoning = segment.channel == "analysis"
                events = self._step(self._with_logprobs(segment))
                self._open_text = open_text(self.translation)
                return events
            case MessageClosed() | MessageCut():
                item, opened = self.translation.open_item, self._opened
                self.turns[-1].is_reasoning, self._open_text = False, None
                events = self._step(self._with_logprobs(segment))
                if opened is not None:
                    self._end_message(opened)
                    self.pending = self._pending_after(opened, item, segment)
                return events

    def _step(self, segment: Segment) -> list[StreamEvent]:
        self.translation, events = step(self.translation, segment)
        self.items += [event.item for event in events if isinstance(event, ev.OutputItemDone)]
        return events

    def _with_logprobs(self, segment: HarmonySegment) -> Segment:
        """Adds the logprobs of its tokens to a segment of a message's text; other segments have none."""
        if not self._logprobs:
            return segment
        made_of, self._logprobs = self._logprobs, []
        if not isinstance(segment, TextContinued) or not isinstance(self.translation.open_item, OpenMessage):
            return segment
        of_text = (describe_token(*each) for each in made_of if each[0] not in CONTROL_TOKENS)
        return TextWithLogprobs(segment.text, tuple(of_text))

    def _end_message(self, opened: MessageOpened) -> None:
        self._opened = None
        text = "".join(self._text)
        self.messages.append(
            ChatMessage("assistant", text, opened.channel, opened.recipient, opened.content_type)
        )

    def _pending_after(
        self, opened: MessageOpened, item: OpenItem | None, end: MessageClosed | MessageCut
    ) -> Pending:
        """Returns what the model waits for after a message. `item`: the item that the message had open."""
        running = self.translation.open_item
        if isinstance(running, RunningCall):
            return CallTool(running)
        match item, end:
            case OpenClientCall(target, form), MessageClosed() if form.complaint is not None:
                return ReportUnreadable(target, form.complaint)
            case OpenClientCall(form=form), MessageCut() if form.complaint is not None:
                return Nothing()
            case OpenClientCall(), _ if not self.parallel_calls:
                return AskClient()
            case OpenMcpCall(), MessageClosed():  # not running, so the client has to approve it
                return AskClient()
            case OpenSpentCall(target), MessageClosed():
                return ReportSpent(target)
            case OpenReasoning(unknown_recipient=str(recipient)), MessageClosed():
                return ReportUnknown(recipient)
            case OpenReasoning() | OpenMessage(), MessageClosed(is_call=True) if opened.channel != "final":
                return ReportUnknown("")  # a final message is an answer, however it ends
            case _:
                return Nothing()
