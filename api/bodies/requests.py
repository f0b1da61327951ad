"""Reads the body of a create call: checks its fields, and makes the request. Nothing is written before that.

Pure. Owns the fields, their limits and the echo; `input_items.py` owns items, `tools.py` tools. Source: the
public OpenAI types, `ResponseCreateParams`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import AfterValidator, Field

from api.bodies.context_management import read_context_management
from api.bodies.includes import Include, check_include
from api.bodies.input_items import adopt_items, read_input
from api.bodies.json_body import decode_object
from api.bodies.json_schemas import check_schema
from api.bodies.tool_choice import read_choice
from api.bodies.tools import ApprovalDefaults, RequestTools, UnsupportedTools
from api.bodies.validation import Checked, ClosedShape, Metadata, Shape, at_most, check, check_kind
from api.errors import (
    invalid_prefix,
    invalid_value,
    model_not_found,
    moved_parameter,
    mutually_exclusive,
    unknown_parameter,
    unsupported_parameter,
)
from shared.compaction import DEFAULT_RULES
from shared.input_items import AskedItem
from shared.responses import (
    CompactionRules,
    Dialect,
    Response,
    ResponseRequest,
    SamplingOptions,
    ServerSecrets,
)

DEFAULT_MODEL = "default"
"""Another name for the first of the configured models."""

T = TypeVar("T")

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

_TOKENS = 201_088
"""The number of token ids in the vocabulary, from 0."""


def _check_token(text: str) -> str:
    if int(text) >= _TOKENS:
        raise ValueError(f"token ids are 0 to {_TOKENS - 1}")
    return text


_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,5})$"), AfterValidator(_check_token)]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_SummaryStyle = Literal["auto", "concise", "detailed"]


class _ReasoningOptions(ClosedShape):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: _SummaryStyle | None = None
    generate_summary: _SummaryStyle | None = None
    """The former name of `summary`."""
    context: Any = None  # no effect, as docs/api.md says
    mode: Any = None  # no effect


class _TextOptions(ClosedShape):
    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _StreamOptions(ClosedShape):
    include_obfuscation: bool | None = None


class _PlainFormat(ClosedShape):
    type: str


class _JsonSchemaFormat(ClosedShape):
    type: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


_FORMATS: Mapping[str, type[Shape]] = {
    "text": _PlainFormat,
    "json_object": _PlainFormat,
    "json_schema": _JsonSchemaFormat,
}


class CreateBody(Shape):
    """The fields of a create call; null is the same as absent."""

    model: Annotated[str, Field(max_length=256)] | None = None
    input: Any = None
    instructions: str | None = None
    context_management: Any = None
    include: Checked[Include] | None = None
    max_output_tokens: _Count | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None
    metadata: Metadata | None = None
    parallel_tool_calls: bool | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[dict[_TokenId, _Bias], at_most(1024)] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    reasoning: _ReasoningOptions | None = None
    safety_identifier: str | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    text: _TextOptions | None = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None
    enable_response_messages: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None


class _ConversationReference(ClosedShape):
    id: Annotated[str, Field(max_length=128)]


@dataclass(frozen=True, slots=True)
class Creation:
    """One create call, checked: what is stored, what is kept separately, and how it is to be answered."""

    request: ResponseRequest
    """Without its input, which may still contain references (`items`)."""
    items: Sequence[AskedItem]
    secrets: Mapping[str, ServerSecrets]
    is_streamed: bool
    conversation_id: str | None = None
    secret_param: str | None = None
    """The field with the first of the secrets."""
    ignored_tools: tuple[str, ...] = ()
    """The types of the tools that were left out (`unsupported_tools`)."""
    is_refused_if_long: bool = False
    """A prompt that is too long is refused even if the call streams, whose events would say so too."""
    tool_places: tuple[int, ...] = ()
    """Where each of the request's tools stood in the body."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How many items, tools and values a request may have, and what it may not ask for
    (`shared/settings.py`)."""

    items_max: int
    tools_max: int
    values_max: int
    refused: Collection[str] = ()
    """Parameters that the engine does not support."""
    approvals: ApprovalDefaults = field(default_factory=ApprovalDefaults)
    unsupported_tools: UnsupportedTools = "refuse"
    has_search: bool = True
    """Somebody answers web searches."""
    compaction: CompactionRules = DEFAULT_RULES


@dataclass(frozen=True, slots=True)
class Birth:
    """What the server, not the request's body, determines about a response."""

    response_id: str
    created_at_s: int
    dialect: Dialect = "openai"


