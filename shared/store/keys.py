"""The names of all our Redis keys and channels. Sends nothing; arq names its own keys.

A response's keys share the hash tag `{tenant/response_id}`, so they are in one slot, and the id of another
tenant's response finds nothing. Each key has a TTL (docs/architecture.md, Keys).
"""

import hashlib
from typing import NamedTuple

RESPONSES_QUEUE = "antiphon:{queue}:responses"
"""That of the default model (docs/adr/0056-a-queue-for-each-model.md)."""
TOOLS_QUEUE = "antiphon:{queue}:tools"
ACTIVE = "antiphon:{queue}:active"
"""Sorted set: `tenant/response_id` of every open response, by when (Redis, ms) it lapses."""
CLOSED = "antiphon:{queue}:closed"
"""Sorted set: `tenant/response_id` of closed logs not yet archived, by when (Redis, ms) they are due."""
PULSE = "antiphon:{queue}:pulse"
"""Hash: `since_ms`, `heard_ms` (Redis, ms): since when sweepers have been answered without a break, and when
the last one was; `history`: the replication id of the server that answered, which reveals a new primary."""
OUTBOXES = "antiphon:{queue}:outbox"
"""Sorted set: the webhooks (`tenant/name`) that have something to deliver, by when (Redis, ms) that may be
due: never later than it is."""
GIVEN_UP = f"{OUTBOXES}:given_up"
"""How many deliveries were given up, of all webhooks (`webhooks/outbox.lua`)."""
CONFIRMED = "antiphon:{confirmed}"
"""String without meaning, written before a confirmation is requested (`durable_writes`)."""
MODELS = "antiphon:{presence}:models"
"""Sorted set: JSON of what workers serve (`owning/fleet.py`, `Served`), by until when (Redis, ms) some worker
counts as serving it."""
CANCELLED = "antiphon:cancelled"
"""Channel: the names of responses as they are cancelled, so that their workers stop early."""


class ResponseKey(NamedTuple):
    """Identifies one response of one tenant; `str()` is its name within keys and jobs."""

    tenant: str
    response_id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.response_id}"

    @classmethod
    def parse(cls, text: str) -> "ResponseKey":
        tenant, _, response_id = text.rpartition("/")
        return cls(tenant, response_id)


class ConversationKey(NamedTuple):
    """Identifies one conversation of one tenant; `str()` is its name within keys."""

    tenant: str
    conversation_id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.conversation_id}"


STATE_PATTERN, LOG_PATTERN, READERS_PATTERN = (
    f"antiphon:{{%s}}:{kind}" for kind in ("state", "log", "readers")
)
"""For scripts over many responses, and those that find responses whose names the caller did not know."""


def state(key: ResponseKey) -> str:
    """Hash. From the start: store, background, created_ms, attempt, owner, lease_until_ms,
    alone_since_ms, rings, job, queue, closed, format; if its tenant has a limit of tokens a minute,
    tokens (what counts against it until the end) and tokens_per_minute (the limit); if its end is to be
    delivered, webhooks (their names); if it is `flex`, turn_cost (for when it gives way); until it is
    archived, if it has a `prompt_cache_key`, prefix (the name of that key). Once it had an owner: deaths,
    format_needed, and for each of the first 64 owners grant:ATTEMPT (until when its lease was given at
    first, its name, and how the one before it had parted: `left` and when, or `held` and until when);
    left_ms, when an owner let go last, or ended it. While open: usage up to some entry of the log
    (`shared/usage.py`). If it is stored: head (JSON of its ResponseHead) and members (of metadata, as its
    index names them). Until it is archived: request, and once closed, snapshot and, if there are such
    calls, unshown (those of which it shows less); afterwards: compacted."""
    return STATE_PATTERN % str(key)


def log(key: ResponseKey) -> str:
    """Stream: entry `<sequence_number + 1>-0` with fields e (frame), and if any, t (token ids) and m (what
    the engine reported about the tokens; if t is empty, a call of which the frame shows less)."""
    return LOG_PATTERN % str(key)


def archive(key: ResponseKey) -> str:
    """Hash, the archived log: `record` and `0`, `1`, …, each zstd, and `index` (see `log/archive.py`)."""
    return f"antiphon:{{{key}}}:archive"


def packing(key: ResponseKey, token: str) -> str:
    """Hash, the chunks of an archive that a worker is making; `token` identifies this attempt at it."""
    return f"antiphon:{{{key}}}:packing:{token}"


