"""Decides when a write counts: which commands follow it on its connection, and which replies confirm it.

Owns the rule of `durable_writes` and `durable_replicas`, and the Sentinels' view of the servers; sends no
command to the server itself (docs/adr/0018-what-confirms-a-write.md).
"""

import asyncio
from collections.abc import Sequence, Set
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from shared.store.keys import CONFIRMED
from shared.store.redis.scripts import Command

Durability = Literal["no", "aof", "replica"]
Replicas = Literal["all"] | int
Address = tuple[str, int]

_MARK: Command = ("SET", CONFIRMED, 1, "PX", 60_000)
"""A confirmation covers what its connection wrote last. A repeated script may write nothing, so the
connection writes this: then everything before it is confirmed as well, whichever client wrote it."""
_VIEW_AGE_MAX_S = 1.0
_READ_EVERY_S = 0.02
"""How often the Sentinels are asked at most, while a server that they know is passed over."""
_PATIENCE_S = 0.1
"""A Sentinel that takes longer is ignored, if a majority has answered."""
_GIVEN_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class View:
    """The servers as the Sentinels see them; a server counts as alive if one Sentinel sees it alive.

    A former primary takes some seconds to become a replica. It is no candidate while all Sentinels agree on
    the new one and none of them has seen that the former one is a replica: from then on, it may be promoted.
    A server that the Sentinels have lost their connections to is alive until they see it as down: they close
    these connections themselves when they promote it.
    """

    candidates: frozenset[Address]
    """The primary, and every live server that may be promoted."""
    never: frozenset[Address] = frozenset()
    """Servers that are never promoted (`replica-priority 0`)."""
    passed_over: frozenset[Address] = frozenset()
    """Servers that were no candidates when this view was read, but may become some: former primaries, and
    those that no Sentinel saw alive. Such a view counts only if it was read after the write: a server that
    came back in between may have been promoted without it."""


def combine(answers: Sequence[Sequence[dict[str, Any]]], sentinels: int) -> View:
    """Returns the common view of the Sentinels that answered, out of `sentinels`.

    `answers`: from each Sentinel, the primary's state, then the replicas', as redis-py parses them.
    """
    is_settled = len(answers) == sentinels and _is_settled([answer[0] for answer in answers])
    known, candidates, never = set(), set(), set()
    reported: dict[Address, set[str]] = {}
    for state in (state for answer in answers for state in answer):
        address = _address_of(state)
        known.add(address)
        if state["is_slave"] and int(state["slave-priority"]) == 0:
            never.add(address)
        elif not (state["is_sdown"] or state["is_odown"]):
            candidates.add(address)
        if state["is_slave"]:
            reported.setdefault(address, set()).add(state["role-reported"])
    never -= candidates
    if is_settled:  # otherwise this would pass over the replica that is being promoted
        candidates -= {address for address, roles in reported.items() if roles == {"master"}}
    return View(frozenset(candidates), frozenset(never), frozenset(known - candidates - never))


def _is_settled(primaries: Sequence[dict[str, Any]]) -> bool:
    """Returns True if every Sentinel names the same primary and none is in a failover."""
    is_failing_over = any("failover_in_progress" in state["flags"] for state in primaries)
    return not is_failing_over and len({_address_of(state) for state in primaries}) == 1


def _address_of(state: dict[str, Any]) -> Address:
    return str(state["ip"]), int(state["port"])


class Watch:
    """Reads the view of the Sentinels on demand, usually once a second."""

    def __init__(self, sentinels: Sequence[Any], master_name: str) -> None:
        self._sentinels = list(sentinels)
        self._master_name = master_name
        self._view: View | None = None
        self._read_at_s = -inf
        self._reading = asyncio.Lock()

    async def view(self, since_s: float = -inf) -> View | None:
        """Returns the view, read at `since_s` of the loop's clock or later; None if no majority answers."""
        clock = asyncio.get_running_loop().time
        async with self._reading:
            oldest_s = max(since_s, clock() - _VIEW_AGE_MAX_S)
            if self._view is None or self._read_at_s < oldest_s:
                await asyncio.sleep(self._read_at_s + _READ_EVERY_S - clock())
                self._read_at_s, self._view = clock(), await self._read()
            return self._view

    async def _read(self) -> View | None:
        majority = len(self._sentinels) // 2 + 1
        asked = [asyncio.create_task(self._ask(sentinel)) for sentinel in self._sentinels]
        try:
            await asyncio.wait(asked, timeout=_PATIENCE_S)
            if len(_answers_of(asked)) < majority:
                await asyncio.wait(asked, timeout=_GIVEN_UP_S)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        answers = _answers_of(asked)
        return combine(answers, len(self._sentinels)) if len(answers) >= majority else None

    async def _ask(self, sentinel: Any) -> list[dict[str, Any]]:
        primary = await sentinel.sentinel_master(self._master_name)
        return [primary, *await sentinel.sentinel_slaves(self._master_name)]


