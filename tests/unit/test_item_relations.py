"""The relations among items: no duplicates, outputs with their calls, nothing unreadable."""

from collections.abc import Sequence
from typing import Any

import pytest

from api.bodies.item_relations import (
    check_answers,
    check_calls,
    check_unique,
    find_orphan,
    open_compactions,
    open_reasoning,
)
from api.errors import ClientError
from shared.compaction import Compacted
from tests.items import asked_of, item_of, items_of

Item = dict[str, Any]

CALL: Item = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT: Item = {"type": "function_call_output", "id": "fco_1", "call_id": "c", "output": "o"}
CUSTOM: Item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "input": "i", "name": "f"}
CUSTOM_OUTPUT: Item = {"type": "custom_tool_call_output", "id": "ctco_1", "call_id": "c", "output": "o"}
NAMED: Item = {"type": "function_call_output", "id": "fco_2", "name": "f", "output": "o"}
ASKED: Item = {"type": "message", "id": "msg_1", "role": "user", "content": "t"}
ANSWERED: Item = {"type": "message", "id": "msg_2", "role": "assistant", "content": "t"}
OPAQUE: Item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA12"}


def complaint(check: Any, *args: Any) -> tuple[int, str | None, str | None, str]:
    with pytest.raises(ClientError) as refused:
        check(*args)
    error = refused.value
    return error.status, error.code, error.param, str(error)


@pytest.mark.parametrize(
    ("items", "context", "twice"),
    [
        ([ASKED, CALL], [ANSWERED], None),
        ([ASKED, CALL, ASKED], [], "msg_1"),
        ([ASKED | {"content": "other"}], [ASKED], "msg_1"),
        ([{"type": "item_reference", "id": "msg_1"}], [ASKED], "msg_1"),
        ([{"type": "item_reference", "id": "msg_9"}] * 2, [], "msg_9"),
        ([ASKED, {"type": "item_reference", "id": "msg_1"}], [], "msg_1"),
    ],
)
def test_an_item_occurs_once_in_a_prompt(items: list[Item], context: list[Item], twice: str | None) -> None:
    if twice is None:
        check_unique(asked_of(items), items_of(context), "input")
        return
    message = f"Duplicate item found with id {twice}. Remove duplicate items from your input and try again."
    assert complaint(check_unique, asked_of(items), items_of(context), "input") == (
        400,
        None,
        "input",
        message,
    )


@pytest.mark.parametrize(
    ("items", "context", "orphan"),
    [
        ([OUTPUT], [], OUTPUT),
        ([CALL, OUTPUT], [], None),
        ([OUTPUT], [CALL], None),
        ([CALL, OUTPUT, OUTPUT | {"call_id": "d"}], [], OUTPUT | {"call_id": "d"}),
        ([OUTPUT], [CUSTOM], OUTPUT),
        ([NAMED], [], None),
        ([CUSTOM_OUTPUT], [CALL], CUSTOM_OUTPUT),
        ([OUTPUT, CALL], [], OUTPUT),
        ([OUTPUT, CALL, OUTPUT], [], OUTPUT),
        ([OUTPUT, CALL, OUTPUT], [CALL], None),
        ([NAMED, CALL, OUTPUT], [], None),
    ],
)
def test_an_output_without_its_call_is_found(
    items: list[Item], context: list[Item], orphan: Item | None
) -> None:
    found = find_orphan(items_of(items), items_of(context))
    assert found == (orphan and item_of(orphan))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (OUTPUT, "No tool call found for function call output with call_id c."),
        (CUSTOM_OUTPUT, "No tool call found for custom tool call output with call_id c."),
    ],
)
def test_an_output_without_its_call_is_refused_in_the_vendors_words(output: Item, message: str) -> None:
    assert complaint(check_answers, items_of([output]), [], "items") == (400, None, "items", message)


QUESTION: Item = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "name": "t",
    "server_label": "s",
    "arguments": "{}",
}
YES: Item = {
    "type": "mcp_approval_response",
    "id": "mcpa_1",
    "approval_request_id": "mcpr_1",
    "approve": True,
}
NO = YES | {"id": "mcpa_2", "approve": False}


