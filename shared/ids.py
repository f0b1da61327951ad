"""Makes identifiers, and checks the form of those that clients send. Holds no state.

Item and call ids derive from (response_id, output_index), so that a response always has the same ids,
whichever worker continues it (docs/adr/0006-derived-ids.md).
"""

import hashlib
import re
import secrets

_RESPONSE_ID = re.compile(r"resp_([a-z0-9]{1,8})_([0-9a-f]{32})\Z")
_CONTAINER_ID = re.compile(r"cntr_([a-z0-9]{1,8})_([0-9a-f]{32})\Z")
_CONVERSATION_ID = re.compile(r"conv_([a-z0-9]{1,8})_([0-9a-f]{32})\Z")


_OF_A_CELL = re.compile(r"[a-z]{2,8}_([a-z0-9]{1,8})_[0-9a-f]{32}(?:_.{1,64})?\Z", re.DOTALL)


def cell_of(text: str) -> str | None:
    """Returns the cell that an id of ours names: of a response, a conversation, an item, a call, a container.

    None if it has another form, as ids have that clients make."""
    found = _OF_A_CELL.match(text)
    return found[1] if found else None


def new_response_id(cell: str) -> str:
    """Returns `resp_<cell>_<32 hex>`; the cell names the Redis primary that holds the response."""
    return f"resp_{cell}_{secrets.token_hex(16)}"


def is_response_id(text: str) -> bool:
    return _RESPONSE_ID.match(text) is not None


def new_conversation_id(cell: str) -> str:
    """Returns `conv_<cell>_<32 hex>`; a conversation has the same cell as its responses."""
    return f"conv_{cell}_{secrets.token_hex(16)}"


def is_conversation_id(text: str) -> bool:
    return _CONVERSATION_ID.match(text) is not None


def container_id(response_id: str) -> str:
    """Returns `cntr_<cell>_<32 hex>`, the container of the code that a response runs, unless it continues
    another one's."""
    return f"cntr_{response_id.removeprefix('resp_')}"


def is_container_id(text: str) -> bool:
    return _CONTAINER_ID.match(text) is not None


def new_item_origin(cell: str) -> str:
    """Returns a unique stand-in for a response's id, from which ids of new items are derived."""
    return f"{cell}_{secrets.token_hex(16)}"


def item_id(prefix: str, response_id: str, place: int | str) -> str:
    """Returns `rs_…`, `msg_…`, `mcp_…` and so on. `place`: the output_index, or `i<n>` in the input."""
    return f"{prefix}_{response_id.removeprefix('resp_')}_{place}"


def call_id(response_id: str, output_index: int) -> str:
    """Returns the `call_id` that a client repeats in `function_call_output`."""
    return item_id("call", response_id, output_index)


def event_id(response_id: str, event_type: str) -> str:
    """Returns the `evt_…` of the event that reports a response's end, the same however often it is sent."""
    digest = hashlib.sha256(f"{response_id} {event_type}".encode()).hexdigest()
    return f"evt_{digest[:32]}"


def new_owner(role: str, place: str = "") -> str:
    """Returns a unique name for one process, such as a worker; `place` is where it runs, if that is known."""
    return "-".join([role, *([place] if place else []), secrets.token_hex(6)])


def is_owner_at(owner: str, role: str, place: str) -> bool:
    """Returns True for the name of a process of this role that runs in this place."""
    return owner.rpartition("-")[0] == f"{role}-{place}"


def new_request_id() -> str:
    """Returns `req_<32 hex>`, for the `x-request-id` header of one HTTP response."""
    return f"req_{secrets.token_hex(16)}"
