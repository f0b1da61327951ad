"""The other doors to a response: a chat completion, and a WebSocket.

Owns their messages, and how a client asks by them; `clients` reads on.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import msgspec
from websockets.exceptions import WebSocketException

from tests.chaos.calls import SILENCE_S, CreateCall
from tests.chaos.history import Chatted, Refused, Unreached, ViewEnded, ViewOpened
from tests.chaos.world import ANSWER_S
from tests.sockets import Socket, socket_to

KEY = "key"
"""The member of a response's `metadata` that names the call for which a socket asked."""
_DONE = "data: [DONE]"
_DATA = "data: "


class _Numbered(msgspec.Struct):
    type: str
    sequence_number: int | None = None
    status: int = 0


_numbered = msgspec.json.Decoder(_Numbered)


def chat_of(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the chat call that asks for what a create call without tools asks for."""
    asked: dict[str, Any] = {name: body[name] for name in ("model", "service_tier") if name in body}
    return {**asked, "messages": [{"role": "user", "content": body["input"]}], "stream": True, "store": True}


async def read_chunks(lines: AsyncIterator[str]) -> AsyncIterator[str | None]:
    """Yields the text that each chunk adds, and None once the chat is complete."""
    async for line in lines:
        if line == _DONE:
            yield None
            return
        if line.startswith(_DATA):
            chunk = msgspec.json.decode(line.removeprefix(_DATA))
            yield "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))


def frame_of(message: bytes) -> bytes | None:
    """Returns the frame of the event that a message on a socket is; None if it is none of the log's."""
    named = _numbered.decode(message)
    if named.sequence_number is None:
        return None
    return b"event: %b\nid: %d\ndata: %b\n\n" % (named.type.encode(), named.sequence_number, message)


def refusal_in(message: bytes) -> int | None:
    """Returns the status of a refusal; None if the message is none."""
    named = _numbered.decode(message)
    return named.status if named.type == "error" else None


async def chat(one: CreateCall, chunks_max: int | None) -> str:
    """Asks for it as a chat. A chat that is cut goes on as the response that it is; so does one that is
    complete, for comparison."""
    world, call, node, said = one.world, one.asked.call, one.choose_node(), ""
    content = msgspec.json.encode(chat_of(one.fields()))
    url = f"{world.urls[node]}/v1/chat/completions"
    timeout = httpx.Timeout(SILENCE_S, connect=2.0, pool=None)
    try:
        async with world.http.stream(
            "POST", url, content=content, headers=one.headers, timeout=timeout
        ) as answer:
            if answer.status_code != 200:
                await one.note_refusal("create", node, answer)
                return "broken"
            one.note_accepted({"id": answer.headers["x-response-id"]})
            count = 0
            async for text in read_chunks(answer.aiter_lines()):
                if text is None:
                    world.note(Chatted(world.now_s(), call, said))
                    return "closed"
                said, count = said + text, count + 1
                if count == chunks_max:
                    return "dropped"
    except httpx.HTTPError as error:
        world.note(Unreached(world.now_s(), call, "create", node, repr(error)))
    return "broken"


async def create_on_socket(one: CreateCall, events_max: int | None) -> str:
    """Asks for it on a WebSocket of its own. One that is lost goes on as a stream."""
    world, call, view, node = one.world, one.asked.call, next(one.views), one.choose_node()
    world.note(ViewOpened(world.now_s(), call, view, node, -1))
    how: Literal["closed", "dropped", "broken"] = "broken"
    try:
        async with (
            asyncio.timeout(ANSWER_S),
            socket_to(world.urls[node], **one.authorization) as socket,
        ):
            # A repeated call makes another response, as there is no key.
            await socket.send(type="response.create", metadata={KEY: one.asked.key}, **one.fields())
            how = await _take_messages(one, view, node, socket, events_max)
    except (OSError, TimeoutError, WebSocketException) as error:
        world.note(Unreached(world.now_s(), call, "create", node, repr(error)))
    finally:
        world.note(ViewEnded(world.now_s(), call, view, how))
    return how


async def _take_messages(
    one: CreateCall, view: int, node: int, socket: Socket, events_max: int | None
) -> Literal["closed", "dropped", "broken"]:
    """Returns how the view ended."""
    for count in itertools.count(1):
        message = await socket.receive()
        status = refusal_in(message)
        if status is not None:
            world, text = one.world, message.decode()[:500]
            world.note(Refused(world.now_s(), one.asked.call, "create", node, status, text))
            return "broken"
        frame = frame_of(message)
        if frame is not None:
            one.take_frame(view, frame)
        if one.has_ended:
            return "closed"
        if count == events_max:
            return "dropped"
    raise AssertionError
