"""Reads the turn in which the model summarises a conversation: keeps its text, and shows none of it.

Owns when that turn is over and what its summary is; `compacting.py` owns what is made of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from shared.events import CompactionCompacting, StreamEvent
from worker.engines.protocol import TokenLogprob
from worker.harmony.headers import TEXT_RECIPIENTS
from worker.harmony.parser import HarmonySegment, MessageOpened, SegmentParser, TextContinued
from worker.harmony.tokens import ChatMessage, decode, encode
from worker.response.usage import Turn

_TOKENS_BETWEEN_REPORTS = 32
_BETWEEN = "\n\n"
_EXCERPT_CHARS = 200
_TOKEN_CHARS = 3
"""About how many characters of an excerpt are a token."""


@dataclass(slots=True)
class SummaryReader:
    """Reads the tokens of a turn (`generation.TokenReader`), or of several, one after the other.

    `place`: the output_index and the id of the compaction's item; `tokens_max`: those of the summary, after
    which the turn is over.
    """

    place: tuple[int, str]
    turns: list[Turn]
    tokens_max: int
    reports: bool = True
    """Events say that the summary grows, and hold its tokens for the next owner; otherwise that one asks
    again."""
    has_called: ClassVar[bool] = False
    _parser: SegmentParser = field(default_factory=SegmentParser)
    _open: list[str] | None = None
    """Where the open message's text goes; None if it is of no use."""
    _said: list[str] = field(default_factory=list)
    _thought: list[str] = field(default_factory=list)
    _tokens: int = 0
    """The number of tokens after the header of the first message that is no thought."""

    @property
    def is_turn_over(self) -> bool:
        return self._tokens >= self.tokens_max

    def begin(self, prompt_tokens: int) -> None:
        """Begins a turn, of which alone the summary is then made."""
        self.turns.append(Turn(prompt_tokens, is_compaction=True))
        self._parser, self._open, self._tokens = SegmentParser(), None, 0
        self._said, self._thought = [], []

    @property
    def text(self) -> str:
        """What the model said; if it said nothing, what it thought."""
        return "".join(self._said).strip() or "".join(self._thought).strip()

    def read(self, token: int, logprob: TokenLogprob | None = None) -> list[StreamEvent]:
        turn = self.turns[-1]
        turn.output += 1
        turn.reasoning += turn.is_reasoning
        self._tokens += bool(self._said)
        for segment in self._parser.feed(token):
            self._take(segment)
        is_due = self.reports and turn.output % _TOKENS_BETWEEN_REPORTS == 0
        return [CompactionCompacting(*self.place)] if is_due else []

    def read_text(self, token: int, number: int) -> bytes | None:
        """Returns None: no token is shown."""
        return None

    def end(self) -> list[StreamEvent]:
        for segment in self._parser.end():
            self._take(segment)
        return []

    def _take(self, segment: HarmonySegment) -> None:
        match segment:
            case MessageOpened(channel, recipient):
                self.turns[-1].is_reasoning = channel == "analysis"
                is_text = recipient is None or recipient in TEXT_RECIPIENTS
                self._open = (self._thought if channel == "analysis" else self._said) if is_text else None
                if self._open is not None:
                    self._open.append(_BETWEEN)
            case TextContinued(text):
                if self._open is not None:
                    self._open.append(text)
            case _:
                self.turns[-1].is_reasoning, self._open = False, None


def cut_text(text: str, tokens_max: int) -> str:
    """Returns the text, or as much of its beginning as has so many tokens."""
    tokens = encode(text)
    return (
        text if len(tokens) <= tokens_max else decode(tokens[:tokens_max]).rstrip("\N{REPLACEMENT CHARACTER}")
    )


def excerpt(said: Sequence[ChatMessage], tokens_max: int) -> str:
    """Returns the beginnings of the last messages: the summary of a model that writes none."""
    left, lines = tokens_max * _TOKEN_CHARS, list[str]()
    for message in reversed(said):
        beginning = " ".join(message.text[:_EXCERPT_CHARS].split())
        line = f"{message.name or message.role}: {beginning}"
        if len(line) + 1 > left:
            break
        left -= len(line) + 1
        lines.append(line)
    return "\n".join(reversed(lines))
