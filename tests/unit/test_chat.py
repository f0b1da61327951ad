"""A chat completion is a create call in other words, and its answer the response's events in other words."""

import itertools
import json
from typing import Any, Literal, get_type_hints

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from api.bodies.requests import Birth, CreateBody, Creation, RequestLimits, read_create
from api.chat.answer import ChatAnswer, Chunk
from api.chat.body import REFUSED, SAME, TRANSLATED, WITHOUT_EFFECT, ChatCall, ChatForm
from api.chat.forms import ChatStream, WholeChat, chat_id
from api.chat.stops import StopSearch
from api.errors import ClientError
from shared import events as ev
from shared.client_tools import CustomToolCall
from shared.frames import frame
from shared.responses import (
    FunctionCall,
    IncompleteDetails,
    InputTokensDetails,
    Logprob,
    Message,
    OutputTokensDetails,
    Reasoning,
    Response,
    ResponseError,
    Usage,
)

PLAIN = ChatForm()
BIRTH = Birth("resp_0_" + "0" * 32, 1_763_769_600)
LIMITS = RequestLimits(items_max=100, tools_max=100, values_max=10_000)
USER = {"role": "user", "content": "Hello"}
WEATHER = {"name": "get_weather", "description": "d", "parameters": {"type": "object"}, "strict": None}
GRAMMAR = {"syntax": "lark", "definition": "start: WORD"}


def read(body: dict[str, Any]) -> Creation:
    call = ChatCall()
    try:
        return call.read(json.dumps({"messages": [USER]} | body).encode(), BIRTH, ["m"], LIMITS)
    except ClientError as error:
        raise call.name(error) from None


def create(body: dict[str, Any]) -> Creation:
    said = {"input": [USER], "store": False} | body
    return read_create(json.dumps(said).encode(), BIRTH, ["m"], LIMITS)


def call_of(call_id: str, **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}} | more


# --- requests -----------------------------------------------------------------------------------


def test_every_parameter_of_the_public_types_is_done_ignored_or_refused() -> None:
    known = [SAME, TRANSLATED, WITHOUT_EFFECT, frozenset(REFUSED)]
    assert {*get_type_hints(CompletionCreateParamsBase), "stream"} <= frozenset.union(*known)
    assert sum(map(len, known)) == len(frozenset.union(*known)), "a parameter has one fate"
    assert CreateBody.model_fields.keys() >= SAME


@pytest.mark.parametrize(
    ("chat", "same"),
    [
        ({}, {}),
        ({"store": True, "stream": True, "user": "u"}, {"store": True, "stream": True, "user": "u"}),
        ({"prompt_cache_key": "k"}, {"prompt_cache_key": "k"}),
        ({"max_tokens": 9}, {"max_output_tokens": 9}),
        ({"max_completion_tokens": 9, "max_tokens": 9}, {"max_output_tokens": 9}),
        ({"temperature": 0.5, "seed": 7, "top_k": 3}, {"temperature": 0.5, "seed": 7, "top_k": 3}),
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        ({"verbosity": "high"}, {"text": {"verbosity": "high"}}),
        ({"response_format": {"type": "json_object"}}, {"text": {"format": {"type": "json_object"}}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
        ),
        (
            {"logprobs": True, "top_logprobs": 2},
            {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        ),
        ({"n": 1, "modalities": ["text"], "stop": [], "audio": None, "prediction": {}}, {}),
        (
            {"tools": [{"type": "function", "function": WEATHER}], "tool_choice": "required"},
            {"tools": [{"type": "function", **WEATHER}], "tool_choice": "required"},
        ),
        (
            {
                "tools": [
                    {"type": "function", "function": WEATHER},
                    {
                        "type": "custom",
                        "custom": {"name": "c", "format": {"type": "grammar", "grammar": GRAMMAR}},
                    },
                ],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "get_weather"}}],
                    },
                },
            },
            {
                "tools": [
                    {"type": "function", **WEATHER},
                    {"type": "custom", "name": "c", "format": {"type": "grammar", **GRAMMAR}},
                ],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "get_weather"}],
                },
            },
        ),
    ],
)
def test_parameters_are_those_of_a_create_call(chat: dict[str, Any], same: dict[str, Any]) -> None:
    told, expected = read(chat), create(same)
    assert told.request == expected.request
    assert (told.items, told.is_streamed) == (expected.items, expected.is_streamed)


