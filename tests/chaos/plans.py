"""The plans: what is asked of the cluster, each with its words for script.toml, its tools and limits.

Pure. The client, not the plan, chooses how the response is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import ids

SCRIPT = Path(__file__).parent / "script.toml"
_CALL_INDEX = 1
"""The index of the call in the output of `ask`: after the reasoning."""
LABEL, KEPT, HELD = "chaos", "kept", "held"
"""The labels of the MCP server: without sessions, with sessions that any tool runner continues, and over HTTP
with SSE, where a session is a connection of one tool runner."""
TURN = "turn"
"""The tool of the servers with sessions; not repeatable."""
REPEATABLE = frozenset({"lookup", "slow", "study"})
"""Tools whose annotations say that repeating a call does no harm; `count` and `build` have none."""
_FUNCTION = {
    "type": "function",
    "name": "note",
    "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
}
_CUSTOM = {"type": "custom", "name": "patch", "description": "Changes a file."}
_APPROVAL, _APPROVED_INDEX = "mcp_approval_response", 2
"""The index of the question in the output of `approve`: after the listing and the reasoning."""
_ASKED_FIRST = {"type": "mcp", "server_label": LABEL, "require_approval": "always"}
_COMPACTED: Mapping[str, Any] = {"context_management": [{"type": "compaction", "compact_threshold": 300}]}
_PADDING = " And this is what was said before:" + " one thing after another" * 150
_HOSTED = ({"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}})


@dataclass(frozen=True, slots=True)
class Plan:
    words: str
    weight: int
    """The relative frequency of this plan."""
    status: str = "completed"
    """The status with which it ends undisturbed."""
    tools: tuple[str, ...] = ()
    """The tools that it calls; call number i has the argument `<key>-<i>`."""
    server: str = LABEL
    """The label of the server with these tools."""
    output_tokens_max: int | None = None
    offered: tuple[Mapping[str, Any], ...] = ()
    """Further tools."""
    answered_by: str = ""
    """It ends with a call that the client runs, and continues with a response of this plan."""
    answers_with: str = ""
    """The type of the output that it begins with."""
    padding: str = ""
    """Follows the words, so that the context is long."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request."""
    is_first: bool = False
    """It continues nothing: what it calls has the place that the answer names."""
    keeps_its_answer: bool = False
    """Whoever cancels it late gets its answer, so no client does."""

    @property
    def is_plain(self) -> bool:
        """Returns True if it can be asked for by any door: words alone, answered by words alone."""
        is_short = self.output_tokens_max is None and not self.padding
        return is_short and not (self.tools or self.offered or self.answers_with)

    def make_body(self, key: str, parent_id: str | None, **how: Any) -> dict[str, Any]:
        """Returns the body of a create call. `how`: `stream`, `background` and further fields."""
        """`model` and `service_tier` are among these."""
        text = f"{self.words} [{key}]{self.padding}"
        body: dict[str, Any] = {"model": "default", "input": text, **self.fields, **how}
        if self.answers_with == _APPROVAL:
            assert parent_id is not None
            request_id = ids.item_id("mcpr", parent_id, _APPROVED_INDEX)
            body["input"] = [{"type": _APPROVAL, "approval_request_id": request_id, "approve": True}]
        elif self.answers_with:
            assert parent_id is not None
            call_id = ids.call_id(parent_id, _CALL_INDEX)
            body["input"] = [{"type": self.answers_with, "call_id": call_id, "output": "noted"}]
        server = {"type": "mcp", "server_label": self.server, "require_approval": "never"}
        if tools := [*([server] if self.tools else ()), *self.offered]:
            body["tools"] = tools
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
    "together": Plan("together", 5, tools=("lookup", "count", "lookup", "slow")),
    "build": Plan("build", 2, tools=("build",)),
    "study": Plan("study", 2, tools=("study",)),
    "kept": Plan("kept", 5, tools=(TURN, TURN, TURN), server=KEPT),
    "held": Plan("held", 4, tools=(TURN, TURN), server=HELD),
    "web": Plan("web", 5, offered=_HOSTED),
    "ask": Plan("ask", 5, offered=(_FUNCTION,), answered_by="answer"),
    "answer": Plan("answer", 0, offered=(_FUNCTION,), answers_with="function_call_output"),
    "patch": Plan("patch", 3, offered=(_CUSTOM,), answered_by="patched"),
    "patched": Plan("patched", 0, offered=(_CUSTOM,), answers_with="custom_tool_call_output"),
    "approve": Plan("approve", 3, offered=(_ASKED_FIRST,), answered_by="approved", is_first=True),
    "approved": Plan("approved", 0, offered=(_ASKED_FIRST,), answers_with=_APPROVAL),
    "compact": Plan("tell 30", 3, padding=_PADDING, fields=_COMPACTED, keeps_its_answer=True),
    "endless": Plan("tell 1000", 0),
}


def make_key(call: int) -> str:
    """Returns a key of fixed length, so that the same plan always makes the same tokens."""
    return f"k{call:07d}"
