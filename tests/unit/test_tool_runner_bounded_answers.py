"""What is read of one message is bounded, and of a stream what comes at once."""

from collections.abc import AsyncIterator, Iterable

import httpx2
import pytest

from tool_runner.bounded_answers import ANSWER_BYTES_MAX, BoundedBody, TooLarge
from tool_runner.value_count import ANSWER_VALUES_MAX

PROGRESS = (
    b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/progress",'
    b'"params":{"progressToken":1,"progress":2,"total":3,"message":"step"}}\n\n'
)


class Body(httpx2.AsyncByteStream):
    """Brings a chunk every so many seconds of a time of its own."""

    def __init__(self, chunks: Iterable[bytes], every_s: float) -> None:
        self._chunks, self._every_s = chunks, every_s
        self.now_s = 0.0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            self.now_s += self._every_s
            yield chunk


async def read(chunks: Iterable[bytes], every_s: float, *, is_stream: bool = True) -> int:
    body = Body(chunks, every_s)
    bounded = BoundedBody(body, is_stream=is_stream, clock=lambda: body.now_s)
    return sum([len(chunk) async for chunk in bounded])


@pytest.mark.parametrize("every_s", [0.0625, 0.01])
async def test_a_call_may_report_its_progress_all_the_time_that_it_has(every_s: float) -> None:
    assert await read([PROGRESS] * 9_600, every_s) == 9_600 * len(PROGRESS)


async def test_reports_may_come_in_any_pieces() -> None:
    pieces = [PROGRESS[:-1], PROGRESS[-1:]] * 4_000
    assert await read(pieces, 0.1) == 4_000 * len(PROGRESS)
    with_returns = [PROGRESS.replace(b"\n", b"\r\n")] * 4_000
    assert await read(with_returns, 0.1) > 4_000 * len(PROGRESS)


async def test_a_flood_of_reports_is_refused() -> None:
    with pytest.raises(TooLarge, match="more than 20000 values"):
        await read([PROGRESS] * 4_000, 0.001)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_no_time_makes_one_message_larger(is_stream: bool) -> None:
    slow = [b"data: [", *[b"1," * 100] * (ANSWER_VALUES_MAX // 100 + 1)]
    with pytest.raises(TooLarge, match="values"):
        await read(slow, 10.0, is_stream=is_stream)
    long = [b'data: "', *[b"x" * 2**16] * (ANSWER_BYTES_MAX // 2**16 + 1)]
    with pytest.raises(TooLarge, match="bytes"):
        await read(long, 10.0, is_stream=is_stream)


async def test_blank_lines_end_nothing_in_an_answer_that_is_no_stream() -> None:
    with pytest.raises(TooLarge, match="values"):
        await read([b"[1,2,3,\n\n"] * ANSWER_VALUES_MAX, 10.0, is_stream=False)


async def test_what_a_stream_brings_slowly_may_be_long_in_all() -> None:
    event = b"data: " + b"x" * 2**20 + b"\n\n"
    assert await read([event] * 40, 2.0) == 40 * len(event)
