"""Adds to a response that has ended what the `include` of a query asks for, and its items do not show.

Pure. Owns the response as it is then returned; what is kept of each item is `Closing.unshown`.
"""

from collections.abc import Collection

import msgspec

from shared.containers import with_outputs
from shared.events import encode
from shared.hosted_tools import AnyHostedToolCall, CodeInterpreterCall, WebSearchCall
from shared.responses import Response
from shared.store.log.archive import ArchivedRecord


def add_included(record: ArchivedRecord, included: Collection[str]) -> bytes:
    """Returns JSON of the response; its bytes are those of the snapshot if nothing is to be added."""
    kept = msgspec.json.decode(record.unshown, type=list[AnyHostedToolCall]) if record.unshown else []
    whole = {item.id: shown for item in kept if (shown := _show(item, included)) is not None}
    if not whole:
        return record.snapshot
    response = msgspec.json.decode(record.snapshot, type=Response)
    output = tuple(whole.get(item.id, item) for item in response.output)
    return encode(msgspec.structs.replace(response, output=output))


def _show(item: AnyHostedToolCall, included: Collection[str]) -> AnyHostedToolCall | None:
    """Returns the item with what was asked for, or None if nothing was of this one."""
    match item:
        case CodeInterpreterCall():
            return with_outputs(item) if "code_interpreter_call.outputs" in included else None
        case WebSearchCall():
            is_asked = "web_search_call.action.sources" in included
            return item.shown(with_sources=True) if is_asked else None
