"""Reads a turn: turns the model's tokens into segments, and segments into events for the log.

Owns a response's output so far (items, messages, counts) and what a turn waits for (`Awaited`). Drives
nothing: `generation.py` feeds it tokens, `attempt.py` decides what comes next.
"""

import sys
from bisect import bisect
from collections.abc import Iterable
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
from worker.harmony.signatures import FUNCTIONS
from worker.harmony.tokens import CONTROL_TOKENS, ChatMessage
from worker.response.logprobs import describe_token
from worker.response.running_call import RunningCall
from worker.response.segments import CallApproved, Segment, TextWithLogprobs, ToolReturned
from worker.response.translator import (
    OpenClientCall,
    OpenItem,
    OpenMcpCall,
    OpenMessage,
    OpenReasoning,
    OpenSpentCall,
    OpenText,
    Translation,
    open_text,
    step,
)
from worker.response.usage import Turn

# --- what a turn waits for ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallTool:
    """The model has called a tool that runs here; the call's item stays open until the result."""

    call: RunningCall


@dataclass(frozen=True, slots=True)
class ReportSpent:
    """The model has made a call beyond the limit: there is no item, and the model is to read a refusal."""

    target: McpTarget


@dataclass(frozen=True, slots=True)
class ReportUnknown:
    """The model has made a call that reaches no tool, and is to read that.

    This does not end the turn: if the model goes on with something else than calls, it needs no answer.
    """

    recipient: str
    """The recipient of the call; "" if it had none."""


@dataclass(frozen=True, slots=True)
class ReportUnreadable:
    """The model has called a tool of the client's with arguments of which no call could be made, and is to
    read that. Like ReportUnknown, this does not end the turn."""

    target: ClientTarget
    complaint: str


Report = ReportSpent | ReportUnknown | ReportUnreadable


@dataclass(frozen=True, slots=True)
class Awaited:
    """One answer that the model waits for. `channel`: of its call, as the model wrote it; `written`: its
    text."""

    answer: CallTool | Report
    channel: str | None
    written: str = ""
    place: int = 0
    """The output_index of its item or, if it has none (`has_item`), of the item that comes next."""
    has_item: bool = True

    @property
    def recipient(self) -> str:
        """The recipient of the call, in whose name it is answered."""
        match self.answer:
            case CallTool(call):
                return call.target.recipient
            case ReportUnknown(recipient):
                return recipient or FUNCTIONS
            case ReportSpent(target) | ReportUnreadable(target):
                return target.recipient


