"""Notes how the calls of a response stood in their turns, for the responses that continue it.

Pure. Owns which item a note is kept beside; `shared/in_turn.py` says what a note holds, `closing.py` keeps
it.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from shared.hosted_tools import CallItem
from shared.in_turn import InTurn, UnmadeCall
from shared.lifecycle import lasting
from shared.responses import Item, McpApprovalRequest


@dataclass(frozen=True, slots=True)
class Unmade:
    """A call that was not made. `place`: the output_index of the item that shows its text or, if none does
    (`is_shown`), of the item that comes next."""

    place: int
    is_shown: bool
    call: UnmadeCall


@dataclass(frozen=True, slots=True)
class NotedTurn:
    """The items from output_index `begin` up to, not including, `end`; the places of the calls that were
    made here, and what was not made."""

    begin: int
    end: int
    made: Sequence[int]
    unmade: Sequence[Unmade]


@dataclass(slots=True)
class TurnNotes:
    turns: list[NotedTurn] = field(default_factory=list)

    def add(self, begin: int, end: int, made: Sequence[int], unmade: Sequence[Unmade] = ()) -> None:
        """Adds a turn with its output_indices; one call alone needs no note."""
        if unmade or (made and end - begin > 1):
            self.turns.append(NotedTurn(begin, end, made, unmade))

    def of(self, output: Sequence[Item]) -> dict[int, InTurn]:
        """Returns the note of each item of an output that needs one, by output_index."""
        return {place: note for turn in self.turns for place, note in _notes_of(turn, output)}


def _notes_of(turn: NotedTurn, output: Sequence[Item]) -> Iterator[tuple[int, InTurn]]:
    places = [place for place in range(turn.begin, turn.end) if lasting([output[place]])]
    shown = {each.place: each.call for each in turn.unmade if each.is_shown}
    answered = {*turn.made, *shown}.intersection(places)
    calls = [place for place in places if place in answered or _is_call(output[place])]
    beside = _beside(calls, [each for each in turn.unmade if not each.is_shown])
    for place in sorted(answered | beside.keys()):
        last = "" if place == places[-1] else output[places[-1]].id
        note = InTurn(last, shown.get(place), beside.get(place, []))
        if note != InTurn():
            yield place, note


def _is_call(item: Item) -> bool:
    return isinstance(item, CallItem | McpApprovalRequest)


def _beside(calls: Sequence[int], unmade: Sequence[Unmade]) -> dict[int, list[UnmadeCall]]:
    """Returns the calls that no item shows, by the place of the call before them in their turn, or else of
    the one after. In a turn without another call, the model has read of them in its next turn, and later
    responses need not."""
    beside: dict[int, list[UnmadeCall]] = {}
    for each in unmade if calls else ():
        before = bisect_left(calls, each.place)
        place = calls[max(before - 1, 0)]
        call = msgspec.structs.replace(each.call, is_before=before == 0)
        beside.setdefault(place, []).append(call)
    return beside
