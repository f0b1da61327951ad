"""Adds to a response that has ended what the `include` of a query asks for, and its items do not show.

Pure. Owns the response as it is then returned; what is kept of each item is `Closing.unshown`.
"""

from collections.abc import Callable, Collection

import msgspec

from shared.containers import with_outputs
from shared.frames import encode
from shared.hosted_tools import AnyHostedToolCall, CodeInterpreterCall, WebSearchCall
from shared.in_turn import without_turn
from shared.input_items import InputItem
from shared.responses import SEALED_REASONING, Item, Reasoning, Response
from shared.store.log.archive import ArchivedRecord


def add_included(record: ArchivedRecord, included: Collection[str], seal: Callable[[str], str]) -> bytes:
    """Returns JSON of the response; its bytes are those of the snapshot if nothing is to be added.

    `seal`: seals the text of a reasoning item, as the worker does for the include of a create call.
    """
    kept = msgspec.json.decode(record.unshown, type=list[InputItem]) if record.unshown else []
    whole: dict[str, Item] = {
        item.id: shown
        for item in map(without_turn, kept)
        if isinstance(item, AnyHostedToolCall) and (shown := _show(item, included)) is not None
    }
    if not whole and SEALED_REASONING not in included:
        return record.snapshot
    response = msgspec.json.decode(record.snapshot, type=Response)
    output = tuple(whole.get(item.id, item) for item in response.output)
    if SEALED_REASONING in included:
        output = tuple(_with_sealed(item, seal) for item in output)
    if output == response.output:
        return record.snapshot
    return encode(msgspec.structs.replace(response, output=output))


def _show(item: AnyHostedToolCall, included: Collection[str]) -> AnyHostedToolCall | None:
    """Returns the item with what was asked for, or None if nothing was of this one, or it has no result."""
    if item.status not in ("completed", "failed"):
        return None
    match item:
        case CodeInterpreterCall():
            return with_outputs(item) if "code_interpreter_call.outputs" in included else None
        case WebSearchCall():
            is_asked = "web_search_call.action.sources" in included
            return item.shown(with_sources=True) if is_asked else None


def _with_sealed(item: Item, seal: Callable[[str], str]) -> Item:
    if not isinstance(item, Reasoning) or item.encrypted_content is not msgspec.UNSET:
        return item
    text = "".join(part.text for part in item.content)
    return msgspec.structs.replace(item, encrypted_content=seal(text))
