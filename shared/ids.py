"""Identifiers: how they are made and what can be read back from them. Holds no state.

Item and call ids derive from (response_id, output_index), so that the same response always
has the same ids, whichever worker continues it (docs/adr/0006-derived-ids.md).
"""

import re
import secrets

_RESPONSE_ID = re.compile(r"resp_([a-z0-9]{1,8})_([0-9a-f]{32})\Z")
_CONVERSATION_ID = re.compile(r"conv_([a-z0-9]{1,8})_([0-9a-f]{32})\Z")


def new_response_id(cell: str) -> str:
    """`resp_<cell>_<32 hex>`; the cell names the Redis primary that holds the response."""
    return f"resp_{cell}_{secrets.token_hex(16)}"


def is_response_id(text: str) -> bool:
    return _RESPONSE_ID.match(text) is not None


def new_conversation_id(cell: str) -> str:
    """`conv_<cell>_<32 hex>`; the cell is that of the conversation's responses."""
    return f"conv_{cell}_{secrets.token_hex(16)}"


def is_conversation_id(text: str) -> bool:
    return _CONVERSATION_ID.match(text) is not None


def new_item_origin(cell: str) -> str:
    """Stands in the place of a response's id for items that came without one; never used twice."""
    return f"{cell}_{secrets.token_hex(16)}"


def item_id(prefix: str, response_id: str, place: int | str) -> str:
    """`rs_…`, `msg_…`, `mcp_…` and so on; `place` is the output_index, or `i<n>` in the input."""
    return f"{prefix}_{response_id.removeprefix('resp_')}_{place}"


def call_id(response_id: str, output_index: int) -> str:
    """What a client quotes in `function_call_output`."""
    return item_id("call", response_id, output_index)


def new_owner(role: str) -> str:
    """A name for one process life of a worker or tool runner; never used twice."""
    return f"{role}-{secrets.token_hex(6)}"


def new_request_id() -> str:
    """`req_<32 hex>`, for the header of one answer."""
    return f"req_{secrets.token_hex(16)}"