def read_create(raw: bytes, birth: Birth, models: Sequence[str], limits: RequestLimits) -> Creation:
    """Reads a whole body. Raises ClientError naming the first invalid field."""
    return read_fields(decode_object(raw, limits.values_max), birth, models, limits)


def read_fields(
    fields: Mapping[str, Any], birth: Birth, models: Sequence[str], limits: RequestLimits
) -> Creation:
    """Does what `read_create` does, for a body that is decoded already."""
    _refuse_unknown(fields)
    body = check(CreateBody, fields)
    _refuse_unsupported(body, limits)
    conversation_id = _read_conversation(body)
    if body.previous_response_id is not None:
        _check_id(body.previous_response_id, "resp", "previous_response_id")
    is_continuing = conversation_id is not None or body.previous_response_id is not None
    items = read_input(body.input, limits.items_max, is_continuing=is_continuing)
    items = adopt_items(items, birth.response_id)
    offer = RequestTools.read(
        body.tools,
        limits.tools_max,
        limits.approvals,
        limits.unsupported_tools,
        has_search=limits.has_search,
    )
    choice = read_choice(body.tool_choice, offer.tools, limits.tools_max, offer.ignored)
    response = _echo(body, birth, choose_model(body.model, models), offer, choice)
    request = ResponseRequest(
        response=response,
        input=[],
        tools=offer.tools,
        enable_response_messages=bool(body.enable_response_messages),
        include=list(body.include or ()),
        sampling=_read_sampling(body),
        dialect=birth.dialect,
        compaction=read_context_management(body.context_management, limits.compaction),
    )
    return Creation(
        request,
        items,
        offer.secrets,
        bool(body.stream),
        conversation_id,
        offer.secret_param,
        offer.ignored,
        tool_places=offer.places,
    )


