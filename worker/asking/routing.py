"""Resolves a call's recipient to its target: the tool, and who runs it.

Pure. Owns which recipients mean an offered tool; `offer.py` decides which tools are offered.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.client_tools import FUNCTION
from shared.hosted_tools import MCP_CALL
from shared.web_search import SearchOptions
from worker.harmony.signatures import FUNCTIONS


@dataclass(frozen=True, slots=True)
class ClientTarget:
    """A tool that the client runs; the response ends with the call. `item_type`: of the call."""

    name: str
    item_type: str = FUNCTION.item_type
    namespace: str | None = None

    @property
    def recipient(self) -> str:
        return f"{self.namespace or FUNCTIONS}.{self.name}"


@dataclass(frozen=True, slots=True)
class McpTarget:
    """A tool that a tool runner runs, after the client's approval if it needs one."""

    recipient: str
    """The Harmony name under which the tool is offered and its answers are attributed."""
    server_label: str
    name: str
    server_url: str | None = None
    """The address in the request's record; the tool runner decides which server it calls."""
    needs_approval: bool = False
    is_repeatable: bool = False
    """Calling it twice has the same effect as calling it once."""
    is_read_only: bool = False
    """The server says that calling it changes nothing, so that two such calls cannot disturb each other."""
    item_type: str = MCP_CALL
    """The type of the item that a call leaves; `worker/response/call_items.py` has its form."""
    search: SearchOptions | None = None
    """What the request wants of its searches, if the tool is a `web_search`."""


Target = ClientTarget | McpTarget
Routing = Mapping[str, Target]
"""Harmony recipient -> target. A recipient that `find_target` does not resolve is never executed."""


def find_target(routing: Routing, recipient: str) -> Target | None:
    """Returns the one offered tool that a recipient can mean, or None.

    Models omit the namespace, or put `functions.` in front of another tool's full name; both are accepted.
    Anything else is not guessed at.
    """
    if recipient in routing:
        return routing[recipient]
    if recipient.startswith(f"{FUNCTIONS}."):
        return routing.get(recipient.removeprefix(f"{FUNCTIONS}."))
    named = [target for name, target in routing.items() if name.partition(".")[2] == recipient]
    return named[0] if len(named) == 1 else None
