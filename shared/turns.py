"""Turns of a conversation as its items tell them: which message answers, and which reasoning is over.

Pure. Owns the rule that the API keeps contexts by and the worker builds prompts by. Source: the Harmony
format guide, where the analysis of a turn is dropped once the turn has ended in a final message.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

_CALLS = frozenset(
    {"function_call", "custom_tool_call", "mcp_call", "mcp_approval_request"}
    | {"code_interpreter_call", "web_search_call"}
)

ItemT = TypeVar("ItemT", bound=Mapping[str, Any])


def answers_in(items: Sequence[Mapping[str, Any]]) -> list[int]:
    """Where the assistant's final messages stand.

    One that a call of the same turn follows is commentary, whatever its `phase` says: many clients leave
    that out, and the turn goes on. An empty one says nothing.
    """
    answers: list[int] = []
    is_calling = False
    for index in range(len(items) - 1, -1, -1):
        item = items[index]
        kind = item.get("type")
        if kind in _CALLS:
            is_calling = True
        elif kind == "message" and item["role"] != "assistant":
            is_calling = False
        elif kind == "message" and not is_calling and item.get("phase") != "commentary" and _says(item):
            answers.append(index)
    answers.reverse()
    return answers


def without_old_reasoning(items: Sequence[ItemT], following: Sequence[ItemT] = ()) -> list[ItemT]:
    """Reasoning before the last answer, here or among those that follow, is over: no model reads it again."""
    answers = answers_in([*items, *following])
    last = answers[-1] if answers else -1
    return [item for i, item in enumerate(items) if i > last or item.get("type") != "reasoning"]


def _says(message: Mapping[str, Any]) -> bool:
    content = message["content"]
    if isinstance(content, str):
        return bool(content)
    return any(part.get("text") or part.get("refusal") for part in content)