def test_messages_become_items() -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "developer", "content": [{"type": "text", "text": "D"}]},
        {
            "role": "user",
            "name": "ignored",
            "content": [
                {"type": "text", "text": "U"},
                {"type": "image_url", "image_url": {"url": "https://a/b", "detail": "low"}},
                {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain,a"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "I look."}, {"type": "refusal", "refusal": "No."}],
            "reasoning_content": "Hm.",
            "refusal": None,
            "tool_calls": [
                call_of("call_1"),
                {"id": "call_2", "type": "custom", "custom": {"name": "c", "input": "i"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_2", "content": "2"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "1"}]},
        {"role": "assistant", "content": "Done.", "tool_calls": []},
        USER,
    ]
    said = [{"type": "output_text", "text": "I look."}, {"type": "refusal", "refusal": "No."}]
    items = [
        messages[0],
        {"role": "developer", "content": [{"type": "input_text", "text": "D"}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "U"},
                {"type": "input_image", "image_url": "https://a/b", "detail": "low"},
                {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain,a"},
            ],
        },
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"role": "assistant", "content": said},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "c", "input": "i"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "2"},
        {
            "type": "function_call_output",
            "call_id": "call_1",
            "output": [{"type": "input_text", "text": "1"}],
        },
        {"role": "assistant", "content": "Done."},
        USER,
    ]
    assert read({"messages": messages}).items == create({"input": items}).items


def test_reasoning_is_read_by_either_of_its_names() -> None:
    called = {"role": "assistant", "tool_calls": [call_of("call_1")]}
    answered = {"role": "tool", "tool_call_id": "call_1", "content": "1"}
    names = (
        {"reasoning": "Hm."},
        {"reasoning_content": "Hm."},
        {"reasoning": "Hm.", "reasoning_content": "Hm."},
    )
    first, *others = (read({"messages": [USER, called | name, answered]}).items for name in names)
    assert all(items == first for items in others)


WORDS = st.sampled_from(
    ["", "user", "assistant", "tool", "text", "function", "custom", "allowed_tools", "auto"]
)
NAMES = st.sampled_from(
    [
        *("role", "content", "type", "text", "tool_calls", "tool_call_id", "id", "function", "custom"),
        *("name", "arguments", "parameters", "allowed_tools", "tools", "mode", "json_schema", "schema"),
    ]
)


def test_a_refusal_of_another_server_is_what_the_model_said() -> None:
    told = read(with_message(role="assistant", content=None, refusal="I cannot."))
    part = {"type": "refusal", "refusal": "I cannot."}
    assert told.items == create({"input": [USER, {"role": "assistant", "content": [part]}]}).items


def with_message(**message: Any) -> dict[str, Any]:
    return {"messages": [USER, message]}


FUNCTIONS = [{"type": "function", "function": {"name": "f"}}]
NAMED = {"name": "f"}


def allowing(*tools: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [*tools], **more}}


CUSTOM = {"name": "c", "format": {"type": "grammar", "grammar": {"syntax": "x", "definition": "d"}}}
MISSING, INVALID, TYPE = "missing_required_parameter", "invalid_value", "invalid_type"
UNSUPPORTED, UNKNOWN = "unsupported_parameter", "unknown_parameter"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": None}, "messages", MISSING),
        ({"messages": "Hello"}, "messages", TYPE),
        ({"messages": []}, "messages", INVALID),
        ({"messages": [USER] * 101}, "messages", "array_above_max_length"),
        ({"messages": ["Hello"]}, "messages[0]", TYPE),
        (with_message(content="x"), "messages[1].role", MISSING),
        (with_message(role="robot", content="x"), "messages[1].role", INVALID),
        (with_message(role="function", content="x"), "messages[1].role", UNSUPPORTED),
        (with_message(role="user"), "messages[1].content", TYPE),
        (with_message(role="user", content=[{"text": "x"}]), "messages[1].content[0].type", MISSING),
        (with_message(role="user", content=[{"type": "text"}]), "messages[1].content[0].text", MISSING),
        (with_message(role="user", content=[{"type": "x"}]), "messages[1].content[0].type", INVALID),
        (
            with_message(role="user", content=[{"type": "input_audio"}]),
            "messages[1].content[0].type",
            UNSUPPORTED,
        ),
        (with_message(role="assistant"), "messages[1].content", TYPE),
        (with_message(role="assistant", reasoning_content=1), "messages[1].reasoning_content", TYPE),
        (with_message(role="assistant", reasoning=1), "messages[1].reasoning", TYPE),
        (with_message(role="assistant", function_call={}), "messages[1].function_call", UNSUPPORTED),
        (with_message(role="assistant", tool_calls={"a": 1}), "messages[1].tool_calls", TYPE),
        (
            with_message(role="assistant", tool_calls=[call_of("c", type="x")]),
            "messages[1].tool_calls[0].type",
            INVALID,
        ),
        (
            with_message(role="assistant", content="x", tool_calls=[call_of("c", function={"name": "f"})]),
            "messages[1].tool_calls[0].function.arguments",
            MISSING,
        ),
        (
            with_message(role="assistant", tool_calls=[call_of("c", function={"name": "a b"})]),
            "messages[1].tool_calls[0].function.arguments",
            MISSING,
        ),
        (
            with_message(role="assistant", tool_calls=[call_of(5)]),  # type: ignore[arg-type]
            "messages[1].tool_calls[0].id",
            TYPE,
        ),
        (with_message(role="tool", content="x"), "messages[1].tool_call_id", MISSING),
        (with_message(role="tool", tool_call_id="c"), "messages[1].content", TYPE),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", INVALID),
        ({"temperature": 3}, "temperature", "decimal_above_max_value"),
        ({"n": 2}, "n", UNSUPPORTED),
        ({"modalities": ["text", "audio"]}, "modalities", UNSUPPORTED),
        ({"audio": {"voice": "v"}}, "audio", UNSUPPORTED),
        ({"functions": []}, "functions", UNSUPPORTED),
        ({"input": "x"}, "input", UNKNOWN),
        ({"max_output_tokens": 5}, "max_output_tokens", UNKNOWN),
        ({"stop": 5}, "stop", TYPE),
        ({"stop": ["a", 5]}, "stop", TYPE),
        ({"stop": ["a"] * 5}, "stop", INVALID),
        ({"stop": ""}, "stop", INVALID),
        ({"stop": "a" * 257}, "stop", INVALID),
        ({"logprobs": 1}, "logprobs", TYPE),
        ({"top_logprobs": 1}, "top_logprobs", INVALID),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "integer_above_max_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", UNKNOWN),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            TYPE,
        ),
        ({"reasoning_effort": "x"}, "reasoning_effort", INVALID),
        ({"verbosity": "x"}, "verbosity", INVALID),
        ({"response_format": "json"}, "response_format", TYPE),
        ({"response_format": {"type": "x"}}, "response_format.type", INVALID),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", MISSING),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
            MISSING,
        ),
        ({"tools": {"a": 1}}, "tools", TYPE),
        ({"tools": [{"function": {}}]}, "tools[0].type", MISSING),
        ({"tools": [{"type": "mcp"}]}, "tools[0].type", "unsupported_tool"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", MISSING),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", MISSING),
        ({"tools": [*FUNCTIONS, *FUNCTIONS]}, "tools[1].function.name", INVALID),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]},
            "tools[0].function.x",
            UNKNOWN,
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}, "strict": True}]},
            "tools[0].strict",
            UNKNOWN,
        ),
        (
            {
                "tools": [
                    {"type": "custom", "custom": CUSTOM | {"format": {"type": "grammar", "syntax": "lark"}}}
                ]
            },
            "tools[0].custom.format.syntax",
            UNKNOWN,
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}, "strict": True}},
            "response_format.strict",
            UNKNOWN,
        ),
        (
            {"tools": [{"type": "custom", "custom": CUSTOM}]},
            "tools[0].custom.format.grammar.syntax",
            INVALID,
        ),
        ({"tool_choice": "x"}, "tool_choice", INVALID),
        ({"tool_choice": {"type": "x"}}, "tool_choice.type", "unsupported_tool"),
        (
            {"tools": FUNCTIONS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
            INVALID,
        ),
        (
            {"tools": FUNCTIONS, "tool_choice": {"type": "function", "function": NAMED, "x": 1}},
            "tool_choice.x",
            UNKNOWN,
        ),
        (
            {"tools": FUNCTIONS, "tool_choice": {"type": "function", "function": NAMED | {"mode": 1}}},
            "tool_choice.function.mode",
            UNKNOWN,
        ),
        (
            {"tools": FUNCTIONS, "tool_choice": allowing({"type": "function", "function": NAMED}, x=1)},
            "tool_choice.allowed_tools.x",
            UNKNOWN,
        ),
        (
            {"tools": FUNCTIONS, "tool_choice": allowing({"type": "function", "function": NAMED, "x": 1})},
            "tool_choice.allowed_tools.tools[0].x",
            UNKNOWN,
        ),
        (
            {
                "tools": FUNCTIONS,
                "tool_choice": allowing({"type": "function", "function": NAMED | {"parameters": {}}}),
            },
            "tool_choice.allowed_tools.tools[0].function.parameters",
            UNKNOWN,
        ),
        (
            {
                "tools": FUNCTIONS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "g"}}],
                    },
                },
            },
            "tool_choice.allowed_tools.tools[0].function.name",
            INVALID,
        ),
        (
            {
                "tools": FUNCTIONS,
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": FUNCTIONS}},
            },
            "tool_choice.allowed_tools.mode",
            INVALID,
        ),
    ],
)
def test_a_refusal_names_the_chats_own_parameter(body: dict[str, Any], param: str, code: str | None) -> None:
    with pytest.raises(ClientError) as refused:
        read(body)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert "'input[" not in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


