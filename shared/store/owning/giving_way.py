"""Hands a response over between two turns of the model, because others wait that come before it.

Owns the exchange with Redis; `worker/response/attempt.py` owns when it is asked.
"""

from shared.service_tiers import served_tier, turn_cost
from shared.settings import Settings
from shared.store import keys
from shared.store.job_queue import Room, response_job
from shared.store.owning.lease import Lease, LeaseLost
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript, read_word

_GIVE_WAY = LuaScript("owning/give_way", is_confirmed=True)


async def give_way(redis: RedisClient, settings: Settings, lease: Lease, tier: str, room: Room) -> None:
    """Returns if nobody waits that comes before a response of this tier, which is `flex`, and that its owner
    could take only in its place. `room`: what the owner has room for now.

    Otherwise the response waits in the queue; raises LeaseLost then, as if somebody had it already, and
    REDIS_AWAY.
    """
    key, served = lease.key, served_tier(tier)
    reply = await redis.run(
        _GIVE_WAY(
            state=keys.state(key),
            active=keys.ACTIVE,
            queue=keys.RESPONSES_QUEUE,
            member=str(key),
            proof=lease.proof,
            job=response_job(key),
            flow=keys.flow(key.tenant, served),
            turn_cost=turn_cost(served, settings.tenant_weight),
            ring_again_ms=int(settings.ring_again_s * 1000),
            live_ttl_ms=settings.live_ttl_s * 1000,
            count_max=room.count_max,
            bytes_max=room.bytes_max,
            bytes_left=room.bytes_left,
            large_bytes=room.large_bytes,
            state_pattern=keys.STATE_PATTERN,
        )
    )
    outcome = read_word(reply, "given", "kept", "lost")
    if outcome != "kept":
        raise LeaseLost("it gives way to what waits" if outcome == "given" else "another owner has it")
