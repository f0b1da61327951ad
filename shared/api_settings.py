"""The settings of API nodes: requests, tenants, connections, sockets. Part of `Settings`."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from shared.responses import Dialect
from shared.setting_types import CellName, CellNodes, KeepAliveForm, ModelName


class ApiSettings(BaseModel):
    api_keys: Path | None = None
    """A JSON file of tenants, with their keys, limits and webhooks (`shared/tenants_file.py`). If None, any
    key is accepted, including no key; all clients are one tenant, and the API binds to loopback only."""
    console_key: SecretStr | None = Field(None, min_length=16)
    """Who has it sees all tenants' responses in the console, under `/console`. None: there is no console."""
    console_cluster: Path | None = None
    """The local launcher's list of processes, which only the launcher sets: the console may then kill workers
    and has a playground."""
    open_hosts: list[str] = []
    """Without `api_keys`: names and addresses, in addition to loopback, by which this node may be called."""
    cors_origins: list[str] = []
    """Origins whose pages may call this node, as browsers write them: `https://app.example`."""
    models: list[str] = Field(["default"], min_length=1)
    """Names of the default model that requests may use, besides those that workers announce; `default` stands
    for the first."""
    pinned_models: list[ModelName] = []
    """Names of other models, and of adapters, that requests may use even while no worker serves them: their
    responses wait for one."""
    dialect: Dialect = "openai"
    """How the events of a response are named if its create call has no `Antiphon-Dialect` header."""
    compaction_prompt: str | None = Field(None, min_length=1, max_length=16_384)
    """What the model is told, as a message of the user's, to have it summarise a conversation; `{tokens}` in
    it is replaced by the number of tokens that the summary may have. None: `shared/compaction.py` has it."""
    compaction_share_max: float = Field(0.25, gt=0, le=1)
    """The part of a conversation's tokens that a compaction may leave, without the instructions."""
    compaction_tokens_min: int = Field(1_024, ge=256)
    """The number of tokens that it may leave in any case, however short the conversation."""
    refused_parameters: list[Literal["logit_bias", "min_p"]] = []
    """Parameters that the workers' engine, as it is configured, does not support."""
    unsupported_tools: Literal["refuse", "ignore"] = "refuse"
    """What becomes of a tool that no model here can use (docs/tools.md): the request is refused, or the tool
    is left out, as the answer's header `Antiphon-Ignored-Tools` says."""
    body_bytes_max: int = Field(8 * 2**20, gt=0)
    bodies_bytes_max: int = Field(256 * 2**20, gt=0)
    """All bodies together that an API node holds, as far as they have arrived."""
    queue_depth_max: int = Field(10_000, gt=0)
    tenant_responses_max: int = Field(1_000, gt=0)
    """Open responses of one tenant, including those that wait."""
    tenant_bytes_max: int = Field(2**30, gt=0)
    """Requests of one tenant that Redis holds uncompressed: those of open responses, and of closed ones until
    they are archived. What is echoed counts once for each copy."""
    tenant_listed_max: int = Field(100_000, gt=0)
    """Responses of one tenant that a list has: the newest, by each filter."""
    tenant_weight: float = Field(1.0, ge=0.01, le=100)
    """How many turns a tenant has in the queue for one of a tenant with the weight 1, while both wait."""
    affinity_s: float = Field(0.5, ge=0, le=60)
    """How long a continuation, or the next response with a `prompt_cache_key`, is kept for the worker that
    has its prefix in cache; 0: not at all."""
    affinity_margin: float = Field(0.25, ge=0, le=1)
    """It is not if that worker is fuller than half of the others by more than this part of its capacity."""
    tenant_requests_per_minute_max: int = Field(0, ge=0)
    """Create calls of one tenant; 0: as many as it likes. A minute's worth may come at once, and what counts
    wears off evenly. The same for tokens."""
    tenant_tokens_per_minute_max: int = Field(0, ge=0)
    """What the responses of one tenant read and write. Until a response has ended, about what its prompt has
    counts, and its `max_output_tokens`."""
    idempotency_retention_s: int = Field(86_400, gt=0)
    disconnect_grace_s: float = Field(5.0, ge=0)
    """A foreground response is cancelled this long after its last reader has left; 0: at once."""
    reader_return_s: float = Field(60.0, ge=0)
    """The same if its last readers were lost with their API node; at least `disconnect_grace_s`."""
    allow_unstored_background: bool = False
    """Accept `background` with `store: false`; such a response is kept for `unstored_background_s`."""
    unstored_background_s: int = Field(600, gt=0)
    context_bytes_max: int = Field(16 * 2**20, gt=0)
    """All items of one request as JSON: those of earlier responses or a conversation, and its own input with
    every reference resolved. Also the lists of tools that its servers give, together."""
    json_values_max: int = Field(200_000, gt=0)
    """JSON values of one body, and of all items that one request reads (`shared/json_values.py`)."""
    items_max: int = Field(10_000, gt=0)
    """The number of all those items."""
    references_bytes_max: int = Field(64 * 2**20, gt=0)
    """What may be read to resolve a request's item references: the records of all responses they refer to."""
    tools_max: int = Field(1_024, gt=0)
    """Tools of one request, including members of namespaces; also entries of a `tool_choice`."""
    conversation_retention_s: int = Field(30 * 86_400, gt=0)
    """How long an unused conversation is kept."""
    client_buffer_bytes_max: int = Field(2**20, gt=0)
    keep_alive_s: float = Field(15.0, gt=0)
    """How often a keep-alive is sent on a stream."""
    keep_alive_form: KeepAliveForm = "comment"
    """A comment line, which parsers ignore; or a `keepalive` event, which has no sequence number."""
    gzip_bytes_min: int = Field(1_024, ge=0)
    """JSON answers from this size on are compressed for clients that accept gzip."""
    http_line_bytes_max: int = Field(16 * 2**10, gt=0)
    """Limits the request target, including its query."""
    http_head_bytes_max: int = Field(64 * 2**10, gt=0)
    """Limits all headers of one request together, and whatever else frames its body."""
    http_headers_max: int = Field(100, gt=0)
    http_pipelined_max: int = Field(16, gt=0)
    """Requests that one connection may send before it is answered; no more are read."""
    http_connections_max: int = Field(10_000, gt=0)
    http_excess_connections_max: int = Field(256, gt=0)
    """Connections beyond that, on which only liveness and readiness are answered."""
    http_head_timeout_s: float = Field(10.0, gt=0)
    """From a connection, or the first byte of a further request, to the end of the headers."""
    http_body_timeout_s: float = Field(60.0, gt=0)
    http_idle_timeout_s: int = Field(75, gt=0)
    """Longer than the usual idle time of proxies (60 s), so that the proxy closes connections first."""
    http_send_timeout_s: float = Field(120.0, gt=0)
    """A client that reads nothing of what is waiting for it is disconnected after this."""
    http_linger_s: float = Field(2.0, gt=0)
    """A client that is still sending when it is answered has this long to read the answer. Closing with
    unread data resets the connection, and a reset can discard the answer."""
    sockets_max: int = Field(4_096, ge=0)
    """WebSockets of one API node; 0: none, and clients are told to use HTTP (426)."""
    socket_responses_max: int = Field(16, gt=0)
    """Responses in progress on one WebSocket; further ones wait."""
    socket_lanes_max: int = Field(32, ge=0)
    """Values of `stream_id` on one WebSocket."""
    socket_waiting_max: int = Field(64, gt=0)
    """Calls that may wait on one WebSocket besides those in progress, all lanes together."""
    socket_age_max_s: float = Field(3_600.0, gt=0)
    """After this a WebSocket takes no more calls, and is closed when its last response has ended."""
    socket_ping_s: float = Field(20.0, gt=0)
    """How often an API node pings the client of a WebSocket, and how long that may take to answer."""
    sockets_kept_bytes_max: int = Field(128 * 2**20, ge=0)
    """The records of unstored responses that the WebSockets of one API node keep, so that their clients can
    continue them."""
    redis_timeout_s: float = Field(2.0, gt=0)
    """How long one command may wait for Redis; after that, a request gets 503."""

    # Routers
    cells: dict[CellName, CellNodes] = {}
    """The cells in front of which a router stands, by their names (`cell` of all of their processes)."""
    cell_probe_s: float = Field(1.0, gt=0)
    """How often a router asks each API node whether it is ready."""
    cell_probe_timeout_s: float = Field(3.0, gt=0)
    """A node that has not answered by then is away."""
    cell_connect_timeout_s: float = Field(1.0, gt=0)
    """How long a router tries to connect to a node before it tries another."""

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not re.fullmatch(
                r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?", origin
            ):
                raise ValueError("an origin is scheme://host or scheme://host:port, in lower case")
        return origins

    @model_validator(mode="after")
    def _a_node_is_in_one_cell(self) -> Self:
        known: dict[str, str] = {}
        for name, cell in self.cells.items():
            for url in cell.nodes:
                if (other := known.setdefault(url.lower(), name)) != name:
                    raise ValueError(f"cells: {url} is a node of both {other} and {name}")
        return self

    @model_validator(mode="after")
    def _a_body_finds_room(self) -> Self:
        if self.bodies_bytes_max < 2 * self.body_bytes_max:
            raise ValueError("bodies_bytes_max must be at least twice body_bytes_max")
        return self