BODIES = st.dictionaries(st.sampled_from(sorted(SAME | TRANSLATED)), JSON, max_size=4)
LISTS = st.lists(st.dictionaries(NAMES, JSON, max_size=4), max_size=2)


@given(BODIES | st.fixed_dictionaries({}, optional={"messages": LISTS, "tools": LISTS, "tool_choice": JSON}))
@example({"tools": ""})
@example({"messages": [{"role": "assistant", "content": "x", "tool_calls": ""}]})
def test_any_body_is_accepted_or_refused(body: dict[str, Any]) -> None:
    """With an error that names a place in this body."""
    param = "messages"
    try:
        read(body)
    except ClientError as error:
        param = error.param or ""
    assert param.partition(".")[0].partition("[")[0] in SAME | TRANSLATED


def test_errors_of_later_steps_are_named_too() -> None:
    call = ChatCall()
    call.read(json.dumps({"messages": [USER]}).encode(), BIRTH, ["m"], LIMITS)
    error = call.name(ClientError(400, "No 'input' fits.", "x", "input", {"retry-after": "1"}))
    assert (str(error), error.param, error.code, error.headers) == (
        "No 'messages' fits.",
        "messages",
        "x",
        {"retry-after": "1"},
    )
    other = ClientError(404, "No.", "model_not_found", "model")
    assert call.name(other) is other


