"""Clients of a disturbed cluster: they stream, drop, resume on any node, poll, wait, cancel and continue.

Owns what a client does, and records everything it sees. Judges nothing; every operation has a
limit, and a client that reaches it records that too.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal

import httpx
import msgspec

from shared.responses import TERMINAL
from tests.chaos import doors
from tests.chaos.calls import SILENCE_S, CreateCall, RefusedForGoodError
from tests.chaos.history import (
    Asked,
    Beyond,
    Deleted,
    GaveUp,
    Operation,
    Replayed,
    Reported,
    Unreached,
    ViewEnded,
    ViewOpened,
    sha_of_response,
)
from tests.chaos.world import World
from tests.streams import without_comments

CALL_S = 120.0
"""A client gives up a response that has not ended by then."""
FLEX_S = 3 * CALL_S
"""The same for the tier `flex`, which others may overtake after each turn while they come: a turn of it, and
thirty-two of theirs."""
_BEYOND_S = 120.0
"""A reader beyond the end that gets only comments for this long was not answered; a silent reader
of the API looks into the log every two seconds, but all nodes may be away for half of this."""
_BEYOND_SHARE, _NEVER = 0.25, 10_000


async def make_call(world: World, asked: Asked, rng: random.Random) -> bool:
    """Makes one create call and reads it to its end, as its `way` says; returns False if the client had to
    give up."""
    world.begin(asked)
    try:
        async with asyncio.timeout(FLEX_S if asked.tier == "flex" else CALL_S):
            await Call(world, asked, rng).read_to_the_end()
    except TimeoutError:
        world.note(GaveUp(world.now_s(), asked.call))
        return False
    except RefusedForGoodError:
        return False
    finally:
        if asked.way == "unstored":  # it cannot be found later
            world.response_ids.pop(asked.call, None)
    return True


async def replay(world: World, call: int, rng: random.Random) -> None:
    """Reads the whole log once more, at the end of the run."""
    asked = Asked(0.0, call, 0, "", "stream", "")
    reader = Call(world, asked, rng, views=itertools.count(100_000))
    try:
        with suppress(RefusedForGoodError):
            async with asyncio.timeout(CALL_S):
                await reader.replay()
    except TimeoutError:
        world.note(GaveUp(world.now_s(), call))


class Call(CreateCall):
    """One response from its client's side."""

    async def read_to_the_end(self) -> None:
        match self.asked.way:
            case "stream":
                await self._stream(background=False, drops=self.rng.choice((0, 0, 1, 1, 2, 4)))
            case "background" if self.rng.random() < _BEYOND_SHARE:
                await self._look_beyond()
            case "background":
                await self._stream(background=True, drops=self.rng.choice((0, 1, 2, 4)))
            case "cancel":
                await self._stream_and_cancel()
            case "poll":
                await self._create_and_poll()
            case "wait":
                await self._wait()
            case "unstored":
                await self._stream(background=False, drops=self.rng.choice((0, 0, 1)))
            case "chat" | "socket":
                await self._stream(background=False, drops=self.rng.choice((0, 1)))
            case "abandon":
                await self._leave()
            case "delete":
                await self._stream(background=False, drops=0)
                await self._delete()

    async def replay(self) -> None:
        while not self.has_ended:
            view = next(self.views)
            self.world.note(Replayed(self.world.now_s(), self.asked.call, view))
            await self._view(view, -1, events_max=None)

    # --- streams --------------------------------------------------------------------------------

    async def _stream(self, *, background: bool, drops: int) -> None:
        while not self.has_ended:
            events_max = self.rng.randint(1, 60) if drops > 0 else None
            if self.response_id is None:
                how = await self._create(background, events_max)
            else:
                how = await self._view(next(self.views), self._choose_cursor(), events_max)
            drops -= how == "dropped"
            if how != "closed" or not self.has_ended:
                await self.pause()

    async def _stream_and_cancel(self) -> None:
        while self.response_id is None:
            await self._create_view(True, self.rng.randint(1, 80))
        while not self.has_ended:
            answer = await self._ask("cancel", "POST", f"/{self.response_id}/cancel")
            if answer is not None:
                break
        await self._stream(background=True, drops=0)

    async def _leave(self) -> None:
        """Reads the beginning, and does not come back."""
        while self.response_id is None:
            await self._create_view(False, self.rng.randint(1, 10))

    async def _look_beyond(self) -> None:
        """Asks early for what follows an event that will never be, as who reads on after a server lost the
        end; when the response has ended, that reader must learn it."""
        while self.response_id is None:
            await self._create_view(True, 1)
        after = self.seen + _NEVER
        reading = asyncio.create_task(self._wait_for_a_word(after))
        await self._stream(background=True, drops=0)
        done, _ = await asyncio.wait([reading], timeout=_BEYOND_S)
        reading.cancel()
        world = self.world
        world.note(Beyond(world.now_s(), self.asked.call, after, has_learned=bool(done)))

    async def _wait_for_a_word(self, after: int) -> None:
        """Until a view from beyond is answered with an event, or a refusal that is no excuse. One that ends
        proves nothing, since a client that follows the log reconnects."""
        timeout = httpx.Timeout(SILENCE_S, connect=2.0, pool=None)
        params = {"stream": "true", "starting_after": str(after)}
        while True:
            url = self.url(self.choose_node(), f"/{self.response_id}")
            with suppress(httpx.HTTPError):
                async with self.world.http.stream(
                    "GET", url, params=params, timeout=timeout, headers=self.authorization
                ) as answer:
                    if answer.status_code not in (200, 503):
                        return
                    async for chunk in answer.aiter_raw():
                        if answer.status_code == 200 and without_comments(chunk):
                            return
            await self.pause()

    async def _delete(self) -> None:
        """Repeats the delete until the response is gone, since an unanswered call may have deleted it."""
        while True:
            status = await self._ask("delete", "DELETE", f"/{self.response_id}")
            if status in (200, 404):
                break
        self.world.note(Deleted(self.world.now_s(), self.asked.call))
        while await self._ask("poll", "GET", f"/{self.response_id}") is None:
            pass
        del self.world.response_ids[self.asked.call]

    def _choose_cursor(self) -> int:
        """Returns the last number seen, or sometimes an earlier one."""
        if self.rng.random() < 0.2:
            return self.rng.randint(-1, self.seen)
        return self.seen

    async def _create(self, background: bool, events_max: int | None) -> str:
        match self.asked.way:
            case "chat":
                return await doors.chat(self, events_max)
            case "socket":
                return await doors.create_on_socket(self, events_max)
            case _:
                return await self._create_view(background, events_max)

    async def _create_view(self, background: bool, events_max: int | None) -> str:
        body = self.body(stream=True, background=background)
        return await self._read_stream(
            next(self.views), -1, events_max, "create", "POST", "", content=body, headers=self.headers
        )

    async def _view(self, view: int, after: int, events_max: int | None) -> str:
        params = {"stream": "true"} if after < 0 else {"stream": "true", "starting_after": str(after)}
        return await self._read_stream(
            view, after, events_max, "read", "GET", f"/{self.response_id}", params=params
        )

    async def _read_stream(
        self,
        view: int,
        after: int,
        events_max: int | None,
        operation: Operation,
        method: str,
        path: str,
        **request: Any,
    ) -> str:
        """Reads at most `events_max` events; returns how the view ended."""
        world, call, node = self.world, self.asked.call, self.choose_node()
        world.note(ViewOpened(world.now_s(), call, view, node, after))
        timeout = httpx.Timeout(SILENCE_S, connect=2.0, pool=None)
        how: Literal["closed", "dropped", "broken"] = "closed"
        try:
            request = {"headers": self.authorization} | request
            async with world.http.stream(method, self.url(node, path), timeout=timeout, **request) as answer:
                if answer.status_code != 200:
                    await self.note_refusal(operation, node, answer)
                    how = "broken"
                elif await self._take_frames(view, answer.aiter_raw(), events_max):
                    how = "dropped"
        except httpx.HTTPError as error:
            world.note(Unreached(world.now_s(), call, operation, node, repr(error)))
            how = "broken"
        except RefusedForGoodError:
            how = "broken"
            raise
        finally:
            world.note(ViewEnded(world.now_s(), call, view, how))
        return how

    async def _take_frames(self, view: int, chunks: AsyncIterator[bytes], events_max: int | None) -> bool:
        """Returns True if enough events have arrived and the client leaves; ignores an incomplete frame."""
        waiting, count = b"", 0
        async for chunk in chunks:
            *frames, waiting = (waiting + chunk).split(b"\n\n")
            for frame in frames:
                self.take_frame(view, without_comments(frame + b"\n\n"))
                count += 1
                if count == events_max:
                    return True
        return False

    # --- whole answers --------------------------------------------------------------------------

    async def _create_and_poll(self) -> None:
        body = self.body(stream=False, background=True)
        while self.response_id is None:
            await self._ask("create", "POST", "", content=body, headers=self.headers)
        while not self.has_ended:
            await asyncio.sleep(self.rng.uniform(0.1, 1.0))
            await self._ask("poll", "GET", f"/{self.response_id}")

    async def _wait(self) -> None:
        body = self.body(stream=False, background=False)
        while not self.has_ended:
            await self._ask("create", "POST", "", content=body, headers=self.headers)

    async def _ask(self, operation: Operation, method: str, path: str, **request: Any) -> int | None:
        """Returns the HTTP status; None if there was no answer, or one that asks the client to retry."""
        world, call, node = self.world, self.asked.call, self.choose_node()
        try:
            request = {"headers": self.authorization} | request
            answer = await world.http.request(method, self.url(node, path), **request)
        except httpx.HTTPError as error:
            world.note(Unreached(world.now_s(), call, operation, node, repr(error)))
            await self.pause()
            return None
        if answer.status_code != 200:
            await self.note_refusal(operation, node, answer)
            await self.pause()
            return None if answer.status_code == 503 else answer.status_code
        response = msgspec.json.decode(answer.content)
        if operation == "delete":
            return 200
        self.note_accepted(response)
        status = response["status"]
        world.note(Reported(world.now_s(), call, operation, node, status, sha_of_response(response)))
        if status in TERMINAL and operation != "cancel":
            self.has_ended = True
        return 200
