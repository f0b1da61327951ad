"""Every limit and address that an operator may set, with its unit last. Reads ANTIPHON_* variables.

Owns defaults and bounds; each role reads the same class, so one environment fits all roles.
"""

import base64
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, IPvAnyNetwork, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.redis_url import read_sentinel_url


def _check_range(text: str) -> str:
    ports = [int(end) for end in text.split("-")]
    if not 1 <= ports[0] <= ports[-1] <= 65_535:
        raise ValueError("ports are 1 to 65535, the lower one first")
    return text


_PortRange = Annotated[str, Field(pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$"), AfterValidator(_check_range)]
"""A port, or the first and the last of a range: `443`, `1024-65535`."""


KeepAliveForm = Literal["comment", "event"]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="ANTIPHON_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    redis_url: str = "redis://127.0.0.1:6379/0"
    """A server, or Sentinels that know which one it is (`shared/redis_url.py`)."""
    durable_writes: Literal["no", "aof", "replica"] = "no"
    """What a new response, an event, a tool call and its result wait for before they count: nothing, the
    server's disk (WAITAOF), or the memory of replicas (WAIT)."""
    durable_replicas: Literal["all"] | Annotated[int, Field(gt=0)] = "all"
    """Of `replica`: how many, or all that could be promoted (`shared/store/confirmation.py`)."""
    secrets_key: SecretStr | None = None
    """32 random bytes in URL-safe base64. What requests bring for their MCP servers (headers,
    authorization, a `server_url` that may hold a secret) is kept in Redis sealed with it while the response
    runs; without it, such a request is refused, or on a developer's machine (no `api_keys`) kept as it is."""
    cell: str = Field("0", pattern=r"^[a-z0-9]{1,8}$")
    """Names the Redis primary (with its replicas) that holds a response; part of every id."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    # API
    api_keys: Path | None = None
    """A JSON file of tenants, with their keys and limits (`api/tenants.py`). None: any key, one tenant,
    loopback only."""
    open_hosts: list[str] = []
    """Without `api_keys`: names and addresses, beside loopback, by which this node may be called."""
    cors_origins: list[str] = []
    """Origins whose pages may call this node from a browser, as browsers write them: `https://app.example`."""
    models: list[str] = Field(["default"], min_length=1)
    """Names that a request may use for the model; the first is the one that `default` means."""
    body_bytes_max: int = Field(8 * 2**20, gt=0)
    bodies_bytes_max: int = Field(256 * 2**20, gt=0)
    """Of all bodies that an API node holds at a time, as far as they have come."""
    queue_depth_max: int = Field(10_000, gt=0)
    tenant_responses_max: int = Field(1_000, gt=0)
    """Open responses of one tenant, waiting ones included."""
    tenant_bytes_max: int = Field(2**30, gt=0)
    """Requests of one tenant that Redis holds unpacked: of open responses, and of closed ones until their
    compaction. What is echoed counts as often as it is kept."""
    idempotency_retention_s: int = Field(86_400, gt=0)
    disconnect_grace_s: float = Field(5.0, ge=0)
    """A foreground response whose last reader has left is cancelled after this; 0: at once."""
    allow_unstored_background: bool = False
    """Accept `background` with `store: false`; such a response lives for `unstored_background_s`."""
    unstored_background_s: int = Field(600, gt=0)
    context_bytes_max: int = Field(16 * 2**20, gt=0)
    """The items of one request as JSON: what earlier responses or a conversation add, and its own input with
    every reference resolved."""
    json_values_max: int = Field(200_000, gt=0)
    """JSON values of one body, and of all items that one request reads (`shared/json_values.py`)."""
    items_max: int = Field(10_000, gt=0)
    """How many items those may be, together."""
    references_bytes_max: int = Field(64 * 2**20, gt=0)
    """The records of all responses that a request's item references lead to: what is read to resolve them."""
    tools_max: int = Field(1_024, gt=0)
    """Tools of one request, members of namespaces included; and entries of a `tool_choice` of several."""
    conversation_retention_s: int = Field(30 * 86_400, gt=0)
    """A conversation that nobody touches is kept this long."""
    client_buffer_bytes_max: int = Field(2**20, gt=0)
    keep_alive_s: float = Field(15.0, gt=0)
    """A keep-alive goes out on a stream this often."""
    keep_alive_form: KeepAliveForm = "comment"
    """A comment line, which no parser shows to a client; or an event `keepalive`, which has no number."""
    http_line_bytes_max: int = Field(16 * 2**10, gt=0)
    """Of an address with its query."""
    http_head_bytes_max: int = Field(64 * 2**10, gt=0)
    """Of all headers of one request, and of whatever else frames its body."""
    http_headers_max: int = Field(100, gt=0)
    http_pipelined_max: int = Field(16, gt=0)
    """Requests of one connection that may wait for the one before them; of more, none is read."""
    http_connections_max: int = Field(10_000, gt=0)
    http_excess_connections_max: int = Field(256, gt=0)
    """Connections beyond that, on which nothing is answered but whether the node lives and is ready."""
    http_head_timeout_s: float = Field(10.0, gt=0)
    """From a connection, or the first byte of a further request, to the end of the headers."""
    http_body_timeout_s: float = Field(60.0, gt=0)
    http_idle_timeout_s: int = Field(75, gt=0)
    """Longer than the idle time of usual proxies (60 s), so that it is they who close connections."""
    http_send_timeout_s: float = Field(120.0, gt=0)
    """A client that takes nothing of what waits for it is cut off after this."""
    http_linger_s: float = Field(2.0, gt=0)
    """A client that still sends when it has been answered has this long to read the answer: what is closed on
    unread data is reset, and a reset may take the answer with it."""
    redis_timeout_s: float = Field(2.0, gt=0)
    """How long one command may wait for Redis; a request then answers 503."""

    # Log
    response_retention_s: int = Field(30 * 86_400, gt=0)
    unstored_grace_s: int = Field(60, gt=0)
    """How long the log of a `store: false` response outlives its close, for its own reader."""
    tenant_retention_s: dict[str, int] = {}
    """tenant -> its own `response_retention_s`."""
    compact_after_s: float = Field(30.0, ge=0)
    """A closed log becomes a compressed archive after this."""
    live_ttl_s: int = Field(86_400, gt=0)
    """TTL of an open response's keys, renewed by every beat and every ring: how long everything that was
    accepted outlives an outage of all API nodes and workers."""

    redis_outage_max_s: float = Field(30.0, gt=0)
    """A worker holds what it could not append for this long, and tries again."""

    # Lease
    lease_ttl_s: float = Field(1.5, gt=0)
    attempts_max: int = Field(5, gt=0)
    sweep_interval_s: float = Field(0.25, gt=0)
    ring_again_s: float = Field(2.0, gt=0)
    """A response that nobody acquired is rung for again this often."""

    # Worker
    responses_in_flight_max: int = Field(512, gt=0)
    """Responses, and questions for a token count, that one worker has in hand."""
    records_bytes_max: int = Field(64 * 2**20, gt=0)
    """Of the records among those that have 64 KiB or more (`shared/store/job_queue.py`), as JSON; one that
    has more is taken when there is no other. In memory they take some seven times as much."""
    drain_grace_s: float = Field(1.0, gt=0)
    engine: Literal["scripted", "vllm"] = "scripted"
    script: Path | None = None
    engine_silence_max_s: float = Field(120.0, gt=0)
    """An engine that was asked for tokens and makes none for so long counts as dead, and its worker ends."""
    engine_args: str = ""
    """What the engine `vllm` is started with: flags as vLLM names them, or the path of a YAML file that
    has them (it ends in `.yaml` or `.yml`). A worker's `--engine-args` goes over it."""
    context_tokens_max: int = Field(131_072, gt=0)
    answer_tokens_reserved: int = Field(1_024, ge=0)
    """Where a format or a call is demanded, reasoning leaves so much of what a turn may have, but never
    more than half of it, to the answer. So much room, again of half at most, is made in a context that
    tools' answers outgrow."""
    tool_calls_max: int = Field(128, gt=0)
    """Server-side tool calls of one response; `max_tool_calls` of a request may lower it."""

    idempotent_tools: list[str] = ["code_interpreter.python"]
    """`label.tool` of MCP tools that may be called again when it is unknown whether they ran, beside
    those that are listed with annotations that say so. The built-in python keeps nothing of a call that
    did not return; take it out if another server has its label."""

    # Tool runner
    tool_calls_in_flight_max: int = Field(256, gt=0)
    tool_calls_waiting_max: int = Field(4_096, gt=0)
    """Calls that one tool runner has taken beside those, and that wait for a share or a sandbox."""
    tenant_share_max: float = Field(0.5, gt=0, le=1)
    """What part of a tool runner's calls in flight, and of its sandboxes, one tenant may have at a time."""
    sandboxes_max: int = Field(0, ge=0)
    """Processes of the built-in python on one tool runner; 0: two for each CPU, at least four."""
    tool_timeout_s: float = Field(120.0, gt=0)
    tool_claim_ttl_s: float = Field(1.5, gt=0)
    """A runner that has not renewed its claim on a call for so long, although Redis was there, counts as
    lost. It renews three times as often."""
    tool_output_bytes_max: int = Field(256 * 1024, gt=0)
    tool_session_bytes_max: int = Field(2**20, gt=0)
    mcp_servers: Path | None = None
    """A JSON file {label: {"url": …, "headers": …} | {"command": …, "args": […], "env": …}}."""

    # Egress: where the `server_url` of a request may lead; `mcp_servers` is not subject to it
    egress_hosts: list[str] = []
    """Host names that may be called wherever they lead: whoever answers for their DNS is trusted."""
    egress_networks: list[IPvAnyNetwork] = []
    """Networks and addresses that may be called although they are not public (loopback, private …)."""
    egress_ports: list[_PortRange] = ["80", "443", "1024-65535"]
    egress_schemes: list[Literal["https", "http"]] = ["https", "http"]

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
        if key is not None and len(base64.urlsafe_b64decode(key.get_secret_value().encode())) != 32:
            raise ValueError("it must be 32 bytes in URL-safe base64")
        return key

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
