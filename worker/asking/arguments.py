"""What a model wrote as a call's arguments, in the form in which a tool takes them. Pure."""

import msgspec

from shared import hosted_tools


def read_arguments(server_label: str, written: str) -> str | None:
    """Return a JSON object as text, or None if it is none. Plain text becomes the tool's one argument."""
    tool = hosted_tools.by_label(server_label)
    if tool is not None and tool.text_argument is not None:
        return msgspec.json.encode({tool.text_argument: written}).decode()
    try:
        value = msgspec.json.decode(written or "{}")
    except msgspec.DecodeError:
        return None
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else None
