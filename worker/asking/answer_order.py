"""Puts the answers to the client's calls in the order of their calls. Pure.

The model reads answers without the ids of their calls: of two calls of one tool, the first answer belongs to
the first call. Clients send them in any order, as each becomes ready.
"""

from collections.abc import Sequence

from shared.input_items import ComputerCall, ComputerCallOutput, InputItem, ToolSearchCall, ToolSearchOutput
from shared.waiting_calls import CALLS, CallOutput, ClientsCall, answered_by

_CallKey = tuple[type[InputItem], str]


def answers_in_order(items: Sequence[InputItem]) -> list[InputItem]:
    """Returns the items with the answers changed about among their own places, so that they follow each other
    as their calls do. None can get before its call. One that names a function, or answers a call for the
    second time, stays where it is."""
    called: dict[_CallKey, int] = {}
    places: list[tuple[int, int]] = []
    """The place of a call, and that of its answer."""
    for place, item in enumerate(items):
        if (call := _call_of(item)) is not None:
            called[call] = place
        elif (answered := _answered_by(item)) is not None and answered in called:
            places.append((called.pop(answered), place))
    ordered = list(items)
    for (_, place), (_, answer) in zip(places, sorted(places), strict=True):
        ordered[place] = items[answer]
    return ordered


def _call_of(item: InputItem) -> _CallKey | None:
    if not isinstance(item, ClientsCall | ComputerCall | ToolSearchCall):
        return None
    return (type(item), item.call_id) if item.call_id else None


def _answered_by(item: InputItem) -> _CallKey | None:
    answered: tuple[type[InputItem], object] | None = None
    if isinstance(item, ComputerCallOutput):
        answered = ComputerCall, item.call_id
    elif isinstance(item, ToolSearchOutput):
        answered = ToolSearchCall, item.call_id
    elif isinstance(item, CallOutput):
        answered = CALLS[type(item)], answered_by(item)
    return (answered[0], answered[1]) if answered and isinstance(answered[1], str) else None
