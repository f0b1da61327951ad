"""What a recipient stands for: who runs the tool that the model calls by that name.

Pure. Owns which recipients are calls of offered tools; which tools are offered is `offer`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from worker.harmony.signatures import FUNCTIONS


@dataclass(frozen=True, slots=True)
class FunctionTarget:
    """The client runs it: the response completes with the call."""

    name: str


@dataclass(frozen=True, slots=True)
class McpTarget:
    """A tool runner runs it, if need be after the client has approved."""

    recipient: str
    """The Harmony name under which the tool is offered, and answers."""
    server_label: str
    name: str
    server_url: str | None = None
    """As the request's record has it; which server is called is the tool runner's choice."""
    needs_approval: bool = False
    is_repeatable: bool = False
    """Calling it twice does no more than calling it once."""


Target = FunctionTarget | McpTarget
Routing = Mapping[str, Target]
"""Harmony recipient -> target. What `find_target` does not find in it is never executed."""


def find_target(routing: Routing, recipient: str) -> Target | None:
    """The one offered tool that a recipient can mean, else None.

    Models leave the namespace out, or put `functions.` before the whole name of another tool. Nothing
    else is understood: which tool is meant is not guessed.
    """
    if recipient in routing:
        return routing[recipient]
    if recipient.startswith(f"{FUNCTIONS}."):
        return routing.get(recipient.removeprefix(f"{FUNCTIONS}."))
    named = [target for name, target in routing.items() if name.partition(".")[2] == recipient]
    return named[0] if len(named) == 1 else None
