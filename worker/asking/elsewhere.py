"""Tells calls of tools that only other services have: what was asked, and what came of it. Pure.

They come with a session that began elsewhere. The model reads them as calls of functions that it is not
offered now; an image or a screenshot is named to it, as in a message.
"""

import json
from dataclasses import dataclass
from typing import Any, assert_never

from msgspec import UNSET

from shared.input_items import (
    AnyCallElsewhere,
    ComputerCall,
    ComputerCallOutput,
    FileSearchCall,
    ImageGenerationCall,
    ToolSearchCall,
    ToolSearchOutput,
)
from worker.asking.outcomes import SEARCH_NOT_KEPT, note_of

_COMPUTER, _TOOL_SEARCH = "computer", "tool_search"


@dataclass(frozen=True, slots=True)
class ToldCall:
    """`written`: None for an item that is an answer only; `answer`: None for one that is a call only."""

    function: str
    written: str | None = None
    answer: str | None = None


def tell_elsewhere(item: AnyCallElsewhere) -> ToldCall:
    """Returns the item as the model reads it."""
    match item:
        case FileSearchCall():
            return ToldCall("file_search", _to_json({"queries": item.queries}), _found_by(item))
        case ImageGenerationCall(revised_prompt=prompt):
            written = _to_json({"prompt": prompt} if prompt else {})
            return ToldCall("image_generation", written, _made_by(item))
        case ComputerCall(action=action, actions=actions):
            done = actions if isinstance(actions, list) else [action] if isinstance(action, dict) else []
            return ToldCall(_COMPUTER, _to_json({"actions": done}))
        case ComputerCallOutput():
            return ToldCall(_COMPUTER, None, "[A screenshot was taken here; this model reads text only.]")
        case ToolSearchCall(arguments=arguments):
            return ToldCall(_TOOL_SEARCH, _to_json(None if arguments is UNSET else arguments))
        case ToolSearchOutput(tools=tools):
            return ToldCall(_TOOL_SEARCH, None, _to_json({"tools": tools}))
        case never:
            assert_never(never)


def _found_by(call: FileSearchCall) -> str:
    if not isinstance(call.results, list):
        return note_of(call.status) or SEARCH_NOT_KEPT
    texts = [f"{each.filename or 'unnamed'}:\n{each.text or ''}" for each in call.results]
    return "\n\n".join(filter(None, (*texts, note_of(call.status)))) or "[Nothing was found.]"


def _made_by(call: ImageGenerationCall) -> str:
    error = call.error.get("message") if isinstance(call.error, dict) else None
    made = note_of(call.status) or "[An image was made here; this model reads text only.]"
    return f"{made} {error}" if error else made


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
