"""Who asks, how urgently, and of which model: the tenants, tiers and models of a run. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

OPEN_TENANT, DEFAULT = "default", "default"
ADAPTER, SECOND = "polite", "second"
"""An adapter of the default model, and a model of which one worker alone has the weights."""


@dataclass(frozen=True, slots=True)
class Fleet:
    tenants: Mapping[str, float] = field(default_factory=lambda: {OPEN_TENANT: 1.0})
    """Tenant -> its weight in the queue."""
    tiers: Mapping[str, int] = field(default_factory=lambda: {"auto": 1})
    """`service_tier` -> its relative frequency."""
    models: Mapping[str, int] = field(default_factory=lambda: {DEFAULT: 1})
    """Model -> its relative frequency."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of all processes."""
    own_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Process -> what it has in addition."""


PLAIN = Fleet()
MIXED = Fleet(
    tenants={OPEN_TENANT: 1.0, "large": 4.0, "small": 0.25},
    tiers={"auto": 6, "priority": 2, "flex": 3},
    models={DEFAULT: 6, ADAPTER: 2, SECOND: 1},
    settings={
        "ANTIPHON_SCRIPT_ADAPTERS": json.dumps([ADAPTER]),
        "ANTIPHON_PINNED_MODELS": json.dumps([ADAPTER, SECOND]),
        "ANTIPHON_SCRIPT_SEQUENCES_MAX": "6",  # so few that responses wait, and `flex` gives way
    },
    own_settings={
        "worker-3": {"ANTIPHON_SERVED_MODELS": json.dumps([SECOND]), "ANTIPHON_SCRIPT_ADAPTERS": "[]"}
    },
)


def key_of(tenant: str) -> str:
    """Returns the tenant's API key."""
    return f"chaos-{tenant}"
