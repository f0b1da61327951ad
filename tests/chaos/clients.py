"""Clients of a disturbed cluster: they stream, drop, resume on any node, poll, wait, cancel and continue.

Owns what a client does, and records everything it sees. Judges nothing; every operation has a
limit, and a client that reaches it records that too.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import msgspec

from shared.responses import TERMINAL
from tests.chaos.deliveries import KEY
from tests.chaos.history import (
    Accepted,
    Asked,
    Beyond,
    Deleted,
    EventSeen,
    GaveUp,
    Observation,
    Operation,
    Recorder,
    Refused,
    Replayed,
    Reported,
    Unreached,
    ViewEnded,
    ViewOpened,
    Way,
    sha_of_bytes,
    sha_of_response,
)
from tests.chaos.plans import PLANS, Plan
from tests.streams import without_comments

CALL_S = 120.0
"""A client gives up a response that has not ended by then."""
_SILENCE_S = 4.0
"""After this long without even a comment, the node counts as stopped, and the client asks another one."""
_ANSWER_S = 30.0
_BEYOND_S = 120.0
"""A reader beyond the end that gets only comments for this long was not answered; a silent reader
of the API looks into the log every two seconds, but all nodes may be away for half of this."""
_TERMINAL_EVENTS = frozenset({b"response.completed", b"response.incomplete", b"response.failed"})

_FINAL = ("create", "read", "poll")
"""Operations whose refusal ends the call."""
_BEYOND_SHARE, _NEVER = 0.25, 10_000


@dataclass
class World:
    """The state that all clients share."""

    urls: Sequence[str]
    recorder: Recorder
    http: httpx.AsyncClient
    seed: str
    plans: Mapping[str, int]
    """The relative frequency of each plan."""
    ways: Mapping[Way, int]
    """The relative frequency of each way to read a response."""
    calls: Iterator[int] = field(default_factory=lambda: iter(()))
    """The numbers of the create calls still to be made."""
    response_ids: dict[int, str] = field(default_factory=dict)

    def note(self, observation: Observation) -> None:
        self.recorder.note(observation)

    def now_s(self) -> float:
        return self.recorder.now_s()


def open_http() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=2.0)
    return httpx.AsyncClient(
        headers={"authorization": f"Bearer {KEY}"},
        limits=limits,
        timeout=httpx.Timeout(_ANSWER_S, connect=3.0, pool=None),
        verify=False,
    )


async def make_call(world: World, asked: Asked, rng: random.Random) -> bool:
    """Makes one create call and reads it to its end, as its `way` says; returns False if the client had to
    give up."""
    world.note(asked)
    try:
        async with asyncio.timeout(CALL_S):
            await Call(world, asked, rng).read_to_the_end()
    except TimeoutError:
        world.note(GaveUp(world.now_s(), asked.call))
        return False
    except _RefusedForGoodError:
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
        with suppress(_RefusedForGoodError):
            async with asyncio.timeout(CALL_S):
                await reader.replay()
    except TimeoutError:
        world.note(GaveUp(world.now_s(), call))


class _RefusedForGoodError(Exception):
    """The call was refused for good; the checker judges that."""


class Call:
    """One response from its client's side."""

    def __init__(
        self, world: World, asked: Asked, rng: random.Random, views: Iterator[int] | None = None
    ) -> None:
        self._world = world
        self._asked = asked
        self._rng = rng
        self._views = views or itertools.count()
        self._seen = -1
        """The highest sequence number seen."""
        self._has_ended = False

    @property
    def _response_id(self) -> str | None:
        return self._world.response_ids.get(self._asked.call)

    async def read_to_the_end(self) -> None:
        match self._asked.way:
            case "stream":
                await self._stream(background=False, drops=self._rng.choice((0, 0, 1, 1, 2, 4)))
            case "background" if self._rng.random() < _BEYOND_SHARE:
                await self._look_beyond()
            case "background":
                await self._stream(background=True, drops=self._rng.choice((0, 1, 2, 4)))
            case "cancel":
                await self._stream_and_cancel()
            case "poll":
                await self._create_and_poll()
            case "wait":
                await self._wait()
            case "unstored":
                await self._stream(background=False, drops=self._rng.choice((0, 0, 1)))
            case "abandon":
                await self._leave()
            case "delete":
                await self._stream(background=False, drops=0)
                await self._delete()

    async def replay(self) -> None:
        while not self._has_ended:
            view = next(self._views)
            self._world.note(Replayed(self._world.now_s(), self._asked.call, view))
            await self._view(view, -1, events_max=None)

    # --- streams --------------------------------------------------------------------------------

    async def _stream(self, *, background: bool, drops: int) -> None:
        while not self._has_ended:
            events_max = self._rng.randint(1, 60) if drops > 0 else None
            if self._response_id is None:
                how = await self._create_view(background, events_max)
            else:
                how = await self._view(next(self._views), self._choose_cursor(), events_max)
            drops -= how == "dropped"
            if how != "closed" or not self._has_ended:
                await self._pause()

    async def _stream_and_cancel(self) -> None:
        while self._response_id is None:
            await self._create_view(True, self._rng.randint(1, 80))
        while not self._has_ended:
            answer = await self._ask("cancel", "POST", f"/{self._response_id}/cancel")
            if answer is not None:
                break
        await self._stream(background=True, drops=0)

    async def _leave(self) -> None:
        """Reads the beginning, and does not come back."""
        while self._response_id is None:
            await self._create_view(False, self._rng.randint(1, 10))

    async def _look_beyond(self) -> None:
        """Asks early for what follows an event that will never be, as who reads on after a server lost the
        end; when the response has ended, that reader must learn it."""
        while self._response_id is None:
            await self._create_view(True, 1)
        after = self._seen + _NEVER
        reading = asyncio.create_task(self._wait_for_a_word(after))
        await self._stream(background=True, drops=0)
        done, _ = await asyncio.wait([reading], timeout=_BEYOND_S)
        reading.cancel()
        world = self._world
        world.note(Beyond(world.now_s(), self._asked.call, after, has_learned=bool(done)))

    async def _wait_for_a_word(self, after: int) -> None:
        """Until a view from beyond is answered with an event, or a refusal that is no excuse. One that ends
        proves nothing, since a client that follows the log reconnects."""
        timeout = httpx.Timeout(_SILENCE_S, connect=2.0, pool=None)
        params = {"stream": "true", "starting_after": str(after)}
        while True:
            url = self._url(self._choose_node(), f"/{self._response_id}")
            with suppress(httpx.HTTPError):
                async with self._world.http.stream("GET", url, params=params, timeout=timeout) as answer:
                    if answer.status_code not in (200, 503):
                        return
                    async for chunk in answer.aiter_raw():
                        if answer.status_code == 200 and without_comments(chunk):
                            return
            await self._pause()

    async def _delete(self) -> None:
        """Repeats the delete until the response is gone, since an unanswered call may have deleted it."""
        while True:
            status = await self._ask("delete", "DELETE", f"/{self._response_id}")
            if status in (200, 404):
                break
        self._world.note(Deleted(self._world.now_s(), self._asked.call))
        while await self._ask("poll", "GET", f"/{self._response_id}") is None:
            pass
        del self._world.response_ids[self._asked.call]

    def _choose_cursor(self) -> int:
        """Returns the last number seen, or sometimes an earlier one."""
        if self._rng.random() < 0.2:
            return self._rng.randint(-1, self._seen)
        return self._seen

    async def _create_view(self, background: bool, events_max: int | None) -> str:
        body = self._body(stream=True, background=background)
        return await self._read_stream(
            next(self._views), -1, events_max, "create", "POST", "", content=body, headers=self._headers
        )

    async def _view(self, view: int, after: int, events_max: int | None) -> str:
        params = {"stream": "true"} if after < 0 else {"stream": "true", "starting_after": str(after)}
        return await self._read_stream(
            view, after, events_max, "read", "GET", f"/{self._response_id}", params=params
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
        world, call, node = self._world, self._asked.call, self._choose_node()
        world.note(ViewOpened(world.now_s(), call, view, node, after))
        timeout = httpx.Timeout(_SILENCE_S, connect=2.0, pool=None)
        how: Literal["closed", "dropped", "broken"] = "closed"
        try:
            async with world.http.stream(method, self._url(node, path), timeout=timeout, **request) as answer:
                if answer.status_code != 200:
                    await self._note_refusal(operation, node, answer)
                    how = "broken"
                elif await self._take_frames(view, answer.aiter_raw(), events_max):
                    how = "dropped"
        except httpx.HTTPError as error:
            world.note(Unreached(world.now_s(), call, operation, node, repr(error)))
            how = "broken"
        except _RefusedForGoodError:
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
                self._take_frame(view, without_comments(frame + b"\n\n"))
                count += 1
                if count == events_max:
                    return True
        return False

    def _take_frame(self, view: int, frame: bytes) -> None:
        world, call = self._world, self._asked.call
        name, number_line = frame.split(b"\n", 2)[:2]
        number = int(number_line.removeprefix(b"id: "))
        if self._response_id is None:
            self._note_accepted(msgspec.json.decode(frame[frame.index(b"\ndata: ") + 7 :])["response"])
        world.note(EventSeen(world.now_s(), call, view, number, sha_of_bytes(frame)))
        self._seen = max(self._seen, number)
        if name.removeprefix(b"event: ") in _TERMINAL_EVENTS:
            self._has_ended = True

    # --- whole answers --------------------------------------------------------------------------

    async def _create_and_poll(self) -> None:
        body = self._body(stream=False, background=True)
        while self._response_id is None:
            await self._ask("create", "POST", "", content=body, headers=self._headers)
        while not self._has_ended:
            await asyncio.sleep(self._rng.uniform(0.1, 1.0))
            await self._ask("poll", "GET", f"/{self._response_id}")

    async def _wait(self) -> None:
        body = self._body(stream=False, background=False)
        while not self._has_ended:
            await self._ask("create", "POST", "", content=body, headers=self._headers)

    async def _ask(self, operation: Operation, method: str, path: str, **request: Any) -> int | None:
        """Returns the HTTP status; None if there was no answer, or one that asks the client to retry."""
        world, call, node = self._world, self._asked.call, self._choose_node()
        try:
            answer = await world.http.request(method, self._url(node, path), **request)
        except httpx.HTTPError as error:
            world.note(Unreached(world.now_s(), call, operation, node, repr(error)))
            await self._pause()
            return None
        if answer.status_code != 200:
            await self._note_refusal(operation, node, answer)
            await self._pause()
            return None if answer.status_code == 503 else answer.status_code
        response = msgspec.json.decode(answer.content)
        if operation == "delete":
            return 200
        self._note_accepted(response)
        status = response["status"]
        world.note(Reported(world.now_s(), call, operation, node, status, sha_of_response(response)))
        if status in TERMINAL and operation != "cancel":
            self._has_ended = True
        return 200

    # --- small things ---------------------------------------------------------------------------

    def _note_accepted(self, response: dict[str, Any]) -> None:
        if self._response_id is None:
            self._world.response_ids[self._asked.call] = response["id"]
            self._world.note(Accepted(self._world.now_s(), self._asked.call, response["id"]))

    async def _note_refusal(self, operation: Operation, node: int, answer: httpx.Response) -> None:
        text = (await answer.aread()).decode(errors="replace")[:500]
        world = self._world
        world.note(Refused(world.now_s(), self._asked.call, operation, node, answer.status_code, text))
        if operation in _FINAL and answer.status_code in (400, 404) and self._asked.way != "delete":
            raise _RefusedForGoodError

    def _body(self, *, stream: bool, background: bool) -> bytes:
        plan: Plan = PLANS[self._asked.plan]
        parent = self._asked.parent
        parent_id = None if parent is None else self._world.response_ids[parent]
        return msgspec.json.encode(
            plan.make_body(
                self._asked.key,
                parent_id,
                stream=stream,
                background=background,
                **({"store": False} if self._asked.way == "unstored" else {}),
                **({"conversation": self._asked.conversation} if self._asked.conversation else {}),
            )
        )

    @property
    def _headers(self) -> dict[str, str]:
        """Returns the response that the create call made, repeating the call with its key if necessary."""
        key = f"{self._world.seed}-{self._asked.call}"
        return {"content-type": "application/json", "idempotency-key": key}

    def _choose_node(self) -> int:
        return self._rng.randrange(len(self._world.urls))

    def _url(self, node: int, path: str) -> str:
        return f"{self._world.urls[node]}/v1/responses{path}"

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.02, 0.3))