def secrets(key: ResponseKey) -> str:
    """String, JSON {server_label: ServerSecrets}; deleted when the response closes."""
    return f"antiphon:{{{key}}}:secrets"


def tools(key: ResponseKey) -> str:
    """Hash, the tool journal: `<call_index>:intent`, `:job`, `:claim`, `:result`; and for each server
    `session:<label>`, state of its own, and `session:<label>/mcp`, its MCP session, sealed."""
    return f"antiphon:{{{key}}}:tools"


def approval(tenant: str, approval_request_id: str) -> str:
    """String: the id of the response that used an approval. Clients choose what stands for a request's id."""
    digest = hashlib.sha256(approval_request_id.encode("utf-8", "replace")).hexdigest()
    return f"antiphon:{{{tenant}/{digest}}}:approval"


def asked(tenant: str, approval_request_id: str) -> str:
    """String: a fingerprint of the call that the model asked to be approved (`shared/approvals.py`)."""
    digest = hashlib.sha256(approval_request_id.encode("utf-8", "replace")).hexdigest()
    return f"antiphon:{{{tenant}/{digest}}}:asked"


def session_user(digest: str) -> str:
    """String: the tool runner that used an MCP session last."""
    return f"antiphon:{{session/{digest}}}:user"


def readers(key: ResponseKey) -> str:
    """Sorted set: the readers of a foreground response's stream, by when (Redis, ms) they count as gone."""
    return READERS_PATTERN % str(key)


def live(key: ResponseKey) -> str:
    """Channel: entries as they are appended (see `event_log.Published`)."""
    return f"antiphon:{{{key}}}:live"


def open_responses(tenant: str) -> str:
    """Set: ids of a tenant's open responses, for its concurrency limit."""
    return f"antiphon:{{queue}}:open:{tenant}"


def held(tenant: str) -> str:
    """Sorted set: a tenant's responses that are open or not yet archived, and its pending token counts, by
    when (Redis, ms) they cease to count."""
    return f"antiphon:{{queue}}:held:{tenant}"


def held_bytes(tenant: str) -> str:
    """Hash: the bytes of each member of `held`, and their `total`."""
    return f"antiphon:{{queue}}:held_bytes:{tenant}"


def listed(tenant: str) -> str:
    """What the names of a tenant's index begin with: sorted sets of its stored responses by when (Redis, ms)
    they were created, `<this>/<group>/<member>` (`records/listed.lua`)."""
    return f"antiphon:{{queue}}:listed:{tenant}"


def rate(tenant: str) -> str:
    """Hash, if the tenant has limits a minute: `requests`, `tokens`: when (Redis, ms) each is whole again
    (`records/rate.lua`)."""
    return f"antiphon:{{queue}}:rate:{tenant}"


def outbox(tenant: str, webhook: str) -> str:
    """Sorted set: what a webhook of a tenant's has to deliver, `response_id status closed_ms failures`, by
    when (Redis, ms) it is due, or free again if a process is delivering it (`webhooks/outbox.lua`)."""
    return f"{OUTBOXES}:{tenant}/{webhook}"


def dead_letters(tenant: str) -> str:
    """Stream: what a tenant's webhooks gave up: fields webhook, entry (as in `outbox`) and reason."""
    return f"antiphon:{{queue}}:dead_letters:{tenant}"


def delivering(sender: str) -> str:
    """List: the name of a sender's last claim, then its reply, for a claim that is sent twice."""
    return f"antiphon:{{queue}}:delivering:{sender}"


def idempotency(tenant: str, idempotency_key: str) -> str:
    """String `<response_id> <sha256 of the body>`: the response that a create call with this key created."""
    digest = hashlib.sha256(idempotency_key.encode()).hexdigest()
    return f"antiphon:{{{tenant}/{digest}}}:idempotency"


def conversation(key: ConversationKey) -> str:
    """Hash: created_at, metadata (JSON), next (the last item's place), bytes (of all items), calls (the names
    of the last calls that added items), response and stored (the ids of the last
    one created in it, and of the last that is stored)."""
    return f"antiphon:{{{key}}}:conversation"


def conversation_items(key: ConversationKey) -> str:
    """Hash: item id -> its JSON."""
    return f"antiphon:{{{key}}}:items"


def conversation_order(key: ConversationKey) -> str:
    """Sorted set: item ids by place."""
    return f"antiphon:{{{key}}}:order"


