"""Every limit and address that an operator may set, with its unit last. Reads ANTIPHON_* variables.

Owns defaults and bounds; each role reads the same class, so one environment fits all roles. Those of API
nodes and of tool runners stand in `api_settings.py` and `tool_settings.py`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shared import hosted_tools
from shared.api_settings import ApiSettings
from shared.logs import LogFormat
from shared.redis_url import read_sentinel_url
from shared.setting_types import ModelName, check_key
from shared.tool_settings import ToolSettings

_log = logging.getLogger(__name__)

FORMER_NAMES = {"attempts_max": "owners_lost_max", "compact_after_s": "archive_after_s"}
"""Former name of a setting -> its name now. A former name works for one release, with a warning."""


class Settings(ApiSettings, ToolSettings, BaseSettings):
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
    place: str = Field("", pattern=r"^[A-Za-z0-9.-]{0,253}$")
    """Where the process runs, such as a pod; part of the name under which the process announces itself."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: LogFormat = "text"
    """Lines of text, or a JSON object on each line (docs/admin.md)."""
    metrics_port: int = Field(0, ge=0, le=65_535)
    """Where the process answers GET /metrics, without a key; 0: nowhere. Each process of a machine needs its
    own."""
    metrics_host: str = "127.0.0.1"
    """The address to listen on for that."""
    traces: Literal["off", "otlp"] = "off"
    """Whether spans are sent, by OTLP, to where OpenTelemetry's own variables say (docs/traces.md)."""
    traces_content: bool = False
    """Spans of tool calls also have the arguments and the results of the calls."""

    # Log
    response_retention_s: int = Field(30 * 86_400, gt=0)
    unstored_grace_s: int = Field(60, gt=0)
    """How long the log of a `store: false` response outlives its close, for its own reader."""
    tenant_retention_s: dict[str, PositiveInt] = {}
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
    """The part of what a worker can run that one tenant may have there while others wait."""
    records_bytes_max: int = Field(64 * 2**20, gt=0)
    """The records of 64 KiB or more among those (`shared/store/job_queue.py`), as JSON; one that exceeds the
    limit is taken if there is no other. In memory they take about seven times as much."""
    flush_budget_ms: float = Field(25.0, ge=0, le=1000)
    """How long a worker may hold a token, so that it leaves together with its response's next one; 0: every
    token leaves at once. The whole budget is used from 32 generations on, and none of it by a single one."""
    drain_grace_s: float = Field(1.0, gt=0)
    served_models: list[ModelName] = []
    """The names of this worker's model, if it is not the default one. Its responses have a queue of their
    own, named after the first."""
    engine: Literal["scripted", "vllm"] = "scripted"
    script: Path | None = None
    script_adapters: list[ModelName] = []
    """The adapters that the engine `scripted` says it has."""
    script_sequences_max: int = Field(0, ge=0)
    """The generations that the engine `scripted` says it can run at once; 0: any number."""
    engine_silence_max_s: float = Field(120.0, gt=0)
    """An engine that has requests but produces no token for this long counts as dead; its worker exits."""
    engine_args: str = ""
    """Arguments for the engine `vllm`: vLLM's flags, or the path of a YAML file with them (it ends in
    `.yaml` or `.yml`). A worker's `--engine-args` takes precedence."""
    context_tokens_max: int = Field(131_072, gt=0)
    answer_tokens_reserved: int = Field(1_024, ge=0)
    """If a format or a call is demanded, reasoning leaves this many of the turn's tokens to the answer, but
    at most half of them. As much room, again at most half, is made in a context that may be made shorter."""
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
