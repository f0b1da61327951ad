"""What the translator turns into events: the parser's segments, and those that do not come from the model.

Owns their shapes; `translator.py` owns what they become.
"""

from dataclasses import dataclass

from shared.responses import Logprob
from shared.tool_calls import ToolFailure, ToolOutput
from worker.asking.routing import McpTarget
from worker.harmony.parser import HarmonySegment


@dataclass(frozen=True, slots=True)
class TextWithLogprobs:
    """A delta of a message's text, with the log probabilities of its tokens."""

    text: str
    logprobs: tuple[Logprob, ...]


@dataclass(frozen=True, slots=True)
class CallApproved:
    """A call that an earlier response asked the client to approve; it runs now."""

    target: McpTarget
    written: str
    approval_request_id: str


@dataclass(frozen=True, slots=True)
class ToolReturned:
    result: ToolOutput | ToolFailure


Segment = HarmonySegment | TextWithLogprobs | CallApproved | ToolReturned