def results(owner: str) -> str:
    """Channel: notifies one worker of tool results and of calls given back."""
    return f"antiphon:results:{owner}"


def handed_over(runner: str) -> str:
    """Channel: calls (`<response> <call_index>`) that other tool runners hand over to this one."""
    return f"antiphon:handed:{runner}"


def granted(owner: str) -> str:
    """Set: `tenant/response_id` of the responses whose leases a worker's last claim gave to it."""
    return f"antiphon:{{queue}}:granted:{owner}"


def hush(owner: str) -> str:
    """List without meaning: ends a worker's wait for the doorbell; while it exists, its claims take
    nothing."""
    return f"antiphon:{{queue}}:hush:{owner}"


def drain(worker: str) -> str:
    """String without meaning: asks a worker to hand over what it runs and to take nothing more."""
    return f"antiphon:{{presence}}:drain:{worker}"


def counts(name: str) -> str:
    """List of one element, the answer to one token count, or to its question for tools."""
    return f"antiphon:{{count/{name}}}:answer"


BELL_PATTERN = "antiphon:{queue}:bell:%s"
"""For scripts that find the worker's name themselves."""


def bell(worker: str) -> str:
    """List of wake-up tokens for one worker: something is kept for it. As a doorbell otherwise."""
    return BELL_PATTERN % worker


def queue_of(model: str) -> str:
    """The queue of responses for a model, or an adapter, other than the default model."""
    return f"{RESPONSES_QUEUE}@{model}"


def model_of(queue: str) -> str:
    """The model, or adapter, whose responses wait in a queue; empty for the default model."""
    return queue.partition("@")[2]


def takers(queue: str) -> str:
    """The presence key of the role that serves a queue."""
    return presence("tool_runner" if queue == TOOLS_QUEUE else "worker")


def doorbell(queue: str) -> str:
    """List of wake-up tokens for one queue, which are only hints; trimmed, and with a TTL."""
    return f"{queue}:doorbell"


def flow(tenant: str, tier: str) -> str:
    """What one tenant sends in one tier: its name within a queue's keys. `tier`: `count` for token counts."""
    return f"{tenant}/{tier}"


def waiting(queue: str, flow: str) -> str:
    """List: the waiting jobs of a flow, by arrival. `queue.lua` makes this name and the next five."""
    return f"{queue}:waiting:{flow}"


def turns(queue: str) -> str:
    """Sorted set: flows with waiting jobs, by when each has its next turn."""
    return f"{queue}:turns"


def costs(queue: str) -> str:
    """Hash: what a turn of each of these flows costs; in the field '', when the last turn was."""
    return f"{queue}:costs"


def flows(queue: str) -> str:
    """Hash: the flow of each job that waits in one."""
    return f"{queue}:flows"


def homes(queue: str) -> str:
    """Hash: of jobs that are kept for a worker, `worker until_ms` (`homes.lua`)."""
    return f"{queue}:homes"


def home(queue: str, worker: str, flow: str) -> str:
    """List: the jobs of a flow that are kept for a worker, by arrival, and some that have gone."""
    return f"{queue}:home:{worker}/{flow}"


def prefix(queue: str, tenant: str, digest: str) -> str:
    """String: the worker that has begun the last response of a tenant's with this `prompt_cache_key`, for ten
    minutes. `digest`: of that key, which clients choose (`NewResponse.prefix`)."""
    return f"{queue}:prefix:{tenant}/{digest}"


def loads(queue: str) -> str:
    """Sorted set: the workers of a queue, by how full each is, of 1,000."""
    return f"{queue}:loads"


def front(queue: str) -> str:
    """Sorted set: jobs that are taken before all turns, and those that are locked."""
    return f"{queue}:front"


def large(queue: str) -> str:
    """Sorted set: jobs that have had their turn and wait for a taker with room for their bytes."""
    return f"{queue}:large"


def job(job_id: str) -> str:
    """arq's key for a queued job; arq fixes the prefix."""
    return f"arq:job:{job_id}"


PRESENCE_TTL_S = 3.0
"""How long an announcement of a process or a reader lasts; it is repeated three times meanwhile."""


def presence(role: str) -> str:
    """Sorted set: process names of a role, by the time (Redis, ms) at which they count as gone."""
    return f"antiphon:{{presence}}:{role}"


def announcement(worker: str) -> str:
    """String, JSON: what a worker serves and what it is doing (`owning/fleet.py`)."""
    return f"antiphon:{{presence}}:about:{worker}"
