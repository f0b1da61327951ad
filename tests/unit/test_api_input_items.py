import itertools
from typing import Any

import msgspec
import pytest
from openai.types import responses as openai_types
from openai.types.conversations import ConversationItem
from openai.types.responses import response_input_item_param
from pydantic import TypeAdapter

from api.bodies.input_items import adopt_items, read_items
from api.errors import ClientError
from shared.client_tools import CustomToolCall
from shared.hosted_tools import CodeInterpreterCall
from shared.input_items import (
    CustomToolCallOutput,
    EarlierText,
    FunctionCallOutput,
    InputFile,
    InputFunctionCall,
    InputImage,
    InputMcpApprovalRequest,
    InputMcpCall,
    InputMcpListTools,
    InputMessage,
    InputReasoning,
    InputText,
    ListedTool,
    McpApprovalResponse,
    Refusal,
)
from tests.items import shown

ORIGIN = "0_" + "a" * 32
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT: dict[str, Any] = {"type": "function_call_output", "call_id": "c", "output": "o"}
LISTED: TypeAdapter[Any] = TypeAdapter(ConversationItem)


def adopt(*values: dict[str, Any]) -> Any:
    return shown(adopt_items(read_items(list(values), "items", 100), ORIGIN))


def test_an_item_keeps_the_id_that_it_came_with() -> None:
    assert adopt({"id": "msg-mine", "role": "user", "content": "t"})[0]["id"] == "msg-mine"


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_item_without_an_id_gets_one_of_its_kind_and_place(nothing: object) -> None:
    message, call = adopt({"role": "user", "content": "t"}, CALL | {"id": nothing})
    assert (message["id"], call["id"]) == (f"msg_{ORIGIN}_i0", f"fc_{ORIGIN}_i1")


