"""The wire of an answer: when it may be written to, and how its block ends."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api.answer import Wire
from api.errors import StreamCut
from tests.patience import PATIENCE_S

START = {"type": "http.response.start", "status": 200, "headers": []}


@pytest_asyncio.fixture
async def cycle() -> AsyncIterator[RequestResponseCycle]:
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    scope: Any = {"type": "http", "method": "GET", "http_version": "1.1"}
    log = logging.getLogger(__name__)
    yield RequestResponseCycle(
        scope=scope,
        transport=writer.transport,  # type: ignore[arg-type]
        flow=FlowControl(writer.transport),  # type: ignore[arg-type]
        logger=log,
        access_logger=log,
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    )
    writer.close()
    theirs.close()


async def test_nothing_is_written_before_the_answer_has_begun_or_while_the_client_is_behind(
    cycle: RequestResponseCycle,
) -> None:
    wire = Wire(cycle)
    assert not wire.is_free
    await cycle.send(START)  # type: ignore[arg-type]
    assert wire.is_free
    cycle.flow.pause_writing()
    assert not wire.is_free
    cycle.flow.resume_writing()
    cycle.transport.close()
    assert not wire.is_free


async def begin(wire: Wire) -> "asyncio.Task[str]":
    """A block that waits for something that never comes."""
    is_waiting = asyncio.Event()

    async def wait() -> str:
        with wire:
            is_waiting.set()
            await asyncio.Event().wait()
        task = asyncio.current_task()
        return f"{task.cancelling() if task else '?'} cancellations left"

    task = asyncio.create_task(wait())
    async with asyncio.timeout(PATIENCE_S):
        await is_waiting.wait()
    return task


@pytest.mark.parametrize("is_cut_too", [False, True])
async def test_a_lost_client_ends_the_block_quietly_and_once(
    cycle: RequestResponseCycle, is_cut_too: bool
) -> None:
    wire = Wire(cycle)
    task = await begin(wire)
    if is_cut_too:
        wire.cut("the node is ending")
    wire.lose()
    async with asyncio.timeout(PATIENCE_S):
        assert await task == "0 cancellations left"
    assert wire.is_lost


async def test_a_stream_is_cut_with_the_reason_though_its_client_keeps_it_waiting(
    cycle: RequestResponseCycle,
) -> None:
    wire = Wire(cycle)
    task = await begin(wire)
    wire.cut("the node is ending")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(StreamCut, match="the node is ending"):
            await task


async def test_who_else_cancels_the_task_is_not_kept_from_it(cycle: RequestResponseCycle) -> None:
    wire = Wire(cycle)
    task = await begin(wire)
    task.cancel()
    wire.lose()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(asyncio.CancelledError):
            await task
