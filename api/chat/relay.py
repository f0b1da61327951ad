"""Answers one chat call from the log of its response, streamed or whole.

Owns how the events are read, and that a response ends at a stop sequence; the log and its readers are those
of every response (`api/read.py`).
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from api.accept import Created
from api.chat.answer import ChatAnswer, Chunk
from api.chat.body import ChatForm
from api.chat.forms import ChatStream, WholeChat
from api.errors import ResponseLost
from api.hub import LogGone
from api.offload import Offload
from api.read import FROM_THE_START, Frames, Reading
from shared.responses import Response


class ChatRelay:
    def __init__(self, reading: Reading, offload: Offload, created: Created, form: ChatForm) -> None:
        self._reading = reading
        self._offload = offload
        self._key, self._arrival = created.key, created.arrival
        self._form = form
        self._answer = ChatAnswer(form)

    async def stream(self) -> Frames:
        """Yields the frames of the stream. Raises what `Reading.follow` does."""
        stream: ChatStream | None = None
        async with aclosing(self._chunks()) as told:
            async for chunks in told:
                if stream is None:
                    stream = ChatStream(self._begun(), self._form)
                yield b"".join(map(stream.frame, chunks))
        assert stream is not None
        yield stream.end(self._answer, await self._end())

    async def finish(self) -> bytes:
        """Waits for the end; returns JSON of the chat completion.

        Raises ClientError for a response that has failed, ResponseLost and NodeEnding.
        """
        whole = WholeChat()
        try:
            async with aclosing(self._chunks()) as told:
                async for chunks in told:
                    for chunk in chunks:
                        whole.add(chunk)
        except LogGone:
            raise ResponseLost(self._key.response_id) from None
        return whole.encode(self._answer, await self._end())

    async def _chunks(self) -> AsyncGenerator[list[Chunk], None]:
        """Yields chunks until the answer is over; never an empty list."""
        frames = self._reading.follow(self._key, FROM_THE_START, is_watched=True, arrival=self._arrival)
        async with aclosing(frames):
            async for some in frames:
                chunks = await self._read(some)
                if chunks:
                    yield chunks
                if self._answer.has_stopped:
                    return

    async def _read(self, frames: bytes) -> list[Chunk]:
        return await self._offload.run(len(frames), lambda: self._answer.read(frames))

    def _begun(self) -> Response:
        begun = self._answer.begun
        assert begun is not None, "a log begins with response.created"
        return begun

    async def _end(self) -> Response:
        """Returns the response as it ended. One that has come to a stop sequence is cancelled: nobody reads
        what the model would still say."""
        if self._answer.ended is not None:
            return self._answer.ended
        return await self._reading.end(self._key)
