"""The service tiers: which of them serves a request, and what a turn of each costs in the queue.

Owns the names and the costs; the order itself is the store's (docs/adr/0054-tenants-take-turns.md).
"""

from typing import Literal

Tier = Literal["priority", "default", "flex"]

TURN_COST = 10_000
"""How much later a flow of the default tier has its next turn, if its tenant has the weight 1."""
_COSTS: dict[Tier, int] = {"priority": TURN_COST // 8, "default": TURN_COST, "flex": TURN_COST * 32}
COUNT = "count"
"""Stands for a tier where tokens are counted, which takes no time of an engine."""


def served_tier(requested: str) -> Tier:
    """Returns the tier that serves a request: `default`, unless it asks for another that there is here."""
    match requested:
        case "priority" | "flex":
            return requested
        case _:
            return "default"


def turn_cost(tier: Tier, weight: float) -> int:
    """Returns what a turn costs a tenant of this weight, at least 1."""
    return max(1, round(_COSTS[tier] / weight))
