"""Every limit and address that an operator may set, with its unit last. Reads ANTIPHON_* variables.

Owns defaults and bounds; each role reads the same class, so one environment fits all roles.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, IPvAnyNetwork, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shared import hosted_tools
from shared.redis_url import read_sentinel_url
from shared.responses import Dialect
from shared.setting_types import PortRange, check_key

_log = logging.getLogger(__name__)

FORMER_NAMES = {"attempts_max": "owners_lost_max", "compact_after_s": "archive_after_s"}
"""Former name of a setting -> its name now. A former name works for one release, with a warning."""


KeepAliveForm = Literal["comment", "event"]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="ANTIPHON_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    redis_url: str = "redis://127.0.0.1:6379/0"
    """The URL of a server, or of the Sentinels that know the server (`shared/redis_url.py`)."""
    durable_writes: Literal["no", "aof", "replica"] = "no"
    """What a write (a new response, an event, a tool call, its result) waits for before it counts: nothing,
    the server's disk (WAITAOF), or the memory of replicas (WAIT)."""
    durable_replicas: Literal["all"] | Annotated[int, Field(gt=0)] = "all"
    """For `replica`: the number of replicas, or all that could be promoted
    (`shared/store/redis/confirmation.py`)."""
    secrets_key: SecretStr | None = None
    """32 random bytes in URL-safe base64. While a response runs, this key seals its request's secrets for MCP
    servers (headers, authorization, a `server_url` that may hold a secret). If None, such a request is
    refused, or on a developer's machine (no `api_keys`) stored unsealed."""
    seal_keys: list[SecretStr] = Field([], max_length=16)
    """Keys in the form of `secrets_key`. They seal the texts that clients carry for a response and send back
    with a later request (`reasoning.encrypted_content`): the first one seals, all of them open. If there is
    none, a request for such a text is refused."""
    cell: str = Field("0", pattern=r"^[a-z0-9]{1,8}$")
    """The name of the Redis primary (with its replicas) that holds a response; part of every id."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    # API
    api_keys: Path | None = None
    """A JSON file of tenants, with their keys, limits and webhooks (`shared/tenants_file.py`). If None, any
    key is accepted, including no key; all clients are one tenant, and the API binds to loopback only."""
    open_hosts: list[str] = []
    """Without `api_keys`: names and addresses, in addition to loopback, by which this node may be called."""
    cors_origins: list[str] = []
    """Origins whose pages may call this node, as browsers write them: `https://app.example`."""
    models: list[str] = Field(["default"], min_length=1)
    """Model names that requests may use; `default` stands for the first."""
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

    # Log
    response_retention_s: int = Field(30 * 86_400, gt=0)
    unstored_grace_s: int = Field(60, gt=0)
    """How long the log of a `store: false` response outlives its close, for its own reader."""
    tenant_retention_s: dict[str, int] = {}
    """Maps tenants to their own `response_retention_s`."""
    archive_after_s: float = Field(30.0, ge=0)
    """How long after its close a log is turned into a compressed archive."""
    live_ttl_s: int = Field(86_400, gt=0)
    """The TTL of an open response's keys, renewed by every beat and every ring: how long an accepted response
    outlives an outage of all API nodes and workers."""

    redis_outage_max_s: float = Field(30.0, gt=0)
    """How long a worker keeps what it could not append, and retries."""

    # Lease
    lease_ttl_s: float = Field(1.5, gt=0)
    owners_lost_max: int = Field(5, gt=0)
    """A response that has lost this many owners is closed as `failed`. Handing over counts as no loss."""
    sweep_interval_s: float = Field(0.25, gt=0)
    ring_again_s: float = Field(2.0, gt=0)
    """How often the doorbell is rung again for a response without an owner."""

    # Worker
    responses_in_flight_max: int = Field(512, gt=0)
    """Responses and token counts that one worker handles at a time."""
    tenant_worker_share_max: float = Field(0.5, gt=0, le=1)
    """The part of `responses_in_flight_max` that one tenant may have while others wait."""
    records_bytes_max: int = Field(64 * 2**20, gt=0)
    """The records of 64 KiB or more among those (`shared/store/job_queue.py`), as JSON; one that exceeds the
    limit is taken if there is no other. In memory they take about seven times as much."""
    flush_budget_ms: float = Field(25.0, ge=0, le=1000)
    """How long a worker may hold a token, so that it leaves together with its response's next one; 0: every
    token leaves at once. The whole budget is used from 32 generations on, and none of it by a single one."""
    drain_grace_s: float = Field(1.0, gt=0)
    engine: Literal["scripted", "vllm"] = "scripted"
    script: Path | None = None
    engine_silence_max_s: float = Field(120.0, gt=0)
    """An engine that has requests but produces no token for this long counts as dead; its worker exits."""
    engine_args: str = ""
    """Arguments for the engine `vllm`: vLLM's flags, or the path of a YAML file with them (it ends in
    `.yaml` or `.yml`). A worker's `--engine-args` takes precedence."""
    context_tokens_max: int = Field(131_072, gt=0)
    answer_tokens_reserved: int = Field(1_024, ge=0)
    """If a format or a call is demanded, reasoning leaves this many of the turn's tokens to the answer, but
    at most half of them. As much room, again at most half, is made in a context that tool outputs outgrow."""
    approval_default: Literal["always", "never"] = "never"
    """`require_approval` of an `mcp` tool that does not say so, if the operator configured its server."""
    approval_default_for_urls: Literal["always", "never"] = "always"
    """The same for a server that the request gives a URL for."""
    tool_calls_max: int = Field(128, gt=0)
    """Server-side tool calls of one response; `max_tool_calls` of a request may lower it."""

    idempotent_tools: list[str] = list(hosted_tools.REPEATABLE)
    """`label.tool` of MCP tools that may be called again if it is unknown whether they ran, in addition to
    those whose annotations say so. The built-in servers keep nothing of a call that did not return; remove
    their functions if another server has the label."""

    # Tool runner
    tool_calls_in_flight_max: int = Field(256, gt=0)
    tool_calls_waiting_max: int = Field(4_096, gt=0)
    """Calls that one tool runner has taken in addition and that wait for a share or a sandbox."""
    tenant_share_max: float = Field(0.5, gt=0, le=1)
    """The part of a tool runner's calls in flight, and of its sandboxes, that one tenant may use."""
    python_tool: Literal["monty", "cpython"] = "monty"
    """The sandbox of the built-in Python, as workers describe it and tool runners run it: Monty, or CPython
    behind bubblewrap. Set the same for all."""
    python_path: Path | None = None
    """The Python that runs the code of `cpython`, with its packages; None: the one that runs the tool runner,
    without the tool runner's packages."""
    sandboxes_max: int = Field(0, ge=0)
    """Processes of the built-in Python on one tool runner; 0: two per CPU, at least four."""
    tool_timeout_s: float = Field(120.0, gt=0)
    """How long a call may take without a report of progress from its server."""
    tool_progress_max_s: float = Field(600.0, ge=0)
    """How long a call may take in all if its server reports progress; at least `tool_timeout_s`."""
    tool_claim_ttl_s: float = Field(1.5, gt=0)
    """A runner that has not renewed its claim on a call for this long, although Redis was available, counts
    as lost. Claims are renewed three times as often."""
    tool_output_bytes_max: int = Field(256 * 1024, gt=0)
    tool_listing_ttl_s: float = Field(60.0, ge=0)
    """How long a tool runner uses the listing of an MCP server over HTTP for further responses; 0: never."""
    tool_listings_bytes_max: int = Field(32 * 2**20, ge=0)
    """The listings that one tool runner keeps for that time."""
    tool_schema_bytes_max: int = Field(64 * 1024, gt=0)
    """The schema of one tool of an MCP server; a tool with a larger one is left out of the listing."""
    tool_session_bytes_max: int = Field(2**20, gt=0)
    web_search: Literal["refused", "local", "server"] = "refused"
    """Whether requests may ask for web search (`web_search`, `web_search_preview`), and who answers: the
    built-in server, which searches the folder `search_pages`, or the server of that label in
    `mcp_servers`."""
    search_pages: Path | None = None
    """The folder that the built-in search server searches; None: the pages about this project that ship."""
    tool_session_idle_s: float = Field(600.0, gt=0)
    """How long after the end of the last response that used it an MCP server's session is kept for a response
    that continues it. Nothing can continue one with `store: false`, whose session ends with it."""
    tool_session_age_max_s: float = Field(86_400.0, gt=0)
    """An MCP server's session that is older is not used by a further call."""
    tool_sessions_max: int = Field(4_096, gt=0)
    """MCP servers' sessions that one tool runner looks after; the least recently used one beyond it ends."""
    tool_processes_max: int = Field(32, gt=0)
    """Processes of stdio servers with `per_response` on one tool runner; the least recently used one beyond
    it ends."""
    tool_retry_after_max_s: float = Field(30.0, ge=0)
    """How long one request to an MCP server waits in all because the server is busy (429 with
    `retry-after`)."""
    tool_connection_idle_s: float = Field(4.0, gt=0)
    """How long an idle HTTP connection to an MCP server is kept: shorter than the 5 s after which most
    servers close one, because a call that crosses such a close fails."""
    tool_connections_idle_max: int = Field(256, ge=0)
    """Pools of idle HTTP connections, one for each MCP server and its credentials, that a tool runner
    keeps."""
    mcp_servers: Path | None = None
    """A JSON file {label: {"url": …, "headers": …} | {"command": …, "args": […], "env": …}}; a command may
    have "per_response"."""

    # Egress: where the `server_url` of a request may lead; servers in `mcp_servers` are exempt
    egress_hosts: list[str] = []
    """Host names that may be called wherever they lead: whoever controls their DNS is trusted."""
    egress_networks: list[IPvAnyNetwork] = []
    """Networks and addresses that may be called although they are not public (loopback, private …)."""
    egress_ports: list[PortRange] = ["80", "443", "1024-65535"]
    egress_schemes: list[Literal["https", "http"]] = ["https", "http"]

    # Webhooks: deliveries of the ends of responses (`shared/tenants_file.py` says where to)
    webhook_responses: Literal["background", "all"] = "background"
    """Whose ends are delivered; never those of responses with `store: false`."""
    webhook_timeout_s: float = Field(10.0, gt=0, le=300)
    webhook_retry_first_s: float = Field(5.0, gt=0)
    """How long after its first failure a delivery is tried again; each further wait is twice as long."""
    webhook_retry_max_s: int = Field(72 * 3_600, ge=0)
    """How long after the end of its response a delivery is tried for the last time."""
    webhook_waiting_max: int = Field(100_000, gt=0)
    """Deliveries of one webhook that wait; further ones become dead letters."""
    webhooks_in_flight_max: int = Field(256, gt=0)
    """Deliveries that one process makes at a time."""
    tenant_webhooks_in_flight_max: int = Field(8, gt=0)
    """Those of one tenant among them."""
    dead_letters_max: int = Field(1_000, gt=0)
    """Deliveries that were given up, of one tenant; the oldest ones beyond it are dropped."""
    dead_letter_retention_s: int = Field(30 * 86_400, gt=0)

    @property
    def webhook_claim_s(self) -> float:
        """How long a process has for a delivery until another one may make it."""
        return 2 * self.webhook_timeout_s + 5

    @property
    def tool_run_max_s(self) -> float:
        """How long a tool runner may take for one call."""
        return max(self.tool_timeout_s, self.tool_progress_max_s)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Reads arguments first, then variables, then variables under their former names."""
        former = EnvSettingsSource(settings_cls)
        former.env_vars = _rename_former(former.env_vars)
        return init_settings, env_settings, former

    @field_validator("redis_url")
    @classmethod
    def _names_a_server(cls, url: str) -> str:
        read_sentinel_url(url)
        return url

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not re.fullmatch(
                r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?", origin
            ):
                raise ValueError("an origin is scheme://host or scheme://host:port, in lower case")
        return origins

    @field_validator("secrets_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            check_key(key)
        return key

    @field_validator("seal_keys")
    @classmethod
    def _are_keys(cls, keys: list[SecretStr]) -> list[SecretStr]:
        for key in keys:
            check_key(key)
        return keys

    @model_validator(mode="after")
    def _workers_cannot_read_secrets(self) -> Self:
        if self.secrets_key in self.seal_keys:
            raise ValueError("seal_keys, which workers have, must not contain secrets_key")
        return self

    @model_validator(mode="after")
    def _a_body_finds_room(self) -> Self:
        if self.bodies_bytes_max < 2 * self.body_bytes_max:
            raise ValueError("bodies_bytes_max must be at least twice body_bytes_max")
        return self

    @model_validator(mode="after")
    def _drain_ends_before_the_lease(self) -> Self:
        if self.drain_grace_s >= self.lease_ttl_s:
            raise ValueError("drain_grace_s must be less than lease_ttl_s")
        return self


def _rename_former(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Returns the variables that are set under a former name, under the present one. Names are lower-case."""
    renamed: dict[str, str | None] = {}
    for former, present in FORMER_NAMES.items():
        value = variables.get(f"antiphon_{former}")
        if value is not None:
            renamed[f"antiphon_{present}"] = value
            _log.warning(
                "ANTIPHON_%s is now called ANTIPHON_%s; the next release ignores the former name",
                former.upper(),
                present.upper(),
            )
    return renamed
