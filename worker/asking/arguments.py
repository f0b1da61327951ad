"""Reads the arguments that a model wrote for a call, as a tool takes them. Pure."""

import msgspec

from shared import hosted_tools


def read_arguments(server_label: str, written: str) -> str | None:
    """Returns the arguments as JSON text, or None if they are not a JSON object.

    For a hosted tool that takes plain text, the text becomes its single argument.
    """
    tool = hosted_tools.by_label(server_label)
    if tool is not None and tool.text_argument is not None:
        return msgspec.json.encode({tool.text_argument: written}).decode()
    try:
        value = msgspec.json.decode(written or "{}")
    except msgspec.DecodeError:
        return None
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else None
