"""A client approves what the model asked, and nothing else."""

from typing import Any

import msgspec
import pytest

from api.approvals import Questions, Unread, confirm
from api.errors import ClientError
from shared.approvals import find_difference, fingerprint
from shared.responses import ConversationReference, McpApprovalRequest, ResponseRequest
from tests.items import items_of
from tests.requests import make_request
from worker.asking.conversation import approved_calls_in

QUESTION = McpApprovalRequest("mcpr_1", "wiki", "ask", '{"a":1,"b":[2]}')
ASKED = {"mcpr_1": fingerprint("mcpr_1", QUESTION)}
SENT: dict[str, Any] = msgspec.to_builtins(QUESTION)
YES = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}


def confirmed_of(request: ResponseRequest, asked: Questions) -> ResponseRequest | Unread:
    return confirm(request, request.input, asked)


def request_of(*items: dict[str, Any], context: tuple[dict[str, Any], ...] = ()) -> ResponseRequest:
    return msgspec.structs.replace(make_request(), input=items_of(items), context=items_of(context))


def test_what_was_asked_is_read_only_if_a_client_approves() -> None:
    for items in ((), (SENT,), (SENT, YES | {"approve": False})):
        request = request_of(*items)
        assert confirmed_of(request, {}) == msgspec.structs.replace(request, approved=[])
    assert confirmed_of(request_of(SENT, YES), {}) == Unread(["mcpr_1"])


@pytest.mark.parametrize("arguments", ['{"a":1,"b":[2]}', ' {"b": [2],\n"a": 1}'])
def test_the_same_call_counts_however_its_arguments_are_written(arguments: str) -> None:
    confirmed = confirmed_of(request_of(SENT | {"arguments": arguments}, YES), ASKED)
    assert isinstance(confirmed, ResponseRequest)
    assert confirmed.approved == ["mcpr_1"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arguments", '{"a":1,"b":[3]}'),
        ("arguments", '{"a":1.0,"b":[2]}'),
        ("arguments", '{"a":1,"b":[2]'),
        ("arguments", ""),
        ("arguments", "[" * 100_000),
        ("name", "ask2"),
        ("server_label", "wiki2"),
    ],
)
def test_a_changed_call_is_refused_by_the_member_that_was_changed(name: str, value: str) -> None:
    with pytest.raises(ClientError) as refused:
        confirmed_of(request_of(SENT | {name: value}, YES), ASKED)
    assert refused.value.param == f"input[0].{name}"
    with pytest.raises(ClientError) as refused:
        confirmed_of(request_of(YES, context=(SENT | {name: value},)), ASKED)
    assert refused.value.param == "input[0].approval_request_id"


def test_an_earlier_approval_of_what_was_not_asked_counts_no_more() -> None:
    unknown: Questions = {"mcpr_1": None}
    confirmed = confirmed_of(request_of(context=(SENT, YES)), unknown)
    assert isinstance(confirmed, ResponseRequest)
    assert confirmed.approved == []
    with pytest.raises(ClientError) as refused:
        confirmed_of(request_of(SENT, YES), unknown)
    assert refused.value.param == "input[0].id"


ANOTHER = SENT | {"id": "mcpr_2"}
YES_AGAIN = YES | {"approval_request_id": "mcpr_2"}
MADE = SENT | {"type": "mcp_call", "id": "mcp_1", "output": "done", "approval_request_id": "mcpr_1"}
SAID = {"type": "message", "role": "assistant", "content": "I have asked once."}
NEXT = {"type": "message", "role": "user", "content": "Stop."}


@pytest.mark.parametrize("follows", [(), (MADE,), (SAID,), (MADE, SAID)])
@pytest.mark.parametrize("place", ["previous", "conversation", "input"])
def test_an_approval_given_to_an_earlier_response_lets_nothing_run(
    place: str, follows: tuple[dict[str, Any], ...]
) -> None:
    """Only the items endpoint adds an answer that no response has read; a client may send one with more."""
    kept = ASKED | {"mcpr_2": fingerprint("mcpr_2", msgspec.structs.replace(QUESTION, id="mcpr_2"))}
    before = (SENT, ANOTHER, YES, YES_AGAIN, *follows)
    request = request_of(*before, NEXT) if place == "input" else request_of(NEXT, context=before)
    if place == "conversation":
        response = msgspec.structs.replace(request.response, conversation=ConversationReference("conv_1"))
        request = msgspec.structs.replace(request, response=response)
    confirmed = confirmed_of(request, kept)
    assert isinstance(confirmed, ResponseRequest)
    counts = ["mcpr_1", "mcpr_2"] if place != "previous" and not follows else []
    assert sorted(confirmed.approved or []) == counts


def test_a_call_may_be_approved_between_the_calls_of_its_turn() -> None:
    """As by clients that put each answer behind its question."""
    kept = ASKED | {"mcpr_2": fingerprint("mcpr_2", msgspec.structs.replace(QUESTION, id="mcpr_2"))}
    announced = SAID | {"phase": "commentary"}
    confirmed = confirmed_of(request_of(SENT, YES, announced, ANOTHER, YES_AGAIN), kept)
    assert isinstance(confirmed, ResponseRequest)
    assert sorted(confirmed.approved or []) == ["mcpr_1", "mcpr_2"]


def test_approved_calls_are_made_in_the_order_in_which_the_model_asked() -> None:
    kept = ASKED | {"mcpr_2": fingerprint("mcpr_2", msgspec.structs.replace(QUESTION, id="mcpr_2"))}
    confirmed = confirmed_of(request_of(YES_AGAIN, YES, context=(SENT, ANOTHER)), kept)
    assert isinstance(confirmed, ResponseRequest)
    assert confirmed.approved == ["mcpr_1", "mcpr_2"]
    assert [call[3] for call in approved_calls_in(confirmed)] == ["mcpr_1", "mcpr_2"]


def test_a_fingerprint_belongs_to_one_question() -> None:
    kept = fingerprint("mcpr_1", QUESTION)
    assert find_difference("mcpr_1", QUESTION, kept) is None
    assert find_difference("mcpr_2", QUESTION, kept) == "server_label"


def test_the_member_is_named_by_its_place_as_sent() -> None:
    """What stands for a compaction may be many items."""
    changed = SENT | {"name": "ask2"}
    opened = request_of({"role": "user", "content": "kept", "type": "message"}, changed, YES)
    with pytest.raises(ClientError) as refused:
        confirm(opened, items_of([changed, YES]), ASKED)
    assert refused.value.param == "input[0].name"
