"""Reads the body of a chat completion as that of a create call, whose reader checks it.

Pure. Owns which parameter becomes which, what of them is refused, and the names of parameters in errors;
`messages.py` owns the messages. Source: the public OpenAI types, `CompletionCreateParams`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from api.bodies.json_body import decode_object
from api.bodies.requests import Birth, Creation, RequestLimits, read_fields
from api.bodies.validation import Checked, Path, Shape, check, check_list, check_object, spell
from api.chat.messages import Origin, read_messages
from api.errors import (
    ClientError,
    invalid_type,
    invalid_value,
    missing_parameter,
    unknown_parameter,
    unsupported_parameter,
    unsupported_tool,
)

SAME = frozenset(
    {
        *("frequency_penalty", "logit_bias", "metadata", "min_p", "model", "parallel_tool_calls"),
        *("presence_penalty", "prompt_cache_key", "prompt_cache_retention", "repetition_penalty"),
        *("safety_identifier", "seed", "service_tier", "store", "stream", "temperature", "top_k"),
        *("top_logprobs", "top_p", "user"),
    }
)
"""Parameters that a create call has under the same name."""
TRANSLATED = frozenset(
    {
        *("logprobs", "max_completion_tokens", "max_tokens", "messages", "modalities", "n"),
        *("reasoning_effort", "response_format", "stop", "stream_options", "tool_choice", "tools"),
        "verbosity",
    }
)
WITHOUT_EFFECT = frozenset({"prediction", "prompt_cache_options"})
"""No answer could depend on them."""
REFUSED: Mapping[str, str] = {
    "audio": "The model writes text only.",
    "function_call": "Use 'tool_choice' instead.",
    "functions": "Use 'tools' instead.",
    "moderation": "This server does not have it.",
    "web_search_options": "Search the web by the tool `web_search` of /v1/responses.",
}

_STOPS_MAX, _STOP_CHARS_MAX = 4, 256
_LOGPROBS = "message.output_text.logprobs"
_KINDS = ("function", "custom")
_INPUT = re.compile(r"input\[(?P<index>[0-9]+)\](?P<rest>.*)", re.DOTALL)
_TOOL = re.compile(r"tools\[(?P<index>[0-9]+)\]\.(?P<rest>(?!type\b).*)", re.DOTALL)
_CHOICE = re.compile(r"tool_choice\.(?P<rest>(?!type\b).*)", re.DOTALL)
_ENTRY = re.compile(r"tools\[(?P<index>[0-9]+)\]\.(?P<rest>(?!type\b).*)", re.DOTALL)
_FORMAT = re.compile(r"text\.format\.(?P<rest>(?!type\b).*)", re.DOTALL)
_PREFIXES = {
    "input": "messages",
    "text.format": "response_format",
    "text.verbosity": "verbosity",
    "reasoning.effort": "reasoning_effort",
    "include": "logprobs",
}


@dataclass(frozen=True, slots=True)
class ChatForm:
    """How a chat call is to be answered."""

    stops: tuple[str, ...] = ()
    has_logprobs: bool = False
    has_usage: bool = False
    """The stream ends with the usage."""


class _Own(Shape):
    logprobs: bool | None = None
    modalities: Checked[str] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    top_logprobs: int | None = None


class _ChatStreamOptions(Shape):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatCall:
    """One chat call: reads its body, and knows how it is to be answered and what the client calls things."""

    def __init__(self) -> None:
        self.form = ChatForm()
        self._origins: list[Origin] = []
        self._limit = "max_completion_tokens"
        self._tools: list[object] = []
        self._choice: object = None
        self._is_read = False

    def read(self, raw: bytes, birth: Birth, models: Sequence[str], limits: RequestLimits) -> Creation:
        """Does what `read_create` does, for the body of a chat call."""
        fields = decode_object(raw, limits.values_max)
        _refuse_unknown(fields)
        own = check(_Own, fields)
        self.form = _read_form(own, fields.get("stop"))
        self._limit = _limit_in(fields)
        self._choice = fields.get("tool_choice")
        self._tools = _list_in(fields, "tools")
        body = self._translate(own, fields)
        self._is_read = True
        creation = read_fields(body, birth, models, limits)
        return replace(creation, is_refused_if_long=True)

    def _translate(self, own: _Own, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields of the create call."""
        items = read_messages(fields.get("messages"))
        self._origins = [origin for _, origin in items]
        body = {name: fields[name] for name in SAME if name in fields}
        body |= {"input": [item for item, _ in items], "store": _or_false(fields.get("store"))}
        body |= {"max_output_tokens": fields.get(self._limit)}
        body |= {"tools": _read_tools(self._tools) or None, "tool_choice": _read_choice(self._choice)}
        body |= {"text": _read_text(fields), "include": [_LOGPROBS] if own.logprobs else None}
        if fields.get("reasoning_effort") is not None:
            body |= {"reasoning": {"effort": fields["reasoning_effort"]}}
        return body

    # --- names ----------------------------------------------------------------------------------

    def name(self, error: ClientError) -> ClientError:
        """Returns an error in the words of the chat call; those of its own reading have them already."""
        param = error.param if self._is_read else None
        place = self._locate(param) if param is not None else None
        if place is None or place == param:
            return error
        message = str(error).replace(f"'{param}'", f"'{place}'")
        return ClientError(error.status, message, error.code, place, error.headers)

    def _locate(self, param: str) -> str:
        if (at := _INPUT.fullmatch(param)) and int(at["index"]) < len(self._origins):
            return self._origins[int(at["index"])].locate(at["rest"])
        if (at := _TOOL.fullmatch(param)) and int(at["index"]) < len(self._tools):
            kind = _kind_of(self._tools[int(at["index"])])
            return f"tools[{at['index']}].{kind}.{_of_grammar(at['rest'])}"
        if at := _CHOICE.fullmatch(param):
            return f"tool_choice.{self._locate_choice(at['rest'])}"
        if at := _FORMAT.fullmatch(param):
            return f"response_format.json_schema.{at['rest']}"
        if param == "max_output_tokens":
            return self._limit
        first = next((known for known in _PREFIXES if re.match(rf"{re.escape(known)}\b", param)), None)
        return _PREFIXES[first] + param[len(first) :] if first else param

    def _locate_choice(self, rest: str) -> str:
        match self._choice:
            case {"type": "allowed_tools", "allowed_tools": {"tools": list(entries)}}:
                if at := _ENTRY.fullmatch(rest):
                    kind = _kind_of(entries[int(at["index"])])
                    rest = f"tools[{at['index']}].{kind}.{at['rest']}"
                return f"allowed_tools.{rest}"
            case {"type": "allowed_tools"}:
                return f"allowed_tools.{rest}"
            case choice:
                return f"{_kind_of(choice)}.{rest}"


