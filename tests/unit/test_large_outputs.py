"""What ends or replays a response runs off the event loop where its tools have made it large."""

import threading
from collections.abc import Iterable
from typing import Any

import pytest

from shared.frames import frame
from shared.store.log.closing import closing_of
from shared.store.log.response_log import Closing
from shared.tool_calls import ToolOutput, ToolResult, ToolTask
from tests.memory import MemoryLog, MemoryTools, attempt
from tests.requests import make_request
from worker.response import ending, tool_results
from worker.response.tool_results import logged_results

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter", "require_approval": "never"}


@pytest.mark.parametrize("output_bytes", [10, 1_000_000])
async def test_a_large_output_is_encoded_off_the_loop(
    monkeypatch: pytest.MonkeyPatch, output_bytes: int
) -> None:
    threads: list[threading.Thread] = []
    make, encode = closing_of, frame

    def noted(*given: Any, **more: Any) -> Closing:
        threads.append(threading.current_thread())
        return make(*given, **more)

    def framed(*given: Any) -> bytes:
        threads.append(threading.current_thread())
        return encode(*given)

    def answer(_task: ToolTask) -> ToolOutput:
        return ToolOutput(" " * output_bytes)

    monkeypatch.setattr(ending, "closing_of", noted)
    monkeypatch.setattr(ending, "frame", framed)
    request = make_request("Multiply 6*7 with python", tools=[PYTHON])
    log = await attempt(request, tools=MemoryTools(answer))
    assert b" " * output_bytes in log.read()[-1].frame
    is_on_loop = [thread is threading.current_thread() for thread in threads]
    assert is_on_loop == [output_bytes == 10] * 2


@pytest.mark.parametrize("output_bytes", [10, 1_000_000])
async def test_logged_results_are_decoded_off_the_loop(
    monkeypatch: pytest.MonkeyPatch, output_bytes: int
) -> None:
    threads: list[threading.Thread] = []

    def noted(frames: Iterable[bytes]) -> dict[int, ToolResult]:
        threads.append(threading.current_thread())
        return logged_results(frames)

    def answer(_task: ToolTask) -> ToolOutput:
        return ToolOutput(" " * output_bytes)

    request = make_request("Multiply 6*7 with python", tools=[PYTHON])
    whole = (await attempt(request, tools=MemoryTools(answer))).read()
    monkeypatch.setattr(tool_results, "logged_results", noted)
    tools = MemoryTools(answer)
    again = await attempt(request, log=MemoryLog(whole[:-1]), tools=tools)
    assert [entry.frame for entry in again.read()] == [entry.frame for entry in whole]
    assert tools.asked == []
    assert [thread is threading.current_thread() for thread in threads] == [output_bytes == 10]
