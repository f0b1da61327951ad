"""Decodes a body into a JSON object of limited size.

Owns the limits on depth and number of values, which are the same for every body; the module that reads a body
owns its fields.
"""

import re
from typing import Any

import msgspec

from api.errors import ClientError
from shared.json_values import count_values

NESTING_MAX = 128
"""The number of nested levels of lists and objects, since later readers of the request recurse."""
_SURROGATE = re.compile(rb"\\u[dD][89a-bA-B]")
"""The first half of a pair, escaped."""


def decode_object(raw: bytes, values_max: int) -> dict[str, Any]:
    """Returns the body as a JSON object of limited depth and number of values; numbers are finite, text is
    valid Unicode. Raises ClientError."""
    if count_values(raw, values_max) > values_max:
        raise _too_many_values(raw, values_max)
    try:
        value = msgspec.json.decode(raw)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error)
        if reason == "Input data was truncated" and _SURROGATE.search(raw):
            reason = "it ends too early, or has half of a surrogate pair"  # the decoder says the same of both
        raise ClientError(400, f"The body is not valid JSON: {reason}.", "invalid_json") from None
    if not isinstance(value, dict):
        raise ClientError(400, "The body must be a JSON object.", "invalid_json")
    _check_nesting(value)
    return value


class _Fields(msgspec.Struct):
    """The fields of a body that may be long, not decoded."""

    input: msgspec.Raw = msgspec.Raw()
    items: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    text: msgspec.Raw = msgspec.Raw()
    response_format: msgspec.Raw = msgspec.Raw()


def _too_many_values(raw: bytes, values_max: int) -> ClientError:
    """Returns the error, naming the field with the most values."""
    try:
        fields = msgspec.structs.asdict(msgspec.json.decode(raw, type=_Fields))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = {}
    counts = {name: count_values(bytes(field), 0) for name, field in fields.items()}
    name = max(counts, key=counts.__getitem__, default=None)
    message = f"The body has too many JSON values: at most {values_max} are accepted."
    return ClientError(400, message, "too_many_values", name if name and counts[name] else None)


def _check_nesting(value: object) -> None:
    level: list[Any] = [value]
    for _ in range(NESTING_MAX):
        children = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ClientError:
    message = f"The body is nested too deeply: at most {NESTING_MAX} levels are accepted."
    return ClientError(400, message, "invalid_json")
