"""Refuses what the model's context cannot hold, where its length alone tells. Pure.

Owns which texts surely stand in the prompt; whoever is not refused here may be refused by a worker, which
counts tokens.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from api.errors import context_length_exceeded
from shared.context_length import tokens_min
from shared.responses import ResponseRequest


def check_prompt_length(request: ResponseRequest, context_tokens_max: int) -> None:
    """Raises ClientError. With `truncation: auto` only instructions and the last user message must fit."""
    items: Iterable[Mapping[str, Any]] = [*request.context, *request.input]
    if request.response.truncation == "auto":
        items = next(([item] for item in reversed(list(items)) if item.get("role") == "user"), [])
    instructions = request.response.instructions
    chars = len(instructions) if isinstance(instructions, str) else 0
    if tokens_min(chars + sum(map(_chars_of, items))) >= context_tokens_max:
        raise context_length_exceeded()


def _chars_of(item: Mapping[str, Any]) -> int:
    match item.get("type"):
        case "message":
            content = item.get("content")
        case "function_call_output":
            content = item.get("output")
        case _:
            return 0
    if isinstance(content, str):
        return len(content)
    return sum(len(part.get("text") or "") for part in content or () if isinstance(part, dict))