# --- stop sequences -----------------------------------------------------------------------------

LETTERS = st.text("ab", max_size=12)


@given(LETTERS, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 12)))
def test_a_text_ends_before_the_first_whole_sequence_however_it_comes(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    search = StopSearch(stops)
    shown = ""
    for begin, end in itertools.pairwise(places):
        shown += search.take(text[begin:end])
    shown += search.take_rest()
    ends = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    assert shown == (text[: min(ends)[1]] if ends else text)
    assert search.has_stopped == bool(ends)


def test_only_what_may_begin_a_sequence_is_held_back() -> None:
    search = StopSearch(["<end>"])
    assert [search.take(piece) for piece in ("a<", "en", "x<", "b")] == ["a", "", "<enx", "<b"]
    assert not search.is_holding


# --- answers ------------------------------------------------------------------------------------

USAGE = Usage(3, InputTokensDetails(1), 5, OutputTokensDetails(2), 8)


def response(status: Any = "completed", **more: Any) -> Response:
    return Response(id=BIRTH.response_id, created_at=1, model="m", status=status, **more)


def told_of(
    *parts: str,
    calls: bool = False,
    with_logprobs: bool = False,
    thinking: type[ev.ReasoningTextDelta] = ev.ReasoningTextDelta,
) -> list[ev.StreamEvent]:
    """Reasoning, then messages of these texts, a character at a time; then two calls."""
    told: list[ev.StreamEvent] = [ev.ResponseCreated(response("in_progress", service_tier="auto"))]
    told += [ev.OutputItemAdded(0, Reasoning("rs", "in_progress"))]
    thoughts = [thinking(0, 0, "rs", piece) for piece in ("Let me ", "think.")]
    told += [
        thought for thought in thoughts if isinstance(thought, ev.ReasoningTextDelta | ev.ReasoningDelta)
    ]
    index = 1
    for part in parts:
        told += [ev.OutputItemAdded(index, Message("msg", "in_progress", "assistant", ()))]
        for letter in part:
            logprobs = (Logprob(letter, tuple(letter.encode()), -0.5),) if with_logprobs else ()
            told += [ev.OutputTextDelta(index, 0, "msg", letter, logprobs)]
        index += 1
    if calls:
        told += [ev.OutputItemAdded(index, FunctionCall("fc", "in_progress", "call_1", "f", ""))]
        told += [ev.FunctionCallArgumentsDelta(index, "fc", piece) for piece in ('{"a"', ": 1}")]
        custom = CustomToolCall(id="ctc", status="in_progress", call_id="call_2", name="c", input="")
        told += [ev.OutputItemAdded(index + 1, custom), ev.CustomToolCallInputDelta(index + 1, "ctc", "x")]
    return told


def end_of(ended: Response) -> ev.StreamEvent:
    match ended.status:
        case "completed":
            return ev.ResponseCompleted(ended)
        case "incomplete":
            return ev.ResponseIncomplete(ended)
        case _:
            return ev.ResponseFailed(ended)


def answers(
    told: list[ev.StreamEvent], ended: Response, form: ChatForm = PLAIN, slice_of: int = 1
) -> tuple[dict[str, Any], list[dict[str, Any]], list[Chunk]]:
    """Returns the whole answer, and what a stream of the same events says."""
    frames = [frame(event, n) for n, event in enumerate([*told, end_of(ended)])]
    answer, whole, chunks = ChatAnswer(form), WholeChat(), []
    for start in range(0, len(frames), slice_of):
        chunks += answer.read(b"".join(frames[start : start + slice_of]))
    assert answer.begun is not None
    stream = ChatStream(answer.begun, form)
    sent = b"".join(map(stream.frame, chunks)) + stream.end(answer, ended)
    for chunk in chunks:
        whole.add(chunk)
    lines = [line.removeprefix("data: ") for line in sent.decode().splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    completion = msgspec.json.decode(whole.encode(answer, ended))
    ChatCompletion.model_validate(completion, strict=True)
    return completion, [json.loads(line) for line in lines], chunks


def joined(streamed: list[dict[str, Any]], name: str) -> str:
    return "".join(chunk["choices"][0]["delta"].get(name) or "" for chunk in streamed if chunk["choices"])


@pytest.mark.parametrize("slice_of", [1, 3, 100])
@pytest.mark.parametrize("thinking", [ev.ReasoningTextDelta, ev.ReasoningDelta])
def test_a_stream_and_a_whole_answer_say_the_same(
    slice_of: int, thinking: type[ev.ReasoningTextDelta]
) -> None:
    """In every dialect in which an operator may have the log written."""
    told = told_of("I look.", "", "It is 5.", calls=True, thinking=thinking)
    form = ChatForm(has_usage=True)
    whole, streamed, _ = answers(told, response(usage=USAGE, service_tier="default"), form, slice_of)
    for chunk in streamed:
        ChatCompletionChunk.model_validate(chunk, strict=True) if "custom" not in str(chunk) else None
    assert streamed[-1]["service_tier"] == whole["service_tier"] == "default"
    (choice,) = whole["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "I look.\n\nIt is 5.",
        "reasoning": "Let me think.",
        "reasoning_content": "Let me think.",
        "refusal": None,
        "annotations": [],
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "call_2", "type": "custom", "custom": {"name": "c", "input": "x"}},
        ],
    }
    assert (choice["finish_reason"], choice["logprobs"]) == ("tool_calls", None)
    assert streamed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    for name in ("content", "reasoning", "reasoning_content"):
        assert joined(streamed, name) == choice["message"][name]
    assert [chunk["choices"][0]["finish_reason"] for chunk in streamed[:-1]][-2:] == [None, "tool_calls"]
    assert (streamed[-1]["choices"], streamed[-1]["usage"]) == ([], whole["usage"])
    assert all(chunk["usage"] is None for chunk in streamed[:-1])
    assert {chunk["id"] for chunk in streamed} == {whole["id"]} == {chat_id(BIRTH.response_id)}
    assert whole["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_a_chunk_has_the_number_of_the_event_that_it_ends() -> None:
    _, _, chunks = answers(told_of("ab<x", calls=True), response(), ChatForm(stops=("<end>",)))
    numbers = [chunk.cursor for chunk in chunks if "role" not in chunk.delta]
    assert numbers[:4] == [2, 3, 5, 6], "that of `<` is held back, and said with the next one's"
    assert [chunk.delta["content"] for chunk in chunks if "content" in chunk.delta] == ["", "a", "b", "<x"]


@pytest.mark.parametrize("has_logprobs", [False, True])
def test_an_answer_ends_before_a_stop_sequence(has_logprobs: bool) -> None:
    told = told_of("één<end>two", calls=True, with_logprobs=True)
    whole, streamed, chunks = answers(told, response("cancelled"), ChatForm(("<end>",), has_logprobs))
    (choice,) = whole["choices"]
    assert choice["message"]["content"] == joined(streamed, "content") == "één"
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("stop", False)
    tokens = [each.token for chunk in chunks for each in chunk.logprobs]
    assert tokens == (["é", "é", "n"] if has_logprobs else [])
    assert chunks[-1].cursor is None or chunks[-1].delta["content"] == "n"


def test_logprobs_are_those_of_the_text() -> None:
    told = told_of("ab", "cd", with_logprobs=True)
    whole, streamed, _ = answers(told, response(), ChatForm(has_logprobs=True))
    content = whole["choices"][0]["logprobs"]["content"]
    assert [each["token"] for each in content] == list("abcd")
    assert content == [
        each
        for chunk in streamed
        if chunk["choices"][0]["logprobs"]
        for each in chunk["choices"][0]["logprobs"]["content"]
    ]


@pytest.mark.parametrize(
    ("reason", "expected"), [("max_output_tokens", "length"), ("content_filter", "content_filter")]
)
def test_an_incomplete_answer_says_why(
    reason: Literal["max_output_tokens", "content_filter"], expected: str
) -> None:
    ended = response("incomplete", incomplete_details=IncompleteDetails(reason))
    whole, streamed, _ = answers(told_of(""), ended)
    assert whole["choices"][0]["finish_reason"] == streamed[-1]["choices"][0]["finish_reason"] == expected
    assert whole["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize(
    ("ended", "status", "param"),
    [
        (response("failed", error=ResponseError("server_error", "Broken.")), 500, None),
        (response("failed", error=ResponseError("context_length_exceeded", "Long.")), 400, "messages"),
        (response("cancelled"), 400, None),
    ],
)
def test_a_response_without_an_answer_is_an_error(ended: Response, status: int, param: str | None) -> None:
    answer = ChatAnswer(ChatForm())
    answer.read(frame(ev.ResponseCreated(ended), 0))
    with pytest.raises(ClientError) as failed:
        WholeChat().encode(answer, ended)
    assert (failed.value.status, failed.value.param) == (status, param)
    sent = ChatStream(ended, ChatForm(has_usage=True)).end(answer, ended).decode().split("\n\n")
    assert json.loads(sent[0].removeprefix("data: "))["error"]["message"] == str(failed.value)
    assert sent[1:] == ["data: [DONE]", ""]
