"""What a compaction stands for: a summary, and the items that were kept whole. Pure.

Owns what is sealed in a `compaction` item, and which items take its place when it is read again. There are
two kinds (docs/adr/0051-a-compaction-is-a-turn.md): one in the output of a response stands for everything
before it; one that `POST /v1/responses/compact` returns follows the messages that were kept, and stands for
the rest. The worker makes them, the API opens them.
"""

from collections.abc import Container, Iterable, Sequence
from typing import Self

import msgspec
from msgspec import UNSET

from shared.hosted_tools import Text
from shared.in_turn import without_turn
from shared.input_items import InputCompaction, InputItem, InputMessage
from shared.responses import CompactionRules

DEFAULT_PROMPT = """\
Summarise this conversation. What you write now takes its place: whoever goes on reads that, and of all \
the messages above only the user's latest ones. State what the user wants and has decided; facts, names, \
numbers, paths and ids that may be needed again; what has been done, with what result; and what is left to \
do. Write in the language of the conversation. Leave out what no longer matters, add nothing, call no \
tools, and do not address the user. Write at most {tokens} tokens."""
"""Has the model write the summary. `{tokens}`: the number of tokens that it may have."""


DEFAULT_RULES = CompactionRules(DEFAULT_PROMPT, share_max=0.25, tokens_min=1_024)


class Compacted(msgspec.Struct, frozen=True, omit_defaults=True):
    """`kept`: messages that were kept whole, instructions first; `waiting`: calls that wait for an answer."""

    summary: str
    kept: list[InputItem] = []
    waiting: list[InputItem] = []
    is_whole: bool = False
    """It stands for everything before it."""
    instructions: int = 0
    """How many of `kept` are instructions that the conversation began with."""
    container_id: Text = UNSET
    """The container of the last code that ran, which later code continues."""

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()

    def instructed_by(self, before: Sequence[InputItem]) -> Self:
        """Returns it with the instructions that the items before it begin with, if they do, in place of its
        own: clients send the present ones first."""
        count = count_instructions(before)
        if not count:
            return self
        kept = [*before[:count], *self.kept[self.instructions :]]
        return msgspec.structs.replace(self, kept=kept, instructions=count)

    def answered_by(self, answers: Iterable[InputItem]) -> Self:
        """Returns it with the answers to calls that waited."""
        return msgspec.structs.replace(self, waiting=[*self.waiting, *answers])

    def without_waiting(self, places: Container[int]) -> Self:
        """Returns it without the calls at these places of `waiting`."""
        waiting = [item for place, item in enumerate(self.waiting) if place not in places]
        return msgspec.structs.replace(self, waiting=waiting)

    def in_place_of(self, item: InputCompaction) -> list[InputItem]:
        """Returns the items that a model reads in place of the sealed one."""
        opened = msgspec.structs.replace(item, summary=self.summary, container_id=self.container_id)
        return [*self.kept, opened, *self.waiting]


def read_compacted(text: str) -> Compacted:
    """Returns what `encode` has encoded."""
    return msgspec.json.decode(text, type=Compacted)


def as_shown(items: Iterable[InputItem]) -> list[InputItem]:
    """Returns the items without what clients are not shown of them."""
    return [
        msgspec.structs.replace(item, summary=UNSET, container_id=UNSET)
        if isinstance(item, InputCompaction)
        else without_turn(item)
        for item in items
    ]


def count_instructions(items: Sequence[InputItem]) -> int:
    """Returns the number of instructions (of the roles system and developer) that the items begin with."""
    for place, item in enumerate(items):
        if not isinstance(item, InputMessage) or item.role not in ("system", "developer"):
            return place
    return len(items)
