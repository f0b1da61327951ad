"""Claims waiting work for one worker: jobs, and with them the leases of responses that have had no owner.

Owns the exchange with Redis, and what becomes of a claim whose reply was lost. `job_queue.py` owns when work
is claimed, `worker/ownership.py` what is done with it (docs/adr/0034-one-script-claims.md).
"""

from dataclasses import dataclass

from shared.record_format import RECORD_FORMAT
from shared.settings import Settings
from shared.store import keys
from shared.store.job_queue import Job, Room, Taken
from shared.store.keys import ResponseKey
from shared.store.owning.lease import Acquired, Lease
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript

_CLAIM = LuaScript("owning/claim")


@dataclass(frozen=True, slots=True)
class Claimed:
    begun: list[Acquired]
    """Leases of responses that have had no owner, each with its request."""
    unheard: list[ResponseKey]
    """Responses whose leases may have been granted by a claim without a reply: to be acquired again."""
    taken: Taken


class Claimant:
    """Claims for one worker, over a connection of its own; one claim at a time."""

    def __init__(self, redis: RedisClient, settings: Settings, owner: str) -> None:
        self._pipe = redis.open_pipe()
        self._settings = settings
        self._owner = owner
        self._has_heard = True
        """The reply to the last claim has arrived."""

    async def claim(self, room: Room) -> Claimed:
        """Raises REDIS_AWAY; what was granted nevertheless is among the next claim's `unheard`."""
        has_heard, self._has_heard = self._has_heard, False
        is_left, unheard, taken, begun = await self._pipe.run(
            _CLAIM(
                queue=keys.RESPONSES_QUEUE,
                doorbell=keys.doorbell(keys.RESPONSES_QUEUE),
                takers=keys.takers(keys.RESPONSES_QUEUE),
                active=keys.ACTIVE,
                granted=keys.granted(self._owner),
                count_max=room.count_max,
                lock_ms=room.lock_ms,
                scan_max=room.scan_max,
                bytes_max=room.bytes_max,
                bytes_left=room.bytes_left,
                large_bytes=room.large_bytes,
                state_pattern=keys.STATE_PATTERN,
                rings_on=int(room.rings_on),
                log_pattern=keys.LOG_PATTERN,
                owner=self._owner,
                lease_ttl_ms=int(self._settings.lease_ttl_s * 1000),
                known_format=RECORD_FORMAT,
                has_heard=int(has_heard),
                granted_ttl_ms=int(2 * self._settings.redis_outage_max_s * 1000),
            )
        )
        self._has_heard = True
        return Claimed(
            [self._read_grant(*begun[place : place + 6]) for place in range(0, len(begun), 6)],
            [ResponseKey.parse(member.decode()) for member in unheard],
            Taken(Job.read(taken), has_begun=bool(begun), is_left=bool(is_left)),
        )

    def _read_grant(
        self, member: bytes, token: int, entries: int, deaths: int, record_format: int, request: bytes
    ) -> Acquired:
        held = Lease(ResponseKey.parse(member.decode()), self._owner, token)
        return Acquired(held, entries, deaths, record_format, record_bytes=len(request), request=request)

    async def close(self) -> None:
        await self._pipe.close()
