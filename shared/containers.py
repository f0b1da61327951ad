"""Names the container in which a response's code runs: where its variables are.

Pure. Variables follow `previous_response_id` and conversations (`records/create.lua`), so a response that
continues another one is in the same container. The name is a function of the request, which a takeover has
too. Owns the name, and what clients see of a call's outputs; the variables are the Python tool's session.
"""

from collections.abc import Sequence

import msgspec

from shared.hosted_tools import CodeInterpreterCall, CodeOutput
from shared.ids import container_id, is_container_id
from shared.input_items import InputCompaction, InputItem
from shared.responses import ConversationReference, ResponseRequest


def container_of(request: ResponseRequest) -> str:
    """Returns the container of the last call before the request, or else one named after the response."""
    return continued_container(request) or container_id(request.response.id)


def continued_container(request: ResponseRequest) -> str | None:
    """Returns the container that the request continues, or None. A history that a client sends names none."""
    response = request.response
    if response.previous_response_id is None and not isinstance(response.conversation, ConversationReference):
        return None
    return last_container(request.context)


def last_container(items: Sequence[InputItem]) -> str | None:
    """Returns the container of the last code among items, those that a compaction stands for included."""
    named = (
        item.container_id
        for item in reversed(items)
        if isinstance(item, CodeInterpreterCall | InputCompaction) and isinstance(item.container_id, str)
    )
    return next((name for name in named if is_container_id(name)), None)


def with_outputs(call: CodeInterpreterCall) -> CodeInterpreterCall:
    """Returns a call that was made here as a client that requests outputs sees it: without a line end after
    the last line, as in the hosted API."""
    logs = call.logged.removesuffix("\n")
    return msgspec.structs.replace(call, outputs=[CodeOutput("logs", logs)] if logs else [])
