"""An example of every input item, with every member that the public types define for it.

Each text is one of its own, so that it can be looked for.
"""

import itertools
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

Path = tuple[str | int, ...]

CALLER = {"type": "program", "caller_id": "T"}
BREAKPOINT = {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}
TEXT = {"type": "input_text", "text": "T", **BREAKPOINT}
IMAGE = {"type": "input_image", "image_url": "http://T", "file_id": "T", "detail": "original", **BREAKPOINT}
FILE = {
    "type": "input_file",
    "file_url": "http://T",
    "file_id": "T",
    "filename": "T",
    "detail": "auto",
    **BREAKPOINT,
}
ANNOTATIONS = [
    {"type": "url_citation", "url": "T", "title": "T", "start_index": 0, "end_index": 1},
    {"type": "file_citation", "file_id": "T", "filename": "T", "index": 0},
    {"type": "container_file_citation", "container_id": "T", "file_id": "T", "filename": "T"},
    {"type": "file_path", "file_id": "T", "index": 0},
]
SAID = {"type": "output_text", "text": "T", "annotations": ANNOTATIONS, "logprobs": []}
CALLED: dict[str, Any] = {"status": "completed", "caller": CALLER, "async": False}
ANSWER: dict[str, Any] = {"status": "completed", "caller": CALLER, "call_id": "c"}
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "message of a user": {
        "type": "message",
        "role": "user",
        "content": [TEXT, IMAGE, FILE],
        "status": "completed",
    },
    "message of the assistant": {
        "type": "message",
        "role": "assistant",
        "content": [SAID, {"type": "refusal", "refusal": "T"}],
        "status": "incomplete",
        "phase": "final_answer",
    },
    "message of a developer": {"type": "message", "role": "developer", "content": "T"},
    "reasoning": {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "T"}],
        "content": [{"type": "reasoning_text", "text": "T"}],
        "status": "completed",
    },
    "reasoning in parts": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "T"}]},
    "function_call": {
        "type": "function_call",
        "call_id": "c",
        "name": "T",
        "arguments": '{"a": "T"}',
        "namespace": "T",
        **CALLED,
    },
    "function_call_output": {
        "type": "function_call_output",
        "output": [TEXT, IMAGE, FILE],
        "name": "T",
        "namespace": "T",
        **ANSWER,
    },
    "custom_tool_call": {
        "type": "custom_tool_call",
        "call_id": "c",
        "name": "T",
        "input": "T",
        "namespace": "T",
        **CALLED,
    },
    "custom_tool_call_output": {
        "type": "custom_tool_call_output",
        "output": [TEXT, IMAGE, FILE],
        "name": "T",
        **ANSWER,
    },
    "shell_call": {
        "type": "shell_call",
        "call_id": "c",
        "action": {"commands": ["T", "T"], "max_output_length": 12345, "timeout_ms": 54321},
        "environment": {"type": "container_reference", "container_id": "T"},
        **CALLED,
    },
    "shell_call_output": {
        "type": "shell_call_output",
        "output": [
            {"stdout": "T", "stderr": "T", "outcome": {"type": "exit", "exit_code": 3}},
            {"stdout": "T", "stderr": "T", "outcome": {"type": "timeout"}},
        ],
        "max_output_length": 12345,
        **ANSWER,
    },
    "local_shell_call": {
        "type": "local_shell_call",
        "call_id": "c",
        "action": {
            "type": "exec",
            "command": ["T", "T"],
            "env": {"A": "T"},
            "timeout_ms": 54321,
            "user": "T",
            "working_directory": "T",
        },
        "status": "completed",
    },
    "local_shell_call_output": {"type": "local_shell_call_output", "id": "c", "output": "T", **ANSWER},
    "apply_patch_call": {
        "type": "apply_patch_call",
        "call_id": "c",
        "operation": {"type": "update_file", "path": "T", "diff": "T"},
        "status": "completed",
        "caller": CALLER,
    },
    "apply_patch_call_output": {"type": "apply_patch_call_output", "output": "T", **ANSWER},
    "mcp_list_tools": {
        "type": "mcp_list_tools",
        "server_label": "wiki",
        "tools": [
            {
                "name": "T",
                "description": "T",
                "input_schema": {"type": "object", "properties": {"T": {"type": "string"}}},
                "annotations": {"title": "T"},
            }
        ],
        "error": None,
    },
    "mcp_approval_request": {
        "type": "mcp_approval_request",
        "id": "mcpr_T",
        "server_label": "T",
        "name": "T",
        "arguments": '{"a": "T"}',
    },
    "mcp_approval_response": {
        "type": "mcp_approval_response",
        "approval_request_id": "mcpr_1",
        "approve": False,
        "reason": "T",
    },
    "mcp_call": {
        "type": "mcp_call",
        "server_label": "T",
        "name": "T",
        "arguments": '{"a": "T"}',
        "output": "T",
        "error": {"type": "http_error", "code": 503, "message": "T"},
        "status": "failed",
        "approval_request_id": "T",
    },
    "mcp_call that its tool failed": {
        "type": "mcp_call",
        "server_label": "T",
        "name": "T",
        "arguments": "T",
        "error": {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": "T"}, {"x": "T"}]},
        "status": "failed",
    },
    "code_interpreter_call": {
        "type": "code_interpreter_call",
        "id": "ci_T",
        "container_id": "T",
        "code": "T",
        "outputs": [{"type": "logs", "logs": "T"}, {"type": "image", "url": "T"}],
        "status": "completed",
    },
    "web_search_call": {
        "type": "web_search_call",
        "id": "ws_T",
        "action": {
            "type": "search",
            "query": "T",
            "queries": ["T", "T"],
            "sources": [{"type": "url", "url": "T"}, {"type": "api", "name": "T"}],
        },
        "status": "completed",
    },
    "file_search_call": {
        "type": "file_search_call",
        "id": "fs_T",
        "queries": ["T", "T"],
        "results": [{"filename": "T", "text": "T", "file_id": "T", "score": 0.5, "attributes": {"a": "T"}}],
        "status": "completed",
    },
    "image_generation_call": {
        "type": "image_generation_call",
        "id": "ig_T",
        "result": "T",
        "revised_prompt": "T",
        "error": {"code": "T", "message": "T", "type": "T", "param": "T"},
        "size": "T",
        "output_format": "T",
        "status": "failed",
    },
    "computer_call": {
        "type": "computer_call",
        "id": "cu_T",
        "call_id": "c",
        "action": {"type": "type", "text": "T"},
        "pending_safety_checks": [{"id": "T", "code": "T", "message": "T"}],
        "status": "completed",
    },
    "computer_call of several actions": {
        "type": "computer_call",
        "call_id": "c",
        "actions": [{"type": "click", "x": 1, "y": 2}, {"type": "type", "text": "T"}],
        "status": "completed",
    },
    "computer_call_output": {
        "type": "computer_call_output",
        "call_id": "c",
        "output": {"type": "computer_screenshot", "image_url": "T", "file_id": "T"},
        "acknowledged_safety_checks": [{"id": "T", "message": "T"}],
        "status": "completed",
    },
    "tool_search_call": {
        "type": "tool_search_call",
        "id": "tsc_T",
        "arguments": {"paths": ["T"]},
        "execution": "server",
        "call_id": None,
        "status": "completed",
    },
    "tool_search_output": {
        "type": "tool_search_output",
        "id": "tso_T",
        "tools": [{"type": "function", "name": "T", "description": "T", "parameters": {"T": "T"}}],
        "execution": "server",
        "call_id": None,
        "status": "completed",
    },
    "web_search_call that opens a page": {
        "type": "web_search_call",
        "action": {"type": "open_page", "url": "T"},
        "status": "completed",
    },
    "web_search_call in a page": {
        "type": "web_search_call",
        "action": {"type": "find_in_page", "url": "T", "pattern": "T"},
        "status": "completed",
    },
}
BEFORE: Mapping[str, Mapping[str, Any]] = {
    "function_call_output": {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    "custom_tool_call_output": {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": ""},
    "shell_call_output": {"type": "shell_call", "call_id": "c", "action": {"commands": []}},
    "local_shell_call_output": {
        "type": "local_shell_call",
        "call_id": "c",
        "action": {"type": "exec", "command": [], "env": {}},
    },
    "apply_patch_call_output": {
        "type": "apply_patch_call",
        "call_id": "c",
        "operation": {"type": "delete_file", "path": "p"},
    },
    "mcp_approval_response": {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "server_label": "wiki",
        "name": "ask",
        "arguments": "{}",
    },
}
"""What stands before an example that answers something."""


def example(name: str) -> dict[str, Any]:
    """Returns an item of which each text is another one: `T` becomes `T0x`, `T1x` and so on."""
    numbers = itertools.count()

    def number(value: Any) -> Any:
        match value:
            case str():
                return value.replace("T", f"T{next(numbers)}x") if "T" in value else value
            case dict():
                return {(number(key) if key == "T" else key): number(inner) for key, inner in value.items()}
            case list():
                return [number(inner) for inner in value]
            case _:
                return value

    made: dict[str, Any] = number(deepcopy(dict(EXAMPLES[name])))
    return made


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yields the place and the value of all that is no object and no array."""
    match value:
        case dict():
            for key, inner in value.items():
                yield from leaves(inner, (*path, key))
        case list():
            for index, inner in enumerate(value):
                yield from leaves(inner, (*path, index))
        case _:
            yield path, value


def replaced(value: Any, path: Path, by: Any) -> Any:
    """Returns a copy with another value at a place."""
    copy = deepcopy(value)
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = by
    return copy