@pytest.mark.parametrize(
    ("items", "context", "index"),
    [([YES, NO], [QUESTION], 1), ([NO, YES], [QUESTION], 1), ([ASKED, YES], [QUESTION, YES], 1)],
)
def test_a_question_is_answered_once(items: list[Item], context: list[Item], index: int) -> None:
    check_answers(items_of(items[:1]), items_of([QUESTION]), "input")
    check_answers(items_of([QUESTION, YES]), [], "input")
    reason = f"Invalid value for 'input[{index}].approval_request_id': it is answered already."
    param = f"input[{index}].approval_request_id"
    assert complaint(check_answers, items_of(items), items_of(context), "input") == (
        400,
        "invalid_value",
        param,
        reason,
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([CALL, OUTPUT, ASKED], None),
        ([CALL, OUTPUT, OUTPUT, ASKED], None),
        ([CALL, NAMED], None),
        ([CUSTOM, CUSTOM_OUTPUT], None),
        ([CALL, ASKED], "No tool output found for function call c."),
        ([CALL], "No tool output found for function call c."),
        ([CALL, CUSTOM, CUSTOM_OUTPUT], "No tool output found for function call c."),
        ([CALL, CALL | {"call_id": "d"}, OUTPUT], "No tool output found for function call d."),
        ([CUSTOM, OUTPUT, CALL], "No tool output found for custom tool call c."),
        ([OUTPUT, CALL], "No tool output found for function call c."),
        ([NAMED, CALL], "No tool output found for function call c."),
        ([CALL, OUTPUT, CALL], "No tool output found for function call c."),
        ([CALL, OUTPUT, CALL, OUTPUT], None),
        ([CALL, NAMED, CALL, NAMED], None),
        ([CALL, NAMED, CALL], "No tool output found for function call c."),
        ([CALL, CUSTOM, OUTPUT, CUSTOM_OUTPUT], None),
    ],
)
def test_a_call_without_its_output_is_refused_in_the_vendors_words(
    prompt: list[Item], message: str | None
) -> None:
    if message is None:
        check_calls(items_of(prompt), "input")
    else:
        assert complaint(check_calls, items_of(prompt), "input") == (400, None, "input", message)


@pytest.mark.parametrize("prompt", [[CALL, CALL, OUTPUT], [CALL, CALL | {"name": "g"}, OUTPUT, OUTPUT]])
def test_two_calls_that_wait_at_once_have_two_ids(prompt: list[Item]) -> None:
    message = "Invalid value for 'input': two calls with the call_id 'c' wait for an output at once."
    assert complaint(check_calls, items_of(prompt), "input") == (400, "invalid_value", "input", message)


SEALED: Item = OPAQUE | {"encrypted_content": "antiphon1.k.thought"}
SUMMARY: Item = {"summary": [{"type": "summary_text", "text": "s"}]}


def unseal(sealed: str) -> str | None:
    return sealed.rpartition(".")[2] if sealed.startswith("antiphon1.k.") else None


def test_reasoning_that_only_another_service_can_read_is_refused_unless_it_is_over() -> None:
    for prompt in ([ASKED, OPAQUE, CALL, OUTPUT], [OPAQUE], [ANSWERED, ASKED, OPAQUE]):
        assert complaint(open_reasoning, items_of(prompt), unseal)[1] == "invalid_encrypted_content"
    open_text = OPAQUE | {"content": [{"type": "reasoning_text", "text": "t"}]}
    for prompt in ([ASKED, OPAQUE, ANSWERED, ASKED], [OPAQUE | SUMMARY], [open_text]):
        assert open_reasoning(items_of(prompt), unseal) == items_of(prompt)


def test_reasoning_that_was_sealed_here_is_opened_where_the_model_reads_it() -> None:
    thought = {"content": [{"type": "reasoning_text", "text": "thought"}]}
    opened: Item = {"type": "reasoning", "id": "rs_1", "summary": [], **thought}
    for given in (SEALED, SEALED | {"content": None}, SEALED | {"content": []}):
        assert open_reasoning(items_of([ASKED, given, CALL, OUTPUT]), unseal) == items_of(
            [ASKED, opened, CALL, OUTPUT]
        )
    assert open_reasoning(items_of([SEALED | SUMMARY]), unseal) == items_of([opened | SUMMARY])
    for prompt in ([ASKED, SEALED, ANSWERED], [SEALED | thought]):
        assert open_reasoning(items_of(prompt), unseal) == items_of(prompt)


def test_what_was_sealed_here_and_cannot_be_opened_is_refused_even_with_a_summary() -> None:
    """Of what the model thought, a summary would silently be all that is left."""
    foreign = SEALED | SUMMARY | {"encrypted_content": "antiphon1.other.thought"}
    status, code, param, message = complaint(open_reasoning, items_of([ASKED, foreign]), unseal)
    assert (status, code, param) == (400, "invalid_encrypted_content", None)
    assert "antiphon1.other" not in message


