"""Which messages are answers, and which reasoning is outdated."""

from typing import Any

import pytest

from shared.turns import answers_in, without_old_reasoning
from tests.items import items_of

Item = dict[str, Any]

ASKED: Item = {"type": "message", "role": "user", "content": "u"}
SAID: Item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
FINAL, PREAMBLE = SAID | {"phase": "final_answer"}, SAID | {"phase": "commentary"}
EMPTY: Item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ""}]}
CALL: Item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT: Item = {"type": "function_call_output", "call_id": "c", "output": "o"}
THOUGHT: Item = {"type": "reasoning", "summary": []}


@pytest.mark.parametrize(
    ("items", "answers"),
    [
        ([ASKED, SAID], [1]),
        ([ASKED, FINAL, ASKED, SAID, ASKED], [1, 3]),
        ([ASKED, PREAMBLE], []),
        ([ASKED, SAID, CALL, OUTPUT], []),
        ([ASKED, FINAL, CALL, OUTPUT, SAID], [4]),
        ([ASKED, SAID, THOUGHT, CALL], []),
        ([ASKED, SAID, ASKED, CALL, OUTPUT], [1]),
        ([ASKED, SAID, {"type": "mcp_call", "server_label": "s", "name": "n", "arguments": "{}"}], []),
        ([ASKED, SAID, {"type": "mcp_list_tools", "server_label": "s", "tools": []}], [1]),
        ([ASKED, EMPTY], []),
        ([ASKED, SAID | {"content": ""}], []),
        ([ASKED, SAID | {"content": [{"type": "refusal", "refusal": "no"}]}], [1]),
    ],
)
def test_an_answer_is_a_message_that_no_call_of_its_turn_follows(
    items: list[Item], answers: list[int]
) -> None:
    assert answers_in(items_of(items)) == answers


def test_reasoning_is_over_once_an_answer_follows_wherever_that_stands() -> None:
    asked, thought, said, call, output = items_of([ASKED, THOUGHT, SAID, CALL, OUTPUT])
    assert without_old_reasoning([asked, thought, said, asked, thought]) == [asked, said, asked, thought]
    assert without_old_reasoning([asked, thought, said], [call, output]) == [asked, thought, said]
    assert without_old_reasoning([asked, thought], [said]) == [asked]
