"""Asks API nodes whether the cluster behind them is ready, and reports what is missing.

Waits for nothing and starts nothing.
"""

import asyncio
import http.client
import json

from local.ports import HOST

_ASK_TIMEOUT_S = 3.0


async def find_missing(port: int, *, workers: int, tool_runners: int) -> str | None:
    """Describes what the API node on this port still lacks; returns None if it lacks nothing."""
    try:
        status, body = await asyncio.to_thread(_get_ready, port)
    except (OSError, http.client.HTTPException):
        return "does not answer yet"
    return describe_missing(status, body, workers=workers, tool_runners=tool_runners)


async def find_missing_cells(port: int) -> str | None:
    """Describes what the router on this port lacks; returns None if every node of its cells is ready."""
    try:
        _, body = await asyncio.to_thread(_get_ready, port)
        cells = json.loads(body)["cells"]
        waiting = [name for name, seen in cells.items() if seen["ready"] < seen["nodes"]]
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return "the router does not answer yet"
    return f"the router waits for the nodes of the cells {', '.join(waiting)}" if waiting else None


def describe_missing(status: int, body: bytes, *, workers: int, tool_runners: int) -> str | None:
    """Describes what is missing according to an answer to GET /ready; returns None if nothing is.

    `body`: {"status", "redis", "workers", "tool_runners"}.
    """
    try:
        answer = json.loads(body)
        redis, seen = bool(answer["redis"]), (int(answer["workers"]), int(answer["tool_runners"]))
    except (ValueError, KeyError, TypeError):
        return f"answers GET /ready with {status} and something unreadable"
    if not redis:
        return "does not reach Redis"
    if seen[0] < workers or seen[1] < tool_runners:
        return f"sees {seen[0]} of {workers} workers, {seen[1]} of {tool_runners} tool runners"
    return None if status == 200 else f"answers GET /ready with {status}"


def _get_ready(port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=_ASK_TIMEOUT_S)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