@dataclass(slots=True)
class TurnReader:
    """Reads the turns of one response.

    `translation` and `items` reflect exactly the events returned so far.
    """

    translation: Translation
    parallel_calls: bool = True
    """A turn may have several calls; otherwise, it is over with its first one."""
    items: list[Item] = field(default_factory=list)
    """Those that have ended, in the order in which they began."""
    turns: list[Turn] = field(default_factory=list)
    messages: list[ChatMessage] = field(default_factory=list)
    """Every message of the model and the tools, once."""
    awaited: list[Awaited] = field(default_factory=list)
    """What the model waits for if the turn ends here, in the order of its calls; empty if it waits for
    nothing, or for the client alone."""
    is_turn_over: bool = False
    """No more of this turn is read, even if the model would continue."""
    tokens_said: int = 0
    """The number of the turn's tokens up to the end of its last message."""
    _waits: bool = False
    """The turn has a call whose result, refusal or approval the model cannot know before its end."""
    _places: list[int] = field(default_factory=list)
    """The output_index of each of the items."""
    _parser: SegmentParser = field(default_factory=SegmentParser)
    _opened: MessageOpened | None = None
    _text: list[str] = field(default_factory=list)
    _open_text: OpenText | None = None
    """As `open_text` returns it, while a message is open."""
    _logprobs: list[tuple[int, TokenLogprob]] = field(default_factory=list)
    """Tokens that have not yet made a segment, if they have logprobs."""

    def __post_init__(self) -> None:
        self._places = list(range(len(self.items)))

    @property
    def awaits_client(self) -> bool:
        """True if the client has a call of this response to run or to approve, so that only its next request
        goes on."""
        return any(isinstance(item, ClientCall | FunctionCall | McpApprovalRequest) for item in self.items)

    @property
    def has_called(self) -> bool:
        """True if this response contains a call or a request to approve one."""
        return any(isinstance(item, CallItem | McpApprovalRequest) for item in self.items)

    def begin_turn(self, turn: Turn, *, calls_left: int = sys.maxsize) -> None:
        """Begins a turn. `calls_left`: how many calls may still be made; one beyond them leaves no item."""
        self.turns.append(turn)
        self.awaited, self.is_turn_over, self._waits, self.tokens_said = [], False, False, 0
        self.translation = replace(self.translation, calls_left=calls_left)
        self._parser.begin_turn()

    def read(self, token: int, logprob: TokenLogprob | None = None) -> list[StreamEvent]:
        """Reads one token of the model; returns the events that it completes."""
        turn = self.turns[-1]
        turn.output += 1
        if logprob is not None:
            self._logprobs.append((token, logprob))
        was_reasoning = turn.is_reasoning
        events = self._take_all(self._parser.feed(token))
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
        return self._take_all(self._parser.end())

    def advance(self, segment: CallApproved | ToolReturned) -> list[StreamEvent]:
        """Takes a segment that does not come from the model; returns its events."""
        return self._step(segment)

    def _take_all(self, segments: Iterable[HarmonySegment]) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for segment in segments:
            if not self.is_turn_over:
                events += self._take(segment)
        return events

    def take_item(self, item: Compaction) -> None:
        """Takes an item that comes from none of these turns, and whose events are in the log."""
        self._places.append(self.translation.output_index)
        self.items.append(item)
        self.translation = replace(self.translation, output_index=self.translation.output_index + 1)

    def _take(self, segment: HarmonySegment) -> list[StreamEvent]:
        match segment:
            case TextContinued(text):
                self._text.append(text)
                return self._step(self._with_logprobs(segment))
            case MessageOpened() if self._anticipates(segment):
                self.is_turn_over = True
                return []
            case MessageOpened():
                self._opened, self._text = segment, []
                if not (self._goes_on and (segment.is_call or self._waits)):
                    self.awaited = []
                self.turns[-1].is_reasoning = segment.channel == "analysis"
                events = self._step(self._with_logprobs(segment))
                self._open_text = open_text(self.translation)
                return events
            case MessageClosed() | MessageCut():
                item, opened, place = self.translation.open_item, self._opened, self.translation.output_index
                self.turns[-1].is_reasoning, self._open_text = False, None
                events = self._step(self._with_logprobs(segment))
                if opened is not None:
                    self._end_message(opened)
                    self._note_call(opened, item, segment, place)
                return events

    @property
    def _goes_on(self) -> bool:
        """True if a turn is read to its end, whatever it calls. In a record of an earlier format, it is over
        with the first call that runs here or needs an approval."""
        return self.parallel_calls and self.translation.style.record_format > 4

    def _anticipates(self, opened: MessageOpened) -> bool:
        """Returns True for a message that says what the model cannot know, as its calls have not run yet: an
        answer, or the words of a tool or of the user."""
        if opened.is_call or not self._waits:
            return False
        return opened.is_invented or opened.channel not in ("analysis", "commentary")

    def _step(self, segment: Segment) -> list[StreamEvent]:
        self.translation, events = step(self.translation, segment)
        for event in events:
            if isinstance(event, ev.OutputItemDone):
                place = bisect(self._places, event.output_index)
                self._places.insert(place, event.output_index)
                self.items.insert(place, event.item)
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
        self.tokens_said = self.turns[-1].output
        text = "".join(self._text)
        self.messages.append(
            ChatMessage("assistant", text, opened.channel, opened.recipient, opened.content_type)
        )

    def _note_call(
        self, opened: MessageOpened, item: OpenItem | None, end: MessageClosed | MessageCut, place: int
    ) -> None:
        """Notes what the model waits for after a message, if it was a call. `item`: the item that the message
        had open; `place`: the output_index then."""
        answer = self._answer_to(opened, item, end)
        if answer is not None:
            written, has_item = self.messages[-1].text, self.translation.output_index > place
            self.awaited.append(Awaited(answer, opened.channel, written, place, has_item))
        match item, end:
            case OpenClientCall(form=form), _ if form.complaint is None:
                self.is_turn_over = not self.parallel_calls
            case ((OpenMcpCall() | OpenSpentCall()), MessageClosed()):
                self._waits, self.is_turn_over = True, not self._goes_on
            case _:
                pass

    def _answer_to(
        self, opened: MessageOpened, item: OpenItem | None, end: MessageClosed | MessageCut
    ) -> CallTool | Report | None:
        """Returns the answer to a message; None if it needs none, or one of the client."""
        match item, end:
            case OpenMcpCall(target), MessageClosed() if not target.needs_approval:
                return CallTool(self.translation.running[-1])
            case OpenClientCall(target, form), MessageClosed() if form.complaint is not None:
                return ReportUnreadable(target, form.complaint)
            case OpenSpentCall(target), MessageClosed():
                return ReportSpent(target)
            case OpenReasoning(unknown_recipient=str(recipient)), MessageClosed():
                return ReportUnknown(recipient)
            case OpenReasoning() | OpenMessage(), MessageClosed(is_call=True) if opened.channel != "final":
                return ReportUnknown("")  # a final message is an answer, however it ends
            case _:
                return None
