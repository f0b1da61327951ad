"""Makes the summary of reasoning out of the reasoning itself, while it is written.

Owns the rule (docs/adr/0045-summaries-without-a-model.md) and the events of summary parts; the translator
owns their place among the item's other events. Pure: the same text always gives the same events, and what
they cost grows with the text alone.

Each paragraph of the reasoning becomes a part: all of it if the summary is `detailed`, its first sentence if
it is `concise` or `auto`. Code between fences belongs to one paragraph, blank lines included, and has no
sentences.
"""

import re
from typing import Literal

from shared import events as ev
from shared.events import StreamEvent
from shared.input_items import SummaryText

SummaryStyle = Literal["auto", "concise", "detailed"]

PARTS_MAX = 64
"""The last part takes in all further paragraphs, so that the number of parts has a limit."""
SENTENCE_CHARS_MIN, SENTENCE_CHARS_MAX = 24, 200
"""A first sentence that is shorter (`Hmm.`, `1.`) goes on with the next one; one that is longer is cut."""
_UNREAD_CHARS_MAX = 1_000
"""If no sentence ends within this, the text so far counts as one, so that little text is held back."""

# One of a row of stops at a time, and few closing marks: no search looks at a place again and again.
_STOP = r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)[.!?…][\"'\u2019\u201d)\]*_`]{0,8}"
_END = re.compile(rf"{_STOP}(?=\s)|[\u3002\uff01\uff1f]|(?=\n)")
"""The end of a sentence: white space follows, or it is the end of a line."""
_UNDECIDED = re.compile(rf"{_STOP}\Z")
"""What is an end if white space follows."""
_START = re.compile(r"\S")
_BLANK_LINES = re.compile(r"[^\S\n]*\n[^\S\n]*\n\s*")
_FENCE = "```"
_CUT = "…"

_MAY_END = re.compile(r"[.!?…\u3002\uff01\uff1f\n]")


class Summary:
    """The summary of one reasoning item, as far as its text has been read."""

    __slots__ = (
        *("_at", "_is_code", "_is_detailed", "_is_in_paragraph", "_is_open", "_is_undecided", "_item_id"),
        *("_pieces_read", "_searched", "_told", "_told_chars", "_unread", "parts"),
    )

    def __init__(self, style: SummaryStyle, output_index: int, item_id: str) -> None:
        self.parts: tuple[SummaryText, ...] = ()
        """The parts that have ended."""
        self._is_detailed = style == "detailed"
        self._at, self._item_id = output_index, item_id
        self._pieces_read, self._unread, self._searched = 0, "", 0
        """How many pieces were read, their text that belongs to no sentence yet, and how much of that is
        known to contain no end of one."""
        self._is_undecided = False
        """The next piece decides whether a sentence has ended."""
        self._is_in_paragraph = self._is_code = False
        self._is_open, self._told = False, list[str]()
        """Whether a part is open, and its text so far."""
        self._told_chars = 0
        """How much of the current paragraph the part contains."""

    def is_due(self, piece: str) -> bool:
        """Returns True if the text is to be read once this piece has been added to it."""
        return self._is_undecided or _MAY_END.search(piece) is not None

    def read(self, pieces: list[str]) -> list[StreamEvent]:
        """Reads what is new in the pieces of a text; returns what it adds to the summary."""
        text = self._unread + "".join(pieces[self._pieces_read :])
        self._pieces_read = len(pieces)
        events: list[StreamEvent] = []
        place = self._read_sentences(text, events)
        if len(text) - place > _UNREAD_CHARS_MAX:
            sentence = text[place:].rstrip() or text[place:]
            events += self._take(sentence)
            place += len(sentence)
            self._searched = 0
        self._unread = rest = text[place:] if self._is_in_paragraph else text[place:].lstrip()
        undecided = _UNDECIDED.search(rest, min(self._searched, len(rest)))
        self._searched = undecided.start() if undecided else len(rest)
        self._is_undecided = undecided is not None
        return events

    def end(self, pieces: list[str]) -> list[StreamEvent]:
        """Reads the rest of a text that has ended; returns what it adds, and the end of the last part."""
        events = self.read(pieces)
        if rest := self._unread.rstrip():
            events += self._take(rest)
        self._unread = ""
        return events + self._end_part()

    def _read_sentences(self, text: str, events: list[StreamEvent]) -> int:
        """Takes every whole sentence of a text; returns where the rest begins."""
        place, searched = 0, self._searched
        while True:
            if self._is_in_paragraph and not self._is_code and (gap := _BLANK_LINES.match(text, place)):
                events += self._end_paragraph()
                place = gap.end()
                continue
            start = _START.search(text, place)
            end = _END.search(text, max(start.end(), searched)) if start else None
            if end is None:
                self._searched = max(0, searched - place)
                return place
            events += self._take(text[place : end.end()])
            place = end.end()

    def _take(self, sentence: str) -> list[StreamEvent]:
        """Takes a sentence, with the white space before it; returns what it adds to the summary."""
        was_code = self._is_code
        self._is_code ^= sentence.count(_FENCE) % 2 == 1
        self._is_in_paragraph = True
        if self._is_detailed:
            return self._tell(sentence)
        if was_code or self._is_code or self._told_chars >= SENTENCE_CHARS_MIN:
            return []
        return self._tell(_cut(sentence, SENTENCE_CHARS_MAX - self._told_chars))

    def _tell(self, text: str) -> list[StreamEvent]:
        """Adds text to the open part, or begins one with it."""
        events: list[StreamEvent] = []
        text = text if self._told_chars else text.lstrip()
        self._told_chars += len(text)
        if not self._is_open:
            self._is_open = True
            part = SummaryText("")
            events = [ev.ReasoningSummaryPartAdded(self._at, len(self.parts), self._item_id, part)]
        elif len(text) == self._told_chars:
            text = f"\n\n{text}"  # a further paragraph in the last part
        self._told.append(text)
        return [*events, ev.ReasoningSummaryTextDelta(self._at, len(self.parts), self._item_id, text)]

    def _end_paragraph(self) -> list[StreamEvent]:
        self._is_in_paragraph, self._told_chars = False, 0
        return self._end_part() if len(self.parts) + 1 < PARTS_MAX else []

    def _end_part(self) -> list[StreamEvent]:
        if not self._is_open:
            return []
        index, part = len(self.parts), SummaryText("".join(self._told))
        self.parts, self._is_open, self._told = (*self.parts, part), False, []
        return [
            ev.ReasoningSummaryTextDone(self._at, index, self._item_id, part.text),
            ev.ReasoningSummaryPartDone(self._at, index, self._item_id, part),
        ]


def _cut(sentence: str, chars_max: int) -> str:
    """Returns a sentence of at most `chars_max` characters; one that is longer is cut between two words."""
    if len(sentence) <= chars_max:
        return sentence
    beginning = sentence[: chars_max - len(_CUT)]
    return (beginning.rpartition(" ")[0].rstrip() or beginning) + _CUT
