"""What is asked of the cluster: a few plans, each with its words for script.toml, its tools and limits.

Pure. How a client then reads the response is the client's choice, not the plan's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parent / "script.toml"
LABEL = "chaos"
"""The label of the MCP server that has the tools."""
REPEATABLE = frozenset({"lookup", "slow"})
"""Tools that say of themselves that a repetition does no harm; `count` does not."""
_TOOLS = [{"type": "mcp", "server_label": LABEL, "require_approval": "never"}]


@dataclass(frozen=True, slots=True)
class Plan:
    words: str
    weight: int
    """How often it is chosen, compared with the others."""
    status: str = "completed"
    """How it ends when nothing goes wrong."""
    calls: int = 0
    """Tool calls; call number i is made with the argument `<key>-<i>`."""
    output_tokens_max: int | None = None

    def make_body(self, key: str, parent_id: str | None, **how: bool) -> dict[str, Any]:
        """`how`: `stream` and `background`."""
        body: dict[str, Any] = {"model": "default", "input": f"{self.words} [{key}]", **how}
        if self.calls:
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
    "lookup": Plan("lookup", 8, calls=1),
    "count": Plan("count", 10, calls=2),
    "slow": Plan("slow", 5, calls=1),
    "all": Plan("all", 7, calls=3),
}


def make_key(call: int) -> str:
    """Fixed in length, so that the same plan always makes the same tokens."""
    return f"k{call:07d}"
