"""`python -m bench.naive_reader PORT REDIS_URL`: relays logs as one would write it first, for comparison.

Each client has a connection of its own to Redis, which blocks in XREAD, and an answer of Starlette's. Has no
tenants, no cursors, no keep-alives and no bound on what a slow client costs.
"""

import sys
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from local.ports import HOST
from shared.store import keys
from shared.store.keys import ResponseKey

_BLOCK_MS = 5_000
_END = b"event: response.completed\n"


def make_app(redis_url: str) -> Starlette:
    server: Any = redis.asyncio.Redis.from_url(redis_url)

    async def read(log: str) -> AsyncIterator[bytes]:
        last, frame = b"0", b""
        while not frame.startswith(_END):
            for _, entries in await server.xread({log: last}, block=_BLOCK_MS):
                for entry_id, fields in entries:
                    last, frame = entry_id, fields[b"e"]
                    yield frame

    async def stream(request: Request) -> StreamingResponse:
        key = ResponseKey("default", request.path_params["id"])
        return StreamingResponse(read(keys.log(key)), media_type="text/event-stream")

    async def health(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/v1/responses/{id}", stream), Route("/health", health)])


if __name__ == "__main__":
    port, url = int(sys.argv[1]), sys.argv[2]
    uvicorn.run(make_app(url), host=HOST, port=port, log_level="warning", access_log=False)
