"""Reads the arguments that a model wrote for a call, as a tool takes them and as items show them. Pure."""

import msgspec

from shared import hosted_tools


def read_arguments(server_label: str, written: str) -> str | None:
    """Returns the arguments as JSON text, or None if they are not a JSON object.

    For a hosted tool that takes plain text, the text becomes its single argument.
    """
    name = text_argument_of(server_label)
    if name is not None:
        return msgspec.json.encode({name: written}).decode()
    try:
        value = msgspec.json.decode(written or "{}")
    except msgspec.DecodeError:
        return None
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else None


def read_written(server_label: str, arguments: str) -> str:
    """Returns what the model wrote, given an item's `arguments`.

    For a hosted tool that takes plain text, these are JSON or, in items with Harmony messages and in those of
    earlier versions, the text itself.
    """
    name = text_argument_of(server_label)
    if name is None:
        return arguments
    try:
        value = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return arguments
    match value:
        case {**members} if members.keys() == {name} and isinstance(members[name], str):
            return str(members[name])
        case _:
            return arguments


def text_argument_of(server_label: str) -> str | None:
    """Returns the name of the argument that takes everything the model writes, or None."""
    tool = hosted_tools.by_label(server_label)
    return tool.text_argument if tool is not None else None
