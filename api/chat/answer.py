"""Translates the events of a response into what each adds to a chat completion.

Pure. Owns which events say something in a chat, and how the texts of several items become one;
`forms.py` owns the bytes. Source: the public OpenAI types, `ChatCompletionChunk`; `reasoning` and
`reasoning_content` are the fields that clients of other servers read.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import msgspec

from api.chat.body import ChatForm
from api.chat.stops import StopSearch
from shared import events as ev
from shared.client_tools import CustomToolCall
from shared.responses import FunctionCall, Logprob, Response

_Told = (
    ev.ResponseCreated
    | ev.ReasoningTextDelta
    | ev.ReasoningDelta
    | ev.OutputTextDelta
    | ev.OutputItemAdded
    | ev.FunctionCallArgumentsDelta
    | ev.CustomToolCallInputDelta
    | ev.ResponseCompleted
    | ev.ResponseIncomplete
    | ev.ResponseFailed
)
_TOLD = frozenset(f"event: {kind.__struct_config__.tag}".encode() for kind in get_args(_Told))
_decode = msgspec.json.Decoder(_Told).decode

_BETWEEN = "\n\n"
"""What separates the texts of two parts."""
_Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one chunk adds. `cursor`: the number of the event that ends with it; None if more of the event
    follows, or is held back."""

    delta: Mapping[str, Any] = field(default_factory=dict)
    logprobs: Sequence[Logprob] = ()
    cursor: int | None = None


class ChatAnswer:
    """Reads the frames of one response in order."""

    def __init__(self, form: ChatForm) -> None:
        self._has_logprobs = form.has_logprobs
        self._search = StopSearch(form.stops)
        self._last: dict[str, _Place] = {}
        """The part that was written last, of the reasoning and of the content."""
        self._tokens: deque[tuple[int, Logprob | None]] = deque()
        """The bytes of each token that is not shown yet, and of text that has no log probability."""
        self._shown_bytes = 0
        """Of these."""
        self._calls: dict[int, int] = {}
        """The place of each call in `tool_calls`, by its `output_index`."""
        self.begun: Response | None = None
        self.ended: Response | None = None

    @property
    def has_stopped(self) -> bool:
        """A stop sequence was written: nothing after it belongs to the answer."""
        return self._search.has_stopped

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    def read(self, frames: bytes) -> list[Chunk]:
        """Returns what whole frames add, until the answer is over."""
        chunks: list[Chunk] = []
        for frame in frames.split(b"\n\n"):
            if self.ended is not None or self.has_stopped:
                break
            name, _, rest = frame.partition(b"\n")
            if name not in _TOLD:
                continue
            number, _, data = rest.partition(b"\n")
            told = list(self._tell(_decode(data.removeprefix(b"data: "))))
            if told and not (self._search.is_holding or self.has_stopped):
                told[-1] = replace(told[-1], cursor=int(number.removeprefix(b"id: ")))
            chunks += told
        return chunks

    def _tell(self, event: _Told) -> Iterator[Chunk]:
        match event:
            case ev.ResponseCreated(response):
                self.begun = response
                yield Chunk({"role": "assistant", "content": ""})
            case ev.ReasoningTextDelta(output_index, content_index, _, delta):
                text = self._separate("reasoning", (output_index, content_index), delta) + delta
                if text:
                    yield Chunk({"reasoning": text, "reasoning_content": text})
            case ev.OutputTextDelta(output_index, content_index, _, delta, logprobs):
                yield from self._say((output_index, content_index), delta, logprobs)
            case ev.OutputItemAdded(output_index, FunctionCall() | CustomToolCall() as call):
                yield Chunk({"tool_calls": [self._begin_call(output_index, call)]})
            case ev.FunctionCallArgumentsDelta(output_index, _, delta):
                yield self._go_on(output_index, {"function": {"arguments": delta}})
            case ev.CustomToolCallInputDelta(output_index, _, delta):
                yield self._go_on(output_index, {"custom": {"input": delta}})
            case ev.OutputItemAdded():
                pass  # its text comes in deltas, and other kinds of items do not occur in a chat
            case ev.ResponseCompleted(response) | ev.ResponseIncomplete(response):
                yield from self._show(self._search.take_rest())
                self.ended = response
            case ev.ResponseFailed(response):
                self.ended = response

    def _separate(self, kind: str, place: _Place, text: str) -> str:
        """Returns what comes between the text so far and this text, if that is the first of its part."""
        if not text:
            return ""
        before, self._last[kind] = self._last.get(kind, place), place
        return "" if before == place else _BETWEEN

    def _say(self, place: _Place, text: str, logprobs: Sequence[Logprob]) -> Iterator[Chunk]:
        between = self._separate("content", place, text)
        if self._has_logprobs:
            told = [(len(each.bytes), each) for each in logprobs]
            rest = len(text.encode()) - sum(size for size, _ in told)
            self._tokens += [(len(between), None), *told, (rest, None)]
        yield from self._show(self._search.take(between + text))

    def _show(self, text: str) -> Iterator[Chunk]:
        """Yields a text that is shown, with the tokens that are shown with it."""
        logprobs = self._take_tokens(text) if self._has_logprobs else []
        if text or logprobs:
            yield Chunk({"content": text}, logprobs)

    def _take_tokens(self, text: str) -> list[Logprob]:
        """Returns the tokens that are whole now, and at the end one that is cut."""
        self._shown_bytes += len(text.encode())
        taken: list[Logprob] = []
        while self._tokens and (self._tokens[0][0] <= self._shown_bytes or self._is_cut()):
            size, logprob = self._tokens.popleft()
            self._shown_bytes -= size
            if logprob is not None:
                taken.append(logprob)
        return taken

    def _is_cut(self) -> bool:
        return self.has_stopped and self._shown_bytes > 0

    def _begin_call(self, output_index: int, call: FunctionCall | CustomToolCall) -> dict[str, Any]:
        index = self._calls[output_index] = len(self._calls)
        head = {"index": index, "id": call.call_id}
        if isinstance(call, FunctionCall):
            return {**head, "type": "function", "function": {"name": call.name, "arguments": ""}}
        return {**head, "type": "custom", "custom": {"name": call.name, "input": ""}}

    def _go_on(self, output_index: int, more: Mapping[str, Any]) -> Chunk:
        return Chunk({"tool_calls": [{"index": self._calls[output_index], **more}]})
