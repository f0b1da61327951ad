"""Which cell a request names, and the order in which cells are asked."""

import json
import random
import resource
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.cells.choice import by_key, in_turn
from api.cells.naming import Named, cell_of_path, read_named
from api.errors import ClientError
from api.server import fit_connections
from shared.ids import call_id, cell_of, container_id, item_id, new_conversation_id, new_response_id
from shared.settings import Settings

CELLS = {"a", "b", "0"}
VALUES_MAX = 1_000
A, B, UNKNOWN = (new_response_id(cell) for cell in ("a", "b", "zz"))
CONVERSATION_B = new_conversation_id("b")
MESSAGE_A, QUESTION_A, CODE_B = item_id("msg", A, 0), item_id("mcpr", A, 1), item_id("ci", B, 0)
APPROVAL_A = {"type": "mcp_approval_response", "approval_request_id": QUESTION_A, "approve": True}


def named(body: Any) -> Named:
    return read_named(json.dumps(body).encode(), CELLS, VALUES_MAX)


def test_an_id_names_its_cell() -> None:
    for made in (B, CONVERSATION_B, item_id("fc", B, "i3"), call_id(B, 2), container_id(B)):
        assert cell_of(made) == "b", made
    for other in ("", "resp_b", "resp_b_xyz", f"{B}\n", "chatcmpl-1", f"resp_B_{'0' * 32}", "x" * 10_000):
        assert cell_of(other) is None, other


def test_a_path_names_the_cell_of_its_response_or_conversation() -> None:
    for path in (
        f"/v1/responses/{B}",
        f"/v1/responses/{B}/cancel",
        f"/v1/conversations/{CONVERSATION_B}/items/x",
    ):
        assert cell_of_path(path, CELLS) == "b"
    for path in (
        "/v1/responses",
        f"/v1/responses/{UNKNOWN}",
        f"/v1/models/{B}",
        f"/{B}",
        "/v1/responses/mine",
    ):
        assert cell_of_path(path, CELLS) is None


@pytest.mark.parametrize(
    ("body", "cell"),
    [
        ({"previous_response_id": B}, "b"),
        ({"conversation": CONVERSATION_B}, "b"),
        ({"conversation": {"id": CONVERSATION_B}}, "b"),
        ({"input": [{"type": "item_reference", "id": MESSAGE_A}]}, "a"),
        ({"input": [{"id": MESSAGE_A}]}, "a"),
        ({"items": [{"type": "item_reference", "id": MESSAGE_A}]}, "a"),
        ({"input": [APPROVAL_A]}, "a"),
        ({"previous_response_id": A, "input": [APPROVAL_A, {"id": MESSAGE_A}]}, "a"),
        ({"previous_response_id": UNKNOWN, "input": [{"id": MESSAGE_A}]}, "a"),
        ({"previous_response_id": UNKNOWN}, None),
        ({"input": "hello", "metadata": {"previous_response_id": B}}, None),
        ({"input": [{"role": "user", "content": MESSAGE_A}]}, None),
        ({"input": [{"type": "message", "role": "assistant", "id": MESSAGE_A, "content": []}]}, None),
        ({"input": [APPROVAL_A, {"type": "mcp_call", "id": CODE_B}]}, None),
        ({"input": [APPROVAL_A, {"role": "assistant", "content": "done"}]}, None),
        ({"input": [1, {"id": MESSAGE_A}]}, None),
        ({"previous_response_id": 5, "conversation": [B], "input": {"id": A}}, None),
        ([B], None),
    ],
)
def test_a_body_names_the_cell_that_keeps_what_it_refers_to(body: Any, cell: str | None) -> None:
    assert named(body).cell == cell


