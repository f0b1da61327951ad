"""Names the container in which a response's code runs: where its variables are.

Pure. Variables follow `previous_response_id` and conversations (`records/create.lua`), so a response that
continues another one is in the same container. The name is a function of the request, which a takeover has
too. Owns the name, and what clients see of a call's outputs; the variables are the Python tool's session.
"""

import msgspec

from shared.hosted_tools import CodeInterpreterCall, CodeOutput
from shared.ids import container_id, is_container_id
from shared.responses import ConversationReference, ResponseRequest


def container_of(request: ResponseRequest) -> str:
    """Returns the container of the last call before the request, or else one named after the response."""
    return continued_container(request) or container_id(request.response.id)


def continued_container(request: ResponseRequest) -> str | None:
    """Returns the container that the request continues, or None. A history that a client sends names none."""
    response = request.response
    if response.previous_response_id is None and not isinstance(response.conversation, ConversationReference):
        return None
    calls = (item for item in reversed(request.context) if isinstance(item, CodeInterpreterCall))
    return next((call.container_id for call in calls if is_container_id(call.container_id)), None)


def with_outputs(call: CodeInterpreterCall) -> CodeInterpreterCall:
    """Returns a call that was made here as a client that requests outputs sees it: without a line end after
    the last line, as in the hosted API."""
    logs = call.logged.removesuffix("\n")
    return msgspec.structs.replace(call, outputs=[CodeOutput("logs", logs)] if logs else [])
