"""The Responses API's nouns: output items, usage, the response object, and the request as stored.

Owns shapes only; `lifecycle.py` owns the transitions, `events.py` the events. Source of names and fields: the
public OpenAI types, where `created_at` is in seconds.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from shared.client_tools import AnyClientCall
from shared.hosted_tools import AnyHostedToolCall, CallItem
from shared.input_items import InputItem, SummaryText
from shared.trace_origin import TraceOrigin

ItemStatus = Literal["in_progress", "completed", "incomplete", "failed"]
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
IncompleteReason = Literal["max_output_tokens", "content_filter"]
Phase = Literal["commentary", "final_answer"]

Dialect = Literal["openai", "vllm", "open-responses"]
"""How the events of a response are named: as OpenAI's clients know them, as vLLM named the parts of reasoning
(`response.reasoning_part.added`, `.done`), or as the Open Responses specification names its text
(`response.reasoning.delta`, `.done`)."""

TERMINAL: frozenset[str] = frozenset({"completed", "incomplete", "failed", "cancelled"})


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


class TopLogprob(msgspec.Struct, frozen=True):
    """An alternative token at a position. `bytes`: as in Logprob."""

    token: str
    bytes: tuple[int, ...]
    logprob: float


class Logprob(msgspec.Struct, frozen=True):
    """A token of a text. `bytes` is exact; `token` is not if the token ends within a character."""

    token: str
    bytes: tuple[int, ...]
    logprob: float
    top_logprobs: tuple[TopLogprob, ...] = ()


class UrlCitation(msgspec.Struct, frozen=True, tag_field="type", tag="url_citation"):
    """A citation of a page. `start_index`, `end_index`: where the model's mark begins, and where what follows
    it begins, in characters (code points) of the text."""

    start_index: int
    end_index: int
    title: str
    url: str


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str
    annotations: tuple[UrlCitation, ...] = ()
    logprobs: tuple[Logprob, ...] = ()


Part = ReasoningText | OutputText


SEALED_REASONING = "reasoning.encrypted_content"
"""The `include` that asks for sealed reasoning."""


class Reasoning(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """What the model thought. `encrypted_content`: the same as `content`, sealed for clients that keep only
    that (`shared/sealing.py`); present only if the request includes it, and once the item is done."""

    id: str
    status: ItemStatus
    summary: tuple[SummaryText, ...] = ()
    content: tuple[ReasoningText, ...] = ()
    encrypted_content: str | None | msgspec.UnsetType = msgspec.UNSET
    """Null in older logs, which is read as if it were absent."""

    def __post_init__(self) -> None:
        if self.encrypted_content is None:
            msgspec.structs.force_setattr(self, "encrypted_content", msgspec.UNSET)


class Message(msgspec.Struct, frozen=True, tag_field="type", tag="message", omit_defaults=True):
    """A message of the model. `phase`: `commentary` for what it says on the way, `final_answer` for the
    answer; None only in records older than phases."""

    id: str
    status: ItemStatus
    role: Literal["assistant"]
    content: tuple[OutputText, ...]
    phase: Phase | None = None


class FunctionCall(CallItem, frozen=True, tag="function_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    namespace: str | msgspec.UnsetType = msgspec.UNSET
    """The namespace of the function, if it has one."""


class McpProtocolError(msgspec.Struct, frozen=True, tag_field="type", tag="mcp_protocol_error"):
    """The server, or a rule of ours, refused the call. `code`: as in JSON-RPC."""

    code: int
    message: str


class McpToolExecutionError(msgspec.Struct, frozen=True, tag_field="type", tag="mcp_tool_execution_error"):
    """The tool ran and reported that it failed. `content`: its report (MCP content blocks)."""

    content: Any


class HttpError(msgspec.Struct, frozen=True, tag_field="type", tag="http_error"):
    """The server could not be reached, or answered with an HTTP error.

    `code`: the status, or 0 for no answer.
    """

    code: int
    message: str


McpError = McpProtocolError | McpToolExecutionError | HttpError


class McpCall(CallItem, frozen=True, tag="mcp_call"):
    id: str
    status: ItemStatus
    server_label: str
    name: str
    arguments: str
    output: str | None = None
    error: McpError | None = None
    approval_request_id: str | None = None


class McpTool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool of an MCP server. What the server does not say has no key.

    `annotations`: in our own listings the server's hints, with `readOnlyHint` renamed to `read_only` as in
    the hosted API; a listing that a client sends may have either form.
    """

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    annotations: dict[str, Any] | None = None


class LeftOutTool(msgspec.Struct, frozen=True):
    """A tool that a server listed and that cannot be offered. `name`: its beginning, or its place."""

    name: str
    reason: str


class McpListTools(msgspec.Struct, frozen=True, tag_field="type", tag="mcp_list_tools", omit_defaults=True):
    """A listing of a server's tools.

    `error` is present only if there was one, since clients take the key itself for a failure. `left_out`,
    which the hosted API does not have, is present only if there are such tools.
    """

    id: str
    server_label: str
    tools: tuple[McpTool, ...]
    error: str | None = None
    left_out: tuple[LeftOutTool, ...] = ()


class McpApprovalRequest(msgspec.Struct, frozen=True, tag_field="type", tag="mcp_approval_request"):
    id: str
    server_label: str
    name: str
    arguments: str


