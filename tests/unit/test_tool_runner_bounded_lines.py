"""A line of a stdio server is read however it comes; one that is too long fails the call that it answers."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tool_runner.bounded_lines import BoundedLines, RefusedLine, find_id
from tool_runner.value_count import ANSWER_VALUES_MAX

LONG = "the answer is longer than 100 bytes"


async def lines_in(pieces: Iterable[bytes], bytes_max: int = 100) -> list[bytes | RefusedLine]:
    rest = iter([*pieces, b""])

    async def receive() -> bytes:
        return next(rest)

    lines, found = BoundedLines(receive, bytes_max), list[bytes | RefusedLine]()
    while (line := await lines.next()) is not None:
        found.append(line)
    return found


def cut(raw: bytes, step: int) -> list[bytes]:
    return [raw[at : at + step] for at in range(0, len(raw), step)]


@given(st.lists(st.text(max_size=30).map(json.dumps)), st.integers(1, 50))
async def test_lines_are_read_however_their_bytes_come(texts: list[str], step: int) -> None:
    raw = b"".join(text.encode() + b"\n" for text in texts)
    assert await lines_in(cut(raw, step), 1_000) == [text.encode() for text in texts]


@pytest.mark.parametrize("step", [1, 7, 1_000])
async def test_a_long_line_is_refused_with_the_id_that_it_answers_and_the_next_is_read(step: int) -> None:
    long = b'{"jsonrpc": "2.0", "id": 7, "result": "' + b"x" * 5_000 + b'"}'
    last = b'{"result":"' + b"x" * 5_000 + b'","jsonrpc":"2.0","id":"a"}'
    raw = b"\n".join([b"{}", long, b"\r", last, b"[" + b"x" * 5_000, b'{"a":1}', b"without an end"])
    assert await lines_in(cut(raw, step)) == [
        b"{}",
        RefusedLine(LONG, b"7"),
        RefusedLine(LONG, b'"a"'),
        RefusedLine(LONG, None),
        b'{"a":1}',
    ]


async def test_a_line_of_too_many_values_is_refused_and_many_lines_are_not() -> None:
    answer = b'{"id":1,"result":[' + b"1," * ANSWER_VALUES_MAX + b"1]}\n"
    reason = f"the answer has more than {ANSWER_VALUES_MAX} values"
    assert await lines_in(cut(answer, 1_000), 10**6) == [RefusedLine(reason, b"1")]
    assert len(await lines_in([b"[1,2,3,4,5,6]\n" * ANSWER_VALUES_MAX])) == ANSWER_VALUES_MAX


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"id":12,"jsonrpc":"2.0","result":{}}', b"12"),
        (b'{"result":{"id":3},"id":4}', b"4"),
        (b'{"result":{},"id":5,"jsonrpc":"2.0"}', b"5"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', None),
        (b'{"jsonrpc":"2.0","method":"a","params":{"id":3}}', None),
        (b'{"jsonrpc":"2.0","result":{"id":3}}', None),
        (b"Listening on stdio", None),
    ],
)
def test_the_id_is_found_at_either_end_of_an_answer(line: bytes, found: bytes | None) -> None:
    assert find_id(line, line) == found
