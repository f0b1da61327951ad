"""How events of a log are printed: one line each. Pure; the log's own JSON is shown as it is stored."""

from typing import Any

import msgspec

from admin.printing import plain
from shared.frames import data_of

_TEXT_MAX = 80
_SHOWN = ("delta", "text", "arguments")
"""Members of events that say what they add, the first that there is."""


def describe(frame: bytes) -> str:
    """Returns a line for people: the event's number, its type, and the beginning of what it adds."""
    event: dict[str, Any] = msgspec.json.decode(data_of(frame))
    said = next((event[name] for name in _SHOWN if isinstance(event.get(name), str)), "")
    return f"{event['sequence_number']:>6}  {event['type']}  {plain(said[:_TEXT_MAX])}".rstrip()
