"""How a call stood in the turn in which the model made it, as records keep it beside the item. Pure.

Items show neither where a turn ends nor the calls that were not made, and a later response has to read what
the model wrote and was answered, in that order. The worker notes it when a response ends
(`worker/response/turn_notes.py`) and reads it in a context (`worker/asking/turn_order.py`); clients neither
see nor send it.
"""

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

_I = TypeVar("_I", bound=msgspec.Struct)


class UnmadeCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that was not made. `recipient`: as the model wrote it, empty if it named none; `answer`: the
    refusal that is read."""

    recipient: str
    written: str
    answer: str
    is_before: bool = False
    """It was written before the item, not after it."""


class InTurn(msgspec.Struct, frozen=True, omit_defaults=True):
    last: str = ""
    """The id of the last item of the turn, after which the call is answered; empty if it is this one."""
    instead: UnmadeCall | None = None
    """What the item is in truth: clients are shown the text of a call that was not made as reasoning."""
    unmade: list[UnmadeCall] = []
    """The calls next to this one that were not made, and are shown to no client."""


Noted = InTurn | UnsetType
"""The member `in_turn` of an item; UNSET if the item stands for itself, or its turn is not known."""

MEMBER = "in_turn"


def turn_of(item: msgspec.Struct) -> InTurn | None:
    noted = getattr(item, MEMBER, None)
    return noted if isinstance(noted, InTurn) else None


def without_turn(item: _I) -> _I:
    """Returns an item as clients see it."""
    return item if turn_of(item) is None else msgspec.structs.replace(item, **{MEMBER: UNSET})