def test_a_complaint_repeats_little_of_a_long_id() -> None:
    huge = OUTPUT | {"call_id": "c" * 100_000}
    assert len(complaint(check_answers, items_of([huge]), [], "input")[3]) < 400


RULES: Item = {"type": "message", "id": "msg_r", "role": "developer", "content": "now"}
OLD_RULES: Item = {"type": "message", "id": "msg_o", "role": "system", "content": "then"}
KEPT: Item = {"type": "message", "id": "msg_k", "role": "developer", "content": "kept"}


def sealed(id_: str, *kept: Item, is_whole: bool = True, waiting: Sequence[Item] = ()) -> Item:
    """A compaction whose seal is no secret."""
    instructions = min(len(kept), 1)
    made = Compacted("A summary.", items_of(kept), items_of(waiting), is_whole, instructions)
    return {"type": "compaction", "id": id_, "encrypted_content": made.encode()}


UNREADABLE: Item = {"type": "compaction", "id": "cmp_0", "encrypted_content": "x"}
WHOLE = sealed("cmp_w", OLD_RULES, KEPT)
PART = sealed("cmp_p", is_whole=False)


def read_of(*items: Item) -> tuple[list[object], bool]:
    opened, is_whole = open_compactions(
        items_of(items), lambda text: None if text == "x" else text, lambda place: f"input[{place}]"
    )
    return [item.id for item in opened], is_whole


@pytest.mark.parametrize(
    ("items", "ids", "is_whole"),
    [
        ([UNREADABLE, WHOLE, ASKED], ["msg_o", "msg_k", "cmp_w", "msg_1"], True),
        ([sealed("cmp_1"), ANSWERED, WHOLE, ASKED], ["msg_o", "msg_k", "cmp_w", "msg_1"], True),
        ([UNREADABLE, WHOLE, PART, ASKED], ["msg_o", "msg_k", "cmp_w", "cmp_p", "msg_1"], True),
        ([RULES, ANSWERED, WHOLE, ASKED], ["msg_r", "msg_k", "cmp_w", "msg_1"], True),
        ([OLD_RULES, RULES, WHOLE], ["msg_o", "msg_r", "msg_k", "cmp_w"], True),
        ([ANSWERED, RULES, WHOLE], ["msg_o", "msg_k", "cmp_w"], True),
        ([RULES, ANSWERED, PART], ["msg_r", "msg_2", "cmp_p"], False),
    ],
)
def test_the_last_whole_compaction_stands_for_all_before_it_but_the_instructions(
    items: list[Item], ids: list[str], is_whole: bool
) -> None:
    assert read_of(*items) == (ids, is_whole)


@pytest.mark.parametrize(
    ("items", "param"), [([WHOLE, UNREADABLE], "input[1]"), ([UNREADABLE, PART], "input[0]")]
)
def test_a_compaction_that_is_read_must_be_readable(items: list[Item], param: str) -> None:
    _, code, named, _ = complaint(read_of, *items)
    assert (code, named) == ("invalid_encrypted_content", param)


@pytest.mark.parametrize(
    ("call", "answer"),
    [(CALL | {"id": "fc_1"}, OUTPUT | {"id": "fco_1"}), (QUESTION, YES | {"id": "mcpa_1"})],
    ids=["call", "question"],
)
def test_a_call_that_a_compaction_holds_may_be_answered_before_it(call: Item, answer: Item) -> None:
    """By clients that put an output next to its call, wherever the compaction was."""
    whole = sealed("cmp_w", waiting=[call])
    part = sealed("cmp_p", is_whole=False, waiting=[call])
    ids = [call["id"], answer["id"]]
    assert read_of(ASKED, call, answer, whole) == (["cmp_w", *ids], True)
    assert read_of(ASKED, call, whole, answer) == (["cmp_w", *ids], True)
    assert read_of(ASKED, call, answer, part) == (["msg_1", *ids, "cmp_p"], False)
    assert read_of(ASKED, call, part, answer) == (["msg_1", "cmp_p", *ids], False)
    held = sealed("cmp_w", waiting=[call, answer])
    assert read_of(ASKED, call, answer, held) == (["cmp_w", *ids], True)


def test_an_earlier_answer_does_not_answer_a_later_call_with_the_same_id() -> None:
    again = CALL | {"id": "fc_2"}
    items = [CALL | {"id": "fc_1"}, OUTPUT | {"id": "fco_1"}, again, sealed("cmp_w", waiting=[again])]
    assert read_of(*items) == (["cmp_w", "fc_2"], True)
