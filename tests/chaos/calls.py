"""One create call: what it asks for, as whom, and what is known of its response.

Owns its request and its state; `clients` decides how its response is read.
"""

import asyncio
import itertools
import random
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from tests.chaos.fleet import DEFAULT
from tests.chaos.history import Accepted, Asked, EventSeen, Operation, Refused, sha_of_bytes
from tests.chaos.plans import PLANS, Plan
from tests.chaos.world import World

_TERMINAL_EVENTS = frozenset({b"response.completed", b"response.incomplete", b"response.failed"})
SILENCE_S = 4.0
"""After this long without even a comment, the node counts as stopped, and the client asks another one."""
_FINAL = ("create", "read", "poll")
"""Operations whose refusal ends the call."""


class RefusedForGoodError(Exception):
    """The call was refused for good; the checker judges that."""


class CreateCall:
    """One response from its client's side."""

    def __init__(
        self, world: World, asked: Asked, rng: random.Random, views: Iterator[int] | None = None
    ) -> None:
        self.world = world
        self.asked = asked
        self.rng = rng
        self.views = views or itertools.count()
        self.seen = -1
        """The highest sequence number seen."""
        self.has_ended = False

    @property
    def response_id(self) -> str | None:
        return self.world.response_ids.get(self.asked.call)

    def take_frame(self, view: int, frame: bytes) -> None:
        world, call = self.world, self.asked.call
        name, number_line = frame.split(b"\n", 2)[:2]
        number = int(number_line.removeprefix(b"id: "))
        if self.response_id is None:
            self.note_accepted(msgspec.json.decode(frame[frame.index(b"\ndata: ") + 7 :])["response"])
        world.note(EventSeen(world.now_s(), call, view, number, sha_of_bytes(frame)))
        self.seen = max(self.seen, number)
        if name.removeprefix(b"event: ") in _TERMINAL_EVENTS:
            self.has_ended = True

    def note_accepted(self, response: dict[str, Any]) -> None:
        if self.response_id is None:
            self.world.response_ids[self.asked.call] = response["id"]
            self.world.note(Accepted(self.world.now_s(), self.asked.call, response["id"]))

    async def note_refusal(self, operation: Operation, node: int, answer: httpx.Response) -> None:
        text = (await answer.aread()).decode(errors="replace")[:500]
        world = self.world
        world.note(Refused(world.now_s(), self.asked.call, operation, node, answer.status_code, text))
        if operation in _FINAL and answer.status_code in (400, 404) and self.asked.way != "delete":
            raise RefusedForGoodError

    def body(self, *, stream: bool, background: bool) -> bytes:
        return msgspec.json.encode(self.fields(stream=stream, background=background))

    def fields(self, **how: Any) -> dict[str, Any]:
        """Returns the fields of the create call."""
        asked = self.asked
        plan: Plan = PLANS[asked.plan]
        parent_id = None if asked.parent is None else self.world.response_ids[asked.parent]
        return plan.make_body(
            asked.key,
            parent_id,
            **how,
            **({} if asked.tier == "auto" else {"service_tier": asked.tier}),
            **({} if asked.model == DEFAULT else {"model": asked.model}),
            **({"store": False} if asked.way == "unstored" else {}),
            **({"conversation": asked.conversation} if asked.conversation else {}),
        )

    @property
    def headers(self) -> dict[str, str]:
        """Returns the headers of the create call: repeated with its key, it makes no other response."""
        key = f"{self.world.seed}-{self.asked.call}"
        headers = {"content-type": "application/json", "idempotency-key": key}
        return headers | self.authorization

    @property
    def authorization(self) -> dict[str, str]:
        return self.world.authorization(self.asked.call)

    def choose_node(self) -> int:
        return self.rng.randrange(len(self.world.urls))

    def url(self, node: int, path: str) -> str:
        return f"{self.world.urls[node]}/v1/responses{path}"

    async def pause(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.02, 0.3))
