"""The plans: what is asked of the cluster, each with its words for script.toml, its tools and limits.

Pure. The client, not the plan, chooses how the response is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import ids

SCRIPT = Path(__file__).parent / "script.toml"
_CALL_INDEX = 1
"""The index of the call in the output of `ask`: after the reasoning."""
LABEL = "chaos"
"""The label of the MCP server with the tools."""
REPEATABLE = frozenset({"lookup", "slow", "study"})
"""Tools whose annotations say that repeating a call does no harm; `count` and `build` have none."""
_FUNCTION = {
    "type": "function",
    "name": "note",
    "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
}
_TOOLS = [{"type": "mcp", "server_label": LABEL, "require_approval": "never"}]


@dataclass(frozen=True, slots=True)
class Plan:
    words: str
    weight: int
    """The relative frequency of this plan."""
    status: str = "completed"
    """The status with which it ends undisturbed."""
    tools: tuple[str, ...] = ()
    """The tools that it calls; call number i has the argument `<key>-<i>`."""
    output_tokens_max: int | None = None
    calls_function: bool = False
    """It ends with a function call, after which the client continues with a response of the plan `answer`."""
    answers_function: bool = False

    def make_body(self, key: str, parent_id: str | None, **how: Any) -> dict[str, Any]:
        """Returns the body of a create call. `how`: `stream`, `background` and further fields."""
        body: dict[str, Any] = {"model": "default", "input": f"{self.words} [{key}]", **how}
        if self.calls_function or self.answers_function:
            body["tools"] = [_FUNCTION]
        if self.answers_function:
            assert parent_id is not None
            call_id = ids.call_id(parent_id, _CALL_INDEX)
            body["input"] = [{"type": "function_call_output", "call_id": call_id, "output": "noted"}]
        if self.tools:
            body["tools"] = _TOOLS
        if self.output_tokens_max is not None:
            body["max_output_tokens"] = self.output_tokens_max
        if parent_id is not None:
            body["previous_response_id"] = parent_id
        return body


PLANS: Mapping[str, Plan] = {
    "quick": Plan("quick", 10),
    "short": Plan("tell 12", 15),
    "middle": Plan("tell 40", 15),
    "long": Plan("tell 110", 10),
    "characters": Plan("characters", 15),
    "cut": Plan("tell 60", 5, "incomplete", output_tokens_max=90),
    "lookup": Plan("lookup", 8, tools=("lookup",)),
    "count": Plan("count", 10, tools=("count", "count")),
    "slow": Plan("slow", 5, tools=("slow",)),
    "all": Plan("all", 7, tools=("lookup", "count", "slow")),
    "build": Plan("build", 2, tools=("build",)),
    "study": Plan("study", 2, tools=("study",)),
    "ask": Plan("ask", 5, calls_function=True),
    "answer": Plan("answer", 0, answers_function=True),
    "endless": Plan("tell 1000", 0),
}


ANSWER = "answer"


def make_key(call: int) -> str:
    """Returns a key of fixed length, so that the same plan always makes the same tokens."""
    return f"k{call:07d}"