class Compaction(msgspec.Struct, frozen=True, tag_field="type", tag="compaction"):
    """Stands for everything before it, which the model has summarised (`shared/compaction.py`).

    `encrypted_content`: what it stands for, sealed; empty until the item is done.
    """

    id: str
    encrypted_content: str


ServerCall = McpCall | AnyHostedToolCall
"""A call that runs here, as an item of an output; the other calls are the client's to run."""

Item = (
    Reasoning
    | Message
    | FunctionCall
    | AnyClientCall
    | ServerCall
    | McpListTools
    | McpApprovalRequest
    | Compaction
)


PerTurn = tuple[int, ...] | msgspec.UnsetType
"""Sent only with `enable_response_messages`, since some clients expect every detail to be a number."""


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    input_tokens_per_turn: PerTurn = msgspec.UNSET
    cached_tokens_per_turn: PerTurn = msgspec.UNSET


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int = 0
    tool_output_tokens: int = 0
    output_tokens_per_turn: PerTurn = msgspec.UNSET
    tool_output_tokens_per_turn: PerTurn = msgspec.UNSET


class Usage(msgspec.Struct, frozen=True):
    """The tokens of a response, summed over its turns; a turn is one generation between tool calls.

    `tool_output_tokens`: the prompt tokens that tool results added, which count as input too.
    """

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


ErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt", "context_length_exceeded"]
_ERROR_TYPES: dict[str, str] = {
    "server_error": "server_error",
    "rate_limit_exceeded": "rate_limit_error",
}


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response failed.

    `type`: the family of `code`, as in HTTP errors; by default derived from `code`.
    """

    code: ErrorCode
    message: str
    type: str = ""

    def __post_init__(self) -> None:
        if not self.type:
            msgspec.structs.force_setattr(self, "type", _ERROR_TYPES.get(self.code, "invalid_request_error"))


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: IncompleteReason


class ConversationReference(msgspec.Struct, frozen=True):
    id: str


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The response object as clients see it. Times are whole seconds since the epoch."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: ResponseStatus
    conversation: ConversationReference | None | msgspec.UnsetType = msgspec.UNSET
    """Absent if there is none; null only in older records."""
    completed_at: int | None = None
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: Any = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    model: str
    output: tuple[Item, ...] = ()
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning: Any = None
    safety_identifier: str | None = None
    service_tier: str = "default"
    """While the response is open, the tier requested; then the one that served it
    (`service_tiers.py`)."""
    store: bool = True
    temperature: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    text: Any = None
    tool_choice: Any = "auto"
    tools: tuple[dict[str, Any], ...] = ()
    top_logprobs: int = 0
    top_p: float = 1.0
    truncation: str = "disabled"
    usage: Usage | None = None
    user: str | None = None
    metadata: dict[str, str] = {}
    input_messages: list[dict[str, Any]] | None | msgspec.UnsetType = msgspec.UNSET
    output_messages: list[dict[str, Any]] | None | msgspec.UnsetType = msgspec.UNSET


class SamplingOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sampling parameters beyond those of the Responses API, named as in vLLM; not echoed."""

    seed: int | None = None
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    """Token id -> the value added to its logit."""


class CompactionRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a response's context is compacted: as its operator had set it when the request was accepted, so
    that every owner of the response does the same."""

    prompt: str
    """What the model is told, as a user's message, to have it write the summary."""
    share_max: float
    """The part of the conversation's tokens that may be left."""
    tokens_min: int
    """The number of tokens that may be left in any case."""
    threshold: int | None = None
    """The number of tokens beyond which the context is compacted after a turn; None: the request is for
    nothing but a compaction."""
    growth_share: float | None = None
    """By which part of the threshold a context must have grown beyond what the last compaction left, if that
    has more, to be compacted again; None, as in earlier records: it must have doubled."""
    answer_tokens: int | None = None
    """How much room an input must leave for the answer, or else it is compacted first; None, as in earlier
    records: any."""


class ResponseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A create call, validated and complete: the API writes it, the worker reads it.

    A string as `input` has become one user message. `tools`: the tools as sent, but without secrets: headers,
    authorization, and the parts of a `server_url` that may be secret are kept separately.
    """

    response: Response
    """The response as accepted: id, echo fields, no output."""
    input: list[InputItem]
    """The items of this call, each with an id."""
    context: list[InputItem] = []
    """The items before them, from earlier responses or the conversation."""
    tools: list[dict[str, Any]] = []
    enable_response_messages: bool = False
    include: list[str] = []
    sampling: SamplingOptions = SamplingOptions()
    dialect: Dialect = "openai"
    approved: list[str] | None = None
    """The ids of the questions whose calls the client has approved and the API has found to be those that the
    model asked about. None in records of before they were compared."""
    compaction: CompactionRules | None = None
    """None: its context is never compacted."""
    sent: list[InputItem] = []
    """The items of this call as they were sent, if there are compactions among them, which `input` holds
    opened; otherwise empty."""
    trace: TraceOrigin | UnsetType = UNSET
    """Unset without traces (`shared/traces.py`)."""


class ServerSecrets(msgspec.Struct, frozen=True):
    """A request's secrets for one MCP server; never echoed, deleted when the response closes."""

    headers: dict[str, str] = {}
    authorization: str | None = None
    url: str | None = None
    """The whole `server_url`, if the request's record has only its scheme, host and port."""
