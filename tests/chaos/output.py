"""The output of a response in a form that two runs of the same plan share: without ids, keys and times.

Pure. Does not decide which of two outputs is right.
"""

import msgspec

from shared.client_tools import CustomToolCall
from shared.hosted_tools import CodeInterpreterCall, WebSearchCall
from shared.responses import FunctionCall, McpCall, McpListTools, Message, Reasoning, Response
from shared.tool_calls import describe
from tool_runner.run_tool import NEW_SESSION

Output = tuple[tuple[str, ...], ...]
"""Returns one entry per item: its kind and its texts, with `KEY` in place of the call's own key."""


def say(response: Response, key: str) -> Output:
    items: list[tuple[str, ...]] = []
    for item in response.output:
        match item:
            case Reasoning():
                items.append(("reasoning", "".join(part.text for part in item.content)))
            case Message(phase=phase):
                said = "".join(part.text for part in item.content)
                cited = [each.url for part in item.content for each in part.annotations]
                # Records of format 1 have no phase.
                items.append(("message", phase or "final_answer", said, *cited))
            case McpListTools():
                items.append(("listing", item.server_label, *(tool.name for tool in item.tools)))
            case FunctionCall():
                items.append(("function", item.name, item.arguments))
            case McpCall():
                items.append(("call", item.name, item.arguments, *_result_of(item)))
            case CustomToolCall():
                items.append(("custom", item.name, item.input))
            case CodeInterpreterCall():
                items.append(("code", str(item.status), str(item.code)))
            case WebSearchCall():
                items.append(("search", str(item.status), msgspec.json.encode(item.action).decode()))
            case _:
                items.append((type(item).__name__,))
    return tuple(tuple(text.replace(key, "KEY") for text in item) for item in items)


def _result_of(call: McpCall) -> tuple[str, str]:
    if call.error is not None:
        return "failed", describe(call.error)
    return "returned", (call.output or "").removeprefix(f"{NEW_SESSION}\n")


def with_failures(expected: Output, said: Output) -> Output:
    """Returns the expected output if the calls that failed in `said` had failed in the undisturbed run."""
    wanted = list(expected)
    for place, item in enumerate(said[: len(wanted)]):
        before = wanted[place]
        if item[0] == "call" and item[3] == "failed" and before[:3] == item[:3]:
            wanted = [tuple(text.replace(before[4], item[4]) for text in one) for one in wanted]
            wanted[place] = item
    return tuple(wanted)