def test_text_becomes_a_part_that_fits_the_role() -> None:
    asked, answered = adopt({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    assert asked["content"] == [{"type": "input_text", "text": "a"}]
    assert answered["content"] == [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}]


def test_an_image_says_how_closely_it_is_looked_at() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    (message,) = adopt({"role": "user", "content": [image, image | {"detail": "low"}]})
    assert [part["detail"] for part in message["content"]] == ["auto", "low"]


def test_a_status_that_came_with_an_item_is_kept() -> None:
    assert adopt(CALL | {"status": "incomplete"})[0]["status"] == "incomplete"
    assert adopt(CALL | {"status": None})[0]["status"] == "completed"


def test_a_reference_is_left_as_it_is() -> None:
    assert adopt({"id": "msg_1"}) == [{"type": "item_reference", "id": "msg_1"}]


@pytest.mark.parametrize(
    "item",
    [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": "t", "phase": "final_answer"},
        CALL,
        OUTPUT,
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
        {"type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "t", "input_schema": {}}]},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
        {"type": "mcp_call", "arguments": "{}", "name": "t", "server_label": "s", "output": "1"},
        {"type": "custom_tool_call", "call_id": "c", "input": "i", "name": "n"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "o"},
    ],
    ids=lambda item: item.get("type", item.get("role")),
)
def test_the_public_client_reads_an_adopted_item_strictly(item: dict[str, Any]) -> None:
    (adopted,) = adopt(item)
    assert LISTED.validate_python(adopted).id == adopted["id"]


@pytest.mark.parametrize(
    ("item", "optional"),
    [
        ({"type": "reasoning", "summary": [], "encrypted_content": "text"}, "encrypted_content"),
        ({"type": "mcp_list_tools", "server_label": "s", "tools": [], "error": "text"}, "error"),
    ],
)
def test_what_clients_take_as_text_or_nothing_is_never_listed_as_null(
    item: dict[str, Any], optional: str
) -> None:
    said, unsaid = adopt(item, item | {optional: None})
    assert said[optional] == "text"
    assert optional not in unsaid


def test_adopted_items_are_taken_again_as_they_are() -> None:
    adopted = adopt({"role": "user", "content": "t"}, CALL, OUTPUT)
    assert adopt(*adopted) == adopted


def test_a_part_of_the_assistants_text_lists_its_annotations_and_logprobs() -> None:
    cited = {"type": "output_text", "text": "b", "annotations": [{"type": "file_path"}]}
    (message,) = adopt({"role": "assistant", "content": [cited, {"type": "refusal", "refusal": "no"}]})
    assert message["content"] == [cited | {"logprobs": []}, {"type": "refusal", "refusal": "no"}]


@pytest.mark.parametrize(
    ("item", "prefix"),
    [
        ({"id": "item_1", "role": "user", "content": "t"}, "msg"),
        (CALL | {"id": "call_1"}, "fc"),
        (OUTPUT | {"id": "out_1"}, "fc"),
        ({"type": "reasoning", "id": "r", "summary": []}, "rs"),
        (
            {"type": "mcp_approval_request", "id": "q", "arguments": "", "name": "n", "server_label": "s"},
            "mcpr",
        ),
    ],
)
def test_an_id_that_says_another_kind_is_refused(item: dict[str, Any], prefix: str) -> None:
    with pytest.raises(ClientError) as refused:
        adopt({"role": "user", "content": "t"}, item)
    message = f"Invalid 'items[1].id': '{item['id']}'. Expected an ID that begins with '{prefix}'."
    assert (str(refused.value), refused.value.code) == (message, "invalid_value")
    assert refused.value.param == "items[1].id"


PUBLIC: list[tuple[type[Any], list[Any]]] = [
    (InputMessage, [openai_types.EasyInputMessageParam, openai_types.ResponseOutputMessageParam]),
    (InputReasoning, [openai_types.ResponseReasoningItemParam]),
    (InputFunctionCall, [openai_types.ResponseFunctionToolCallParam]),
    (FunctionCallOutput, [response_input_item_param.FunctionCallOutput]),
    (CustomToolCall, [openai_types.ResponseCustomToolCallParam]),
    (CustomToolCallOutput, [openai_types.ResponseCustomToolCallOutputParam]),
    (CodeInterpreterCall, [openai_types.ResponseCodeInterpreterToolCallParam]),
    (InputMcpListTools, [response_input_item_param.McpListTools]),
    (ListedTool, [response_input_item_param.McpListToolsTool]),
    (InputMcpApprovalRequest, [response_input_item_param.McpApprovalRequest]),
    (McpApprovalResponse, [response_input_item_param.McpApprovalResponse]),
    (InputMcpCall, [response_input_item_param.McpCall]),
    (InputText, [openai_types.ResponseInputTextParam]),
    (InputImage, [openai_types.ResponseInputImageParam]),
    (InputFile, [openai_types.ResponseInputFileParam]),
    (EarlierText, [openai_types.ResponseOutputTextParam]),
    (Refusal, [openai_types.ResponseOutputRefusalParam]),
]


@pytest.mark.parametrize(("kept", "public"), PUBLIC, ids=lambda value: getattr(value, "__name__", ""))
def test_every_field_of_the_public_types_is_kept(kept: type[Any], public: list[Any]) -> None:
    named = {name for shape in public for name in shape.__annotations__}
    assert named - {"type"} <= {field.encode_name for field in msgspec.structs.fields(kept)} | {"type"}


@pytest.mark.parametrize("name", ["f\n", "f g", "f<|", "", "f" * 129])
@pytest.mark.parametrize(
    ("item", "field"),
    [
        (CALL, "name"),
        (OUTPUT, "name"),
        ({"type": "custom_tool_call", "call_id": "c", "input": "i"}, "name"),
        ({"type": "mcp_call", "name": "n", "arguments": "{}"}, "server_label"),
        ({"type": "mcp_list_tools", "tools": []}, "server_label"),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else value,
)
def test_a_name_that_could_end_a_header_is_refused(item: dict[str, Any], field: str, name: str) -> None:
    with pytest.raises(ClientError) as refused:
        adopt(item | {field: name})
    assert (refused.value.code, refused.value.param) == ("invalid_value", f"items[0].{field}")


def test_what_another_service_has_compacted_is_refused_by_name() -> None:
    with pytest.raises(ClientError) as refused:
        adopt({"type": "compaction", "encrypted_content": "gAAAAABsecret"})
    assert (refused.value.status, refused.value.code) == (400, "invalid_encrypted_content")
    assert refused.value.param == "items[0].encrypted_content"
    assert "secret" not in str(refused.value)


def test_an_id_of_null_is_an_id_that_is_left_out() -> None:
    call = {"type": "code_interpreter_call", "id": None, "status": "completed", "container_id": "c"}
    output = {"type": "custom_tool_call_output", "call_id": "c", "output": "o", "name": 5}
    first, _ = adopt_items(read_items([call, output], "input", 10), "resp_0_" + "a" * 32)
    assert msgspec.to_builtins(first)["id"][:3] == "ci_"


@pytest.mark.parametrize(
    ("item", "code", "param"),
    [
        ({"role": None, "content": "a"}, "invalid_type", "input[0].role"),
        ({"role": 5, "content": "a"}, "invalid_type", "input[0].role"),
        ({"type": 5, "content": "a"}, "invalid_type", "input[0].type"),
        ({"role": "user", "content": [{"type": 5}]}, "invalid_type", "input[0].content[0].type"),
        (
            {"role": "user", "content": [{"type": None}]},
            "missing_required_parameter",
            "input[0].content[0].type",
        ),
    ],
)
def test_what_is_no_string_is_of_the_wrong_type_where_a_list_has_strings(
    item: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(ClientError) as refused:
        read_items([item], "input", 10)
    assert (refused.value.code, refused.value.param) == (code, param)


@pytest.mark.parametrize(
    ("item", "param", "said"),
    [
        (
            {"role": "robot", "content": "t"},
            "role",
            "'robot'. Supported values are: 'assistant', 'developer', 'system', and 'user'.",
        ),
        (
            {"role": "user", "content": "t", "phase": "later"},
            "phase",
            "'later'. Supported values are: 'commentary' and 'final_answer'.",
        ),
        (
            {"role": "user", "content": [{"type": "audio"}]},
            "content[0].type",
            "'audio'. Supported values are: 'input_file', 'input_image', 'input_text', 'output_text', and "
            "'refusal'.",
        ),
        (
            OUTPUT | {"output": [{"type": "output_text", "text": "t"}]},
            "output[0].type",
            "'output_text'. Supported values are: 'input_file', 'input_image', and 'input_text'.",
        ),
        (
            {"type": "reasoning", "summary": [{"type": "text", "text": "t"}]},
            "summary[0].type",
            "'text'. Supported values are: 'summary_text'.",
        ),
    ],
)
def test_a_value_that_is_not_on_the_list_is_refused_with_the_list(
    item: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(ClientError) as refused:
        adopt(item)
    assert (refused.value.param, refused.value.code) == (f"items[0].{param}", "invalid_value")
    assert str(refused.value) == f"Invalid value: {said}"


WRONG: dict[str, dict[str, Any]] = {
    "message": {"id": "m", "status": 5, "role": "robot", "content": [{"type": "audio"}], "phase": "later"},
    "reasoning": {
        "id": "r",
        "summary": [{"text": "t"}],
        "content": [{"type": "reasoning_text", "text": 5}],
        "encrypted_content": 5,
    },
    "function_call": {"id": "c", "name": "f g", "arguments": {}, "call_id": None},
    "function_call_output": {"id": "o", "name": "f g", "output": [{"type": "audio"}], "call_id": 5},
    "custom_tool_call": {"id": "c", "name": "f g", "input": 5, "call_id": 5},
    "mcp_list_tools": {"id": "l", "server_label": "a b", "tools": [{"name": "t"}], "error": 5},
    "mcp_approval_request": {"id": "q", "server_label": "a b", "name": 5, "arguments": 5},
    "mcp_call": {"id": "c", "server_label": "a b", "name": 5, "arguments": 5, "error": {"code": "e"}},
    "code_interpreter_call": {"id": "c", "status": None, "container_id": 5, "outputs": [5]},
}
"""Type of item -> values that are wrong in its fields."""


@pytest.mark.parametrize("kind", WRONG)
def test_of_what_is_wrong_with_an_item_the_first_in_the_order_of_the_body_is_named(kind: str) -> None:
    for first, second in itertools.permutations(WRONG[kind], 2):
        rest = {name: wrong for name, wrong in WRONG[kind].items() if name not in (first, second)}
        item = {first: WRONG[kind][first], second: WRONG[kind][second], **rest, "type": kind}
        assert refused_param(item).startswith(f"items[0].{first}"), item


def test_what_is_missing_is_named_before_what_is_wrong_and_a_type_before_both() -> None:
    assert refused_param({"type": "function_call", "call_id": "c", "id": "x"}) == "items[0].name"
    assert refused_param({"type": "code_interpreter_call", "container_id": 5}) == "items[0].status"
    part = {"text": 5}
    assert refused_param({"type": "reasoning", "summary": [part]}) == "items[0].summary[0].type"
    assert refused_param({"type": "reasoning", "content": [part], "id": "r"}) == "items[0].content[0].type"
    assert refused_param({"role": "robot", "type": "letter"}) == "items[0].type"


def refused_param(item: dict[str, Any]) -> str:
    with pytest.raises(ClientError) as refused:
        adopt(item)
    return refused.value.param or ""


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"type": "code_interpreter_call", "container_id": "c", "status": "completed"}, "status"),
        (
            {
                "type": "mcp_approval_request",
                "id": "mcpr_1",
                "server_label": "s",
                "name": "n",
                "arguments": "",
            },
            "id",
        ),
    ],
)
def test_null_in_a_required_field_is_a_wrong_type_and_not_a_missing_field(
    item: dict[str, Any], field: str
) -> None:
    with pytest.raises(ClientError) as refused:
        adopt(item | {field: None})
    assert (refused.value.code, refused.value.param) == ("invalid_type", f"items[0].{field}")
    with pytest.raises(ClientError) as refused:
        adopt({name: value for name, value in item.items() if name != field})
    assert (refused.value.code, refused.value.param) == ("missing_required_parameter", f"items[0].{field}")


def test_a_type_that_is_unknown_is_named_before_those_that_are_known() -> None:
    for kind in ("program_output", "x" * 5_000):
        with pytest.raises(ClientError) as refused:
            read_items([{"type": kind}], "items", 10)
        quoted = kind if len(kind) < 200 else kind[:200] + "…"
        said = f"Invalid value: '{quoted}'. Supported values are: 'apply_patch_call', "
        assert str(refused.value).startswith(said)
