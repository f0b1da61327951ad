"""Claims waiting work for one worker: jobs, and with them the leases of responses that have had no owner.

Owns the exchange with Redis, and what becomes of a claim whose reply was lost. `job_queue.py` owns when work
is claimed, `worker/ownership.py` what is done with it (docs/adr/0034-one-script-claims.md).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from shared.record_format import RECORD_FORMAT
from shared.settings import Settings
from shared.store import keys
from shared.store.job_queue import Job, Room, Taken
from shared.store.keys import ResponseKey
from shared.store.owning import fleet
from shared.store.owning.lease import Acquired, Lease
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.scripts import BoundScript, Command, LuaScript

_CLAIM = LuaScript("owning/claim")
NOTHING_HELD: Mapping[str, int] = MappingProxyType({})
_HUSH_MS = 60_000
"""Longer than a claim can be under way."""


@dataclass(frozen=True, slots=True)
class Claimed:
    begun: list[Acquired]
    """Leases of responses that have had no owner, each with its request."""
    unheard: list[ResponseKey]
    """Responses whose leases may have been granted by a claim without a reply: to be acquired again."""
    taken: Taken


class Claimant:
    """Claims for one worker, over a connection of its own; one claim at a time."""

    def __init__(
        self,
        redis: RedisClient,
        settings: Settings,
        owner: str,
        queues: Sequence[str] = (keys.RESPONSES_QUEUE,),
    ) -> None:
        """`queues`: those of the models that it serves."""
        self._queues = deque(queues)
        self._redis = redis
        self._pipe = redis.open_pipe()
        self._settings = settings
        self._owner = owner
        self._has_heard = True
        """The reply to the last claim has arrived."""
        self._was_full = False
        """The last claim took all that there was room for."""
        self._rules: tuple[int, ...] = ()
        self._bound: BoundScript

    async def claim(
        self,
        room: Room,
        held: Mapping[str, int] = NOTHING_HELD,
        capacity: int | None = None,
        running: int = 0,
    ) -> Claimed:
        """Claims at once, or as soon as the doorbell rings or `room.wait_s` is over: the script follows the
        wait in the same write. `held`: how many responses of each tenant the worker has; `capacity`: how many
        it can run at once, of which a tenant may have its part while others wait; None: as many as it may
        have. `running`: how many it has that do not wait for tools.

        Raises REDIS_AWAY; what was granted nevertheless is among the next claim's `unheard`.
        """
        has_heard, self._has_heard = self._has_heard, False
        places = self._settings.responses_in_flight_max if capacity is None else max(1, capacity)
        crowd_max = max(1, int(self._settings.tenant_worker_share_max * places))
        crowd = [word for pair in held.items() if pair[1] + room.count_max >= crowd_max for word in pair]
        self._queues.rotate()  # so that none comes first for ever
        queues = " ".join(self._queues)
        call = self._bind(room)(
            queues,
            running,
            places,
            crowd_max,
            room.count_max,
            room.bytes_left,
            int(room.rings_on),
            int(has_heard),
            *crowd,
        )
        before = self._tell_room() if self._was_full else []
        if room.wait_s:
            wait_s = min(room.wait_s, self._pipe.wait_max_s)
            bells = (keys.bell(self._owner), *map(keys.doorbell, self._queues))
            before.append(("BLPOP", *bells, keys.hush(self._owner), wait_s))
        is_left, unheard, taken, begun = await self._pipe.run_after(before, call)
        self._has_heard = True
        jobs = [job for queue, *found in taken for job in Job.read(found, queue.decode())]
        self._was_full = len(begun) // 7 + len(jobs) >= room.count_max
        return Claimed(
            [self._read_grant(*begun[place : place + 7]) for place in range(0, len(begun), 7)],
            [ResponseKey.parse(member.decode()) for member in unheard],
            Taken(jobs, has_begun=bool(begun), is_left=bool(is_left)),
        )

    def _tell_room(self) -> list[Command]:
        """Returns what says that it is not full any more (`homes.lua`); how full it is, it announces."""
        loads = map(keys.loads, self._queues)
        return [("ZADD", each, "XX", "LT", fleet.FULL - 1, self._owner) for each in loads]

    def _bind(self, room: Room) -> BoundScript:
        """Returns the script with everything that is the same for all claims."""
        rules = room.lock_ms, room.scan_max, room.bytes_max, room.large_bytes
        if rules != self._rules:
            self._rules, self._bound = (
                rules,
                _CLAIM.bind(
                    takers=keys.takers(keys.RESPONSES_QUEUE),
                    active=keys.ACTIVE,
                    granted=keys.granted(self._owner),
                    hush=keys.hush(self._owner),
                    bell=keys.bell(self._owner),
                    lock_ms=room.lock_ms,
                    scan_max=room.scan_max,
                    bytes_max=room.bytes_max,
                    large_bytes=room.large_bytes,
                    state_pattern=keys.STATE_PATTERN,
                    log_pattern=keys.LOG_PATTERN,
                    owner=self._owner,
                    lease_ttl_ms=int(self._settings.lease_ttl_s * 1000),
                    known_format=RECORD_FORMAT,
                    granted_ttl_ms=int(2 * self._settings.redis_outage_max_s * 1000),
                ),
            )
        return self._bound

    def _read_grant(
        self,
        member: bytes,
        token: int,
        entries: int,
        deaths: int,
        record_format: int,
        request: bytes,
        age_ms: int,
    ) -> Acquired:
        held = Lease(ResponseKey.parse(member.decode()), self._owner, token)
        return Acquired(
            held, entries, deaths, record_format, record_bytes=len(request), request=request, age_ms=age_ms
        )

    async def hush(self) -> None:
        """Ends a wait for the doorbell. Nothing more is claimed then, and the claim that is under way answers
        at once, with what it has got before."""
        key = keys.hush(self._owner)
        try:
            await self._redis.transaction(("RPUSH", key, 1, 1), ("PEXPIRE", key, _HUSH_MS))
        except REDIS_AWAY:
            pass  # the claim fails by itself

    async def close(self) -> None:
        await self._pipe.close()
