"""What a response is accepted with, what keeps it from being accepted, and what is then left to its tenant.

Owns these values and exceptions; `create.lua` decides, and nothing was written where one of them is raised.
`response_store.py` owns the call.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import msgspec

from shared.frames import frame
from shared.heads import ResponseHead, name_members
from shared.lifecycle import begin
from shared.responses import Response, ResponseRequest, ServerSecrets
from shared.service_tiers import Tier, served_tier
from shared.settings import Settings
from shared.store.keys import RESPONSES_QUEUE, ConversationKey, ResponseKey

_TOKEN_BYTES = 4
"""About how many bytes of JSON a token of the prompt has. What a response has used is known at its end."""
_ECHOES = 4
"""The number of copies of a request's echo: in its first, in-progress and last events, and the snapshot."""


class QueueFull(Exception):
    """`queue_depth_max` jobs are waiting already."""


class TenantBusy(Exception):
    """The tenant is at its limit of open responses, or of stored bytes."""


class KeyReused(Exception):
    """The idempotency key belongs to a create call with another body."""


class ConversationLocked(Exception):
    """Another response is open in the conversation."""


class ConversationMoved(Exception):
    """The conversation has changed since it was read, or is gone."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a limit a minute, and in how many ms it is whole again."""

    limit: int
    left: int
    whole_in_ms: int


@dataclass(frozen=True, slots=True)
class Allowances:
    """Those of a tenant; None for what has no limit."""

    requests: Allowance | None = None
    tokens: Allowance | None = None

    @classmethod
    def of(cls, settings: Settings, left: list[int]) -> Self:
        """`left`: the last four numbers of a reply of `create.lua`."""
        limits = settings.tenant_requests_per_minute_max, settings.tenant_tokens_per_minute_max
        requests, tokens = (Allowance(limits[i], *left[2 * i : 2 * i + 2]) for i in (0, 1))
        return cls(requests if requests.limit else None, tokens if tokens.limit else None)


NO_ALLOWANCES = Allowances()


class RateExceeded(Exception):
    """The tenant has asked for as much as it may in a minute. `wait_ms`: how long to wait before the same
    request can be accepted."""

    def __init__(self, allowances: Allowances, wait_ms: int) -> None:
        super().__init__(f"it may ask again in {wait_ms} ms")
        self.allowances = allowances
        self.wait_ms = wait_ms


@dataclass(frozen=True, slots=True)
class Membership:
    """The conversation that a response is created in, and how far it was read."""

    conversation: ConversationKey
    place: bytes
    """The place of the last item that was read."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """What distinguishes a repeated create call from a new one."""

    idempotency_key: str
    body_digest: str
    """Hex digest of the body."""
    renews: bool = False
    """True for a call that creates a new response if its client had left the earlier one."""


@dataclass(frozen=True, slots=True)
class NewResponse:
    """A response about to be accepted. `parent`: the response that it continues, if any."""

    key: ResponseKey
    is_stored: bool
    is_background: bool
    record: bytes
    """JSON of its ResponseRequest."""
    frames: Sequence[bytes]
    """The first entries of its log."""
    secrets: Mapping[str, ServerSecrets]
    parent: ResponseKey | None = None
    repetition: Repetition | None = None
    membership: Membership | None = None
    is_followed: bool = False
    """This process follows it from the start."""
    is_queued: bool = True
    """A worker is to have it; otherwise the caller ends it at once."""
    reader: str = ""
    """Who is announced as its reader (`watchers.py`), if it lives only while it is read."""
    tokens: int = 0
    """What counts against its tenant's tokens a minute until it has ended: about what its prompt has, and all
    that it may write, if that has a limit."""
    webhooks: Sequence[str] = ()
    """The names of its tenant's webhooks that deliver its end."""
    tier: Tier = "default"
    queue: str = RESPONSES_QUEUE
    """Where it waits for a worker that serves its model."""
    head: bytes = b""
    """JSON of what a list shows of it; b"" if it is not stored."""
    members: str = ""
    """Its metadata, as the index names it (`shared/heads.py`)."""
    prefix: str = ""
    """Hex digest of its `prompt_cache_key`, or "" if it has none."""
    trace: str = ""
    """The trace that it belongs to, a TraceContext, for those who deliver its end; '' without traces."""

    @property
    def kept_bytes(self) -> int:
        """The bytes that Redis will hold of the request until its log is archived."""
        return len(self.record) + _ECHOES * len(self.frames[0])

    @classmethod
    def of(
        cls,
        key: ResponseKey,
        request: ResponseRequest,
        secrets: Mapping[str, ServerSecrets],
        parent: ResponseKey | None = None,
        repetition: Repetition | None = None,
        membership: Membership | None = None,
    ) -> Self:
        """Makes one by encoding the request, which takes a while if it is large."""
        response, record = request.response, msgspec.json.encode(request)
        frames = [frame(event, number) for number, event in enumerate(begin(response))]
        stored, background = response.store, response.background
        made = cls(key, stored, background, record, frames, secrets, parent, repetition, membership)
        prompt_bytes = len(record) - len(frames[0]) + len(str(response.instructions or ""))
        tokens = max(1, prompt_bytes // _TOKEN_BYTES) + (response.max_output_tokens or 0)
        head = msgspec.json.encode(ResponseHead.of(response)) if stored else b""
        made = replace(made, tokens=tokens, tier=served_tier(response.service_tier), head=head)
        trace = str(request.trace.context) if request.trace else ""
        return replace(
            made, members=name_members(response.metadata), prefix=_prefix_of(response), trace=trace
        )


def _prefix_of(response: Response) -> str:
    key = response.prompt_cache_key
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest() if key else ""


@dataclass(frozen=True, slots=True)
class Admitted:
    key: ResponseKey
    """The response that answers the call."""
    is_heard: bool = False
    """It is new, and its channel had a subscriber before its first entry was written."""
    allowances: Allowances = NO_ALLOWANCES
    """What is left to its tenant, if it is new."""