def _list_in(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    return [] if value is None else check_list(value, (name,))


def _or_false(value: object) -> object:
    """Returns False for null: what a chat says is kept only if that is asked for."""
    return False if value is None else value


def _kind_of(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if kind in _KINDS else _KINDS[0]


def _of_grammar(rest: str) -> str:
    return re.sub(r"^format\.(syntax|definition)", r"format.grammar.\1", rest)


def _refuse_unknown(fields: Mapping[str, Any]) -> None:
    for name in sorted(fields.keys() - SAME - TRANSLATED - WITHOUT_EFFECT):
        if fields[name] is None:
            continue
        if name in REFUSED:
            raise unsupported_parameter(name, REFUSED[name])
        raise unknown_parameter(name)


def _read_form(own: _Own, stop: object) -> ChatForm:
    if own.n is not None and own.n != 1:
        raise unsupported_parameter("n", "Each call has one choice: call several times.")
    if own.modalities is not None and own.modalities != ["text"]:
        raise unsupported_parameter("modalities", "The model writes text only.")
    if own.top_logprobs and not own.logprobs:
        raise invalid_value("top_logprobs", "it needs `logprobs: true`")
    return ChatForm(_read_stops(stop), bool(own.logprobs), _wants_usage(own))


def _wants_usage(own: _Own) -> bool:
    if own.stream_options is None:
        return False
    if not own.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ClientError(400, message, None, "stream_options")
    for name in own.stream_options.keys() - _ChatStreamOptions.model_fields.keys():
        raise unknown_parameter(f"stream_options.{name}")
    return bool(check(_ChatStreamOptions, own.stream_options, ("stream_options",)).include_usage)


def _read_stops(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise invalid_type("stop", "a string or an array of strings", value)
    if len(stops) > _STOPS_MAX:
        raise invalid_value("stop", f"it should hold at most {_STOPS_MAX} sequences")
    if not all(0 < len(stop) <= _STOP_CHARS_MAX for stop in stops):
        raise invalid_value("stop", f"a sequence should have 1 to {_STOP_CHARS_MAX} characters")
    return tuple(stops)


def _limit_in(fields: Mapping[str, Any]) -> str:
    """Returns the name by which the client limits the answer."""
    new, former = fields.get("max_completion_tokens"), fields.get("max_tokens")
    if new is not None and former is not None and new != former:
        raise invalid_value("max_tokens", "`max_completion_tokens`, its present name, says something else")
    return "max_tokens" if new is None and former is not None else "max_completion_tokens"


def _read_text(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    value, verbosity = fields.get("response_format"), fields.get("verbosity")
    if isinstance(value, dict) and value.get("type") == "json_schema":
        path = ("response_format", "json_schema")
        if value.get("json_schema") is None:
            raise missing_parameter(spell(path))
        _refuse_others(value, ("type", "json_schema"), ("response_format",))
        value = {**check_object(value["json_schema"], path), "type": "json_schema"}
    return {"format": value, "verbosity": verbosity}


def _read_tools(tools: Sequence[object]) -> list[dict[str, Any]]:
    return [_read_tool(tool, ("tools", index)) for index, tool in enumerate(tools)]


def _read_tool(value: object, path: Path) -> dict[str, Any]:
    tool = _chosen(check_object(value, path), path)
    grammar = tool.get("format")
    if tool["type"] == "custom" and isinstance(grammar, dict) and grammar.get("type") == "grammar":
        place: Path = (*path, "custom", "format")
        _refuse_others(grammar, ("type", "grammar"), place)
        written = check_object(grammar.get("grammar"), (*place, "grammar"))
        return {**tool, "format": {**written, "type": "grammar"}}
    return tool


def _flatten(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns a tool, or the choice of one, as the Responses API writes it."""
    match value.get("type"):
        case "function" | "custom" as kind:
            if value.get(kind) is None:
                raise missing_parameter(spell((*path, kind)))
            return {**check_object(value[kind], (*path, kind)), "type": kind}
        case None:
            raise missing_parameter(spell((*path, "type")))
        case str(kind):
            reason = "in a chat it should be 'function' or 'custom'; /v1/responses has others"
            raise unsupported_tool(spell((*path, "type")), kind, reason)
        case kind:
            raise invalid_type(spell((*path, "type")), "a string", kind)


def _read_choice(value: object) -> object:
    path = ("tool_choice",)
    if not isinstance(value, dict):
        return value
    if value.get("type") != "allowed_tools":
        return _chosen(value, path)
    _refuse_others(value, ("type", "allowed_tools"), path)
    place: Path = (*path, "allowed_tools")
    allowed = check_object(value.get("allowed_tools"), place)
    _refuse_others(allowed, ("mode", "tools"), place)
    entries = allowed.get("tools")
    if isinstance(entries, list):
        place = (*place, "tools")
        entries = [_chosen(check_object(one, (*place, i)), (*place, i)) for i, one in enumerate(entries)]
    return {"type": "allowed_tools", "mode": allowed.get("mode"), "tools": entries}


def _chosen(value: dict[str, Any], path: Path) -> dict[str, Any]:
    chosen = _flatten(value, path)
    _refuse_others(value, ("type", chosen["type"]), path)
    return chosen


def _refuse_others(value: Mapping[str, Any], known: Sequence[str], path: Path) -> None:
    for name, member in value.items():
        if name not in known and member is not None:
            raise unknown_parameter(spell((*path, name)))
