"""Every Redis key and channel, on one page. Makes names; touches nothing.

A response's keys share the hash tag `{tenant/response_id}`: one slot, and a stranger's id
misses because the tenant is part of the name. Each key has a TTL (docs/architecture.md, Keys).
"""

from typing import NamedTuple

RESPONSES_QUEUE = "antiphon:{queue}:responses"
TOOLS_QUEUE = "antiphon:{queue}:tools"
ACTIVE = "antiphon:{queue}:active"
"""Sorted set: `tenant/response_id` of every open response, by the time (Redis, ms) it lapses."""


class ResponseKey(NamedTuple):
    """Names one response of one tenant; `str()` is its name within keys and jobs."""

    tenant: str
    response_id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.response_id}"

    @classmethod
    def parse(cls, text: str) -> "ResponseKey":
        tenant, _, response_id = text.rpartition("/")
        return cls(tenant, response_id)


def state(key: ResponseKey) -> str:
    """Hash: request, created_ms, store, attempt, owner, lease_until_ms, rings, job, closed, snapshot."""
    return f"antiphon:{{{key}}}:state"


def log(key: ResponseKey) -> str:
    """Stream: entry `<sequence_number + 1>-0` with fields e (frame) and t (token ids, if any)."""
    return f"antiphon:{{{key}}}:log"


def secrets(key: ResponseKey) -> str:
    """String, JSON {server_label: ServerSecrets}; deleted when the response closes."""
    return f"antiphon:{{{key}}}:secrets"


def tools(key: ResponseKey) -> str:
    """Hash, the tool journal: `<call_index>:intent`, `:claim`, `:result`, and `session:<label>`."""
    return f"antiphon:{{{key}}}:tools"


def live(key: ResponseKey) -> str:
    """Channel: what was just appended (see `event_log`)."""
    return f"antiphon:{{{key}}}:live"


def results(owner: str) -> str:
    """Channel on which one worker hears that tool results are in."""
    return f"antiphon:results:{owner}"


def doorbell(queue: str) -> str:
    """List of wake-up tokens for one queue; hints only, trimmed and expiring."""
    return f"{queue}:doorbell"


def job(job_id: str) -> str:
    """arq's key for a queued job; arq fixes the prefix."""
    return f"arq:job:{job_id}"


def presence(role: str) -> str:
    """Sorted set: process names of a role, by the time (Redis, ms) at which they count as gone."""
    return f"antiphon:{{presence}}:{role}"
