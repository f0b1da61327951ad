"""What a model wrote as a call's arguments, in the form in which a tool takes them. Pure."""

import msgspec

from shared.tool_calls import TRAINED_NAMESPACES


def read_arguments(server_label: str, written: str) -> str | None:
    """A JSON object as text, or None. Code for the trained python tool becomes its one argument."""
    if TRAINED_NAMESPACES.get(server_label) == "python":
        return msgspec.json.encode({"code": written}).decode()
    try:
        value = msgspec.json.decode(written or "{}")
    except msgspec.DecodeError:
        return None
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else None