def _read_sampling(body: CreateBody) -> SamplingOptions:
    """Returns the sampling options; a `top_k` of 0 or -1 means none, as in vLLM."""
    return SamplingOptions(
        seed=body.seed,
        top_k=body.top_k if body.top_k and body.top_k > 0 else None,
        min_p=_or(body.min_p, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
    )


def _read_conversation(body: CreateBody) -> str | None:
    given = body.conversation
    if given is None:
        return None
    if body.previous_response_id is not None:
        raise mutually_exclusive("previous_response_id", "conversation")
    named = given if isinstance(given, str) else check(_ConversationReference, given, ("conversation",)).id
    _check_id(named, "conv", "conversation")
    return named


def _check_id(text: str, prefix: str, param: str) -> None:
    """Raises ClientError unless the text has the form of such an id, ours or another server's."""
    if not text.startswith(prefix):
        raise invalid_prefix(param, text, prefix, "invalid_id_prefix")
    if not _ID.fullmatch(text):
        reason = "an ID contains letters, numbers, underscores, or dashes, and nothing else"
        raise invalid_value(param, reason)


def choose_model(name: str | None, models: Sequence[str]) -> str:
    """Returns the model's name. Raises ClientError if it is not configured."""
    if name is None or name == DEFAULT_MODEL:
        return models[0]
    if name not in models:
        raise model_not_found(name)
    return name


_WITHOUT_EFFECT = frozenset(
    {"access_programs", "background_options", "client_metadata", "prompt_cache_options"}
)
"""Known to the public API or its clients, but without any effect on an answer here."""
_UNSUPPORTED = frozenset({"image", "moderation"})
_MOVED = {
    "function_call": "tool_choice",
    "functions": "tools",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}
"""Maps parameters of another API to their place in the Responses API."""


def _refuse_unknown(fields: Mapping[str, Any]) -> None:
    """Reports a misspelt parameter instead of ignoring it (docs/adr/0026)."""
    for name in fields.keys() - CreateBody.model_fields.keys() - _WITHOUT_EFFECT:
        if fields[name] is None:
            continue
        if name in _MOVED:
            raise moved_parameter(name, _MOVED[name])
        if name in _UNSUPPORTED:
            raise unsupported_parameter(name, "This server does not have it.")
        raise unknown_parameter(name)


def _refuse_unsupported(body: CreateBody, limits: RequestLimits) -> None:
    """Reports what this server cannot do, instead of silently ignoring it."""
    for name in limits.refused:
        if getattr(body, name):
            raise unsupported_parameter(name, "The engine of this server is configured without it.")
    check_include(body.include or (), ignores_tools=limits.unsupported_tools == "ignore")
    if body.prompt is not None:
        raise unsupported_parameter("prompt", "Send its text in `instructions` or `input`.")


def _echo(
    body: CreateBody, birth: Birth, model: str, offer: RequestTools, choice: str | dict[str, Any]
) -> Response:
    """Returns the response as accepted: every field of the request echoed, with defaults for null."""
    return Response(
        id=birth.response_id,
        created_at=birth.created_at_s,
        status="queued" if body.background else "in_progress",
        background=bool(body.background),
        previous_response_id=body.previous_response_id,
        model=model,
        tools=offer.echoed,
        tool_choice=choice,
        text=_echo_text(body.text),
        reasoning=_echo_reasoning(body.reasoning),
        store=_or(body.store, True),
        service_tier=_or(body.service_tier, "auto"),
        parallel_tool_calls=_or(body.parallel_tool_calls, True),
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        top_logprobs=_or(body.top_logprobs, 0),
        truncation=_or(body.truncation, "disabled"),
        metadata=_or(body.metadata, {}),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        prompt_cache_key=body.prompt_cache_key,
        prompt_cache_retention=_echo_retention(body.prompt_cache_retention),
        safety_identifier=body.safety_identifier,
        user=body.user,
        input_messages=None if body.enable_response_messages else msgspec.UNSET,
        output_messages=None if body.enable_response_messages else msgspec.UNSET,
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _echo_reasoning(reasoning: _ReasoningOptions | None) -> dict[str, Any]:
    if reasoning is None:
        return {"effort": "medium", "summary": None}
    summary, former = reasoning.summary, reasoning.generate_summary
    if summary is not None and former is not None and summary != former:
        raise invalid_value("reasoning.generate_summary", "`summary`, its present name, says something else")
    return {"effort": reasoning.effort or "medium", "summary": summary or former}


def _echo_retention(retention: str | None) -> str | None:
    """Returns the retention in its present spelling; older clients write `in-memory`."""
    return retention.replace("-", "_") if retention else None


def _echo_text(text: _TextOptions | None) -> dict[str, Any]:
    text = text or _TextOptions()
    return {"format": _read_format(text.format), "verbosity": text.verbosity or "medium"}


def _read_format(value: dict[str, Any] | None) -> dict[str, Any]:
    if value is None:
        return {"type": "text"}
    chosen = check_kind(_FORMATS, value, ("text", "format"))
    if chosen["type"] != "json_schema":
        return {"type": chosen["type"]}
    schema = check(_JsonSchemaFormat, chosen, ("text", "format"))
    check_schema(schema.schema_, ("text", "format", "schema"))
    return {
        "type": "json_schema",
        "name": schema.name,
        "description": schema.description,
        "schema": schema.schema_,
        "strict": bool(schema.strict),
    }