def _answers_of(asked: Sequence["asyncio.Task[list[dict[str, Any]]]"]) -> list[list[dict[str, Any]]]:
    ended = [task for task in asked if task.done() and not task.cancelled()]
    return [task.result() for task in ended if task.exception() is None]


class Rule:
    """Decides what confirms a write. `watch`: reads the Sentinels, if there are any."""

    def __init__(
        self, durability: Durability, replicas: Replicas, watch: Watch | None, timeout_s: float
    ) -> None:
        self.is_demanding = durability != "no"
        self._durability = durability
        self._replicas = replicas
        self._watch = watch
        self._wait_ms = int(timeout_s * 800)
        self._connected = 1
        """The number of replicas that the server last had."""

    async def read_view(self) -> View | None:
        """Returns the view that `questions` and `objection` need, if they do; to be read before the write."""
        is_needed = self._durability == "replica" and self._replicas == "all"
        return await self._watch.view() if self._watch is not None and is_needed else None

    async def judge(self, replies: Sequence[Any], server: Address, view: View | None) -> str | None:
        """Returns the same as `objection`, which a view that passes over a server cannot do by itself."""
        answered_at_s = asyncio.get_running_loop().time()
        objection = self.objection(replies, server, view)
        if objection is None and view is not None and view.passed_over and self._watch is not None:
            objection = self.objection(replies, server, await self._watch.view(answered_at_s))
        return objection

    def questions(self, view: View | None) -> list[Command]:
        """Returns the commands that must follow a write on its connection; none for `no`."""
        match self._durability:
            case "no":
                return []
            case "aof":
                return [_MARK, ("WAITAOF", 1, 0, self._wait_ms)]
            case "replica" if self._replicas == "all":
                count = self._connected if view is None else max(self._connected, len(view.candidates) - 1)
                return [_MARK, ("ROLE",), ("WAIT", count, self._wait_ms), ("ROLE",)]
            case "replica":
                return [_MARK, ("WAIT", self._replicas, self._wait_ms)]

    def objection(self, replies: Sequence[Any], server: Address, view: View | None) -> str | None:
        """Returns None if the replies of `server` confirm everything written before, or else the reason."""
        match replies:
            case [True | b"OK", [1, _]]:
                return None
            case [True | b"OK", int(count)]:
                return None if count >= int(self._replicas) else f"{count} replicas have it"
            case [True | b"OK", [b"master", written, before], _, [b"master", _, after]]:
                self._connected = len(after)
                return self._find_lagging(int(written), _offsets(before), _offsets(after), server, view)
            case _:
                return f"the answer was {replies!r}"

    def _find_lagging(
        self,
        written: int,
        before: dict[Address, int],
        after: dict[Address, int],
        server: Address,
        view: View | None,
    ) -> str | None:
        """Returns an objection if a server that may be promoted lacks part of what was written."""
        wanted: Set[Address] = before.keys()
        if self._watch is None:
            if not wanted:
                return "there is no replica"
        elif view is None:
            return "most of the Sentinels do not answer"
        elif server not in view.candidates:
            return f"the Sentinels do not see {server[0]}:{server[1]}"
        else:
            wanted = (view.candidates | (wanted - view.never)) - {server}
        lacking = sorted(address for address in wanted if after.get(address, -1) < written)
        return f"{lacking[0][0]}:{lacking[0][1]} lacks it" if lacking else None


def _offsets(replicas: Sequence[Sequence[bytes]]) -> dict[Address, int]:
    """Returns the offset that each replica has acknowledged, from a reply to ROLE."""
    return {(host.decode(), int(port)): int(offset) for host, port, offset in replicas}