def test_items_that_are_sent_whole_only_make_one_cell_the_better_choice() -> None:
    history = [{"type": "message", "role": "assistant", "id": MESSAGE_A, "content": []}]
    assert named({"input": history}) == Named(None, "a")
    assert named({"input": [*history, {"type": "code_interpreter_call", "id": CODE_B}]}) == Named(None, "b")
    assert named({"input": [*history, {"id": "msg_of_mine", "role": "user"}]}) == Named(None, "a")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": A, "conversation": CONVERSATION_B}, "conversation"),
        ({"previous_response_id": A, "conversation": {"id": CONVERSATION_B}}, "conversation.id"),
        ({"previous_response_id": B, "input": ["x", {"id": MESSAGE_A}]}, None),
        ({"previous_response_id": B, "input": [{"role": "user"}, {"id": MESSAGE_A}]}, "input[1].id"),
        ({"conversation": CONVERSATION_B, "input": [APPROVAL_A]}, "input[0].approval_request_id"),
        ({"items": [{"id": MESSAGE_A}, {"id": item_id("msg", B, 0)}]}, "items[1].id"),
    ],
)
def test_ids_of_two_cells_are_refused_by_name(body: Any, param: str | None) -> None:
    if param is None:
        assert named(body) == Named()  # the cell says what is wrong with it
        return
    with pytest.raises(ClientError) as refused:
        named(body)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_value", param)


def test_a_body_may_not_contradict_its_path() -> None:
    body = json.dumps({"items": [{"id": MESSAGE_A}]}).encode()
    assert read_named(body, CELLS, VALUES_MAX, "a", "conversation_id").cell == "a"
    with pytest.raises(ClientError, match="conversation_id"):
        read_named(body, CELLS, VALUES_MAX, "b", "conversation_id")


def test_a_body_of_too_many_values_is_not_decoded() -> None:
    body = json.dumps({"previous_response_id": B, "input": [{}] * VALUES_MAX}).encode()
    assert read_named(body, CELLS, VALUES_MAX) == Named()
    assert read_named(body, CELLS, 3 * VALUES_MAX).cell == "b"


@given(st.binary(max_size=200))
def test_a_body_that_is_no_request_names_nothing(raw: bytes) -> None:
    assert read_named(raw, CELLS, VALUES_MAX).cell in {None, *CELLS}
    assert read_named(b'{"input":' + b"[" * 100_000, CELLS, 200_000) == Named()


def test_cells_come_first_as_often_as_their_weights_say() -> None:
    chance = random.Random(1).random
    weights = {"a": 3.0, "b": 1.0, "drained": 0.0}
    first = Counter(in_turn(weights, chance)[0] for _ in range(10_000))
    assert set(first) == {"a", "b"}
    assert 2.5 < first["a"] / first["b"] < 3.5
    assert sorted(in_turn(weights, chance)) == ["a", "b"]
    assert in_turn({}, lambda: 0.0) == []


def test_a_key_keeps_its_cell_and_moves_only_to_a_new_one() -> None:
    keys = [f"t key-{i}" for i in range(3_000)]
    before = {key: by_key({"a": 1, "b": 2}, key) for key in keys}
    assert before == {key: by_key({"b": 2, "a": 1}, key) for key in keys}
    assert 1.6 < Counter(before.values())["b"] / Counter(before.values())["a"] < 2.5
    after = {key: by_key({"a": 1, "b": 2, "c": 1}, key) for key in keys}
    assert {after[key] for key in keys if after[key] != before[key]} == {"c"}
    assert by_key({"a": 0}, "k") is None


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:99999", "http://127.0.0.1:0", "http://a..b:80", "http://[:::1]:80"),
        *(f"http://{'a' * 64}:80", "http://h:80/path", "ftp://h", "h:80", "http://"),
    ],
)
def test_a_node_that_cannot_be_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValidationError, match=r"cells\.a\.nodes\.0"):
        Settings(cells={"a": {"nodes": [url]}})
    Settings(cells={"a": {"nodes": ["http://api:8000", "https://cell-b.example.", "http://[::1]:80"]}})


def test_each_client_of_a_router_needs_two_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, 3_000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    settings = Settings(http_connections_max=1_000, http_excess_connections_max=100)
    assert fit_connections(settings, files_each=2).http_connections_max == 1_000
    assert limits == [(2_356, 3_000)]
    larger = settings.model_copy(update={"http_connections_max": 2_000})
    assert fit_connections(larger).http_connections_max == 2_000
    assert fit_connections(larger, files_each=2).http_connections_max == 1_322
