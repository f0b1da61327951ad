"""Who owns a response: acquiring, renewing and releasing its lease, and finding lapsed ones.

Owns the fencing token (the attempt's number, which only rises). All times are Redis's own, so that no
two machines' clocks need agree. What an owner may do is checked by the same token in the scripts that do it
(`log/append.lua`, `tools/submit.lua`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from shared.record_format import RECORD_FORMAT
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import LuaScript, ScriptCall

_ACQUIRE = LuaScript("owning/acquire")
# Confirmed: a primary that was replaced answers for some seconds, and no lease is kept there any more.
_RENEW = LuaScript("owning/renew", is_confirmed=True, allows_full=True)
_RELEASE = LuaScript("owning/renew", allows_full=True)
_LOSE = LuaScript("owning/lose", allows_full=True)
_LAPSED = LuaScript("owning/lapsed", allows_full=True)


class LeaseLost(Exception):
    """Somebody else owns the response now, or it is closed: stop quietly, write nothing."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to append to one response, for as long as no higher fencing token exists."""

    key: ResponseKey
    owner: str
    fencing_token: int

    @property
    def proof(self) -> str:
        """What scripts compare. If a failover loses the acquiring, the next owner gets the same token."""
        return f"{self.fencing_token} {self.owner}"


@dataclass(frozen=True, slots=True)
class Acquired:
    lease: Lease
    next_sequence_number: int
    """How many entries the log has already."""
    deaths: int
    """How many owners were lost before, each with its lease still held."""
    format: int
    """What the record was begun in (`shared/record_format.py`)."""
    usage: bytes = b""
    """JSON of the Usage that its owners have counted, as far as the log goes; empty if nothing was made."""
    born: bytes = b""
    """The frame of entry 0, for who has seized the lease."""
    record_bytes: int = 0
    """Of its request's JSON."""


NotAcquired = Literal["held", "newer", "closed", "missing"]
"""`newer`: only a process of a later version can replay it; it waits for one."""


async def acquire(
    redis: RedisClient,
    settings: Settings,
    key: ResponseKey,
    owner: str,
    *,
    is_at_it: bool = True,
    token_used: int = 0,
) -> Acquired | NotAcquired:
    """Takes the lease if nobody holds it.

    Not `is_at_it`: the owner has not got the response, so a lease in its name is one that it never heard of.
    `token_used`: the last one that the owner has had for it; it gets a later one, also after a failover.
    """
    return await _acquire(redis, settings, key, owner, force="no", is_at_it=is_at_it, token_used=token_used)


async def seize(
    redis: RedisClient, settings: Settings, key: ResponseKey, owner: str, *, only_kept: bool = False
) -> Acquired | NotAcquired:
    """Takes the lease from whoever holds it; from then on their token is stale. Never `held` or `newer`.

    `only_kept`: what the API does not tell of (`response_store.State.is_kept`) is `missing`.
    """
    force: Literal["any", "kept"] = "kept" if only_kept else "any"
    return await _acquire(redis, settings, key, owner, force=force, is_at_it=True, token_used=0)


async def _acquire(
    redis: RedisClient,
    settings: Settings,
    key: ResponseKey,
    owner: str,
    *,
    force: Literal["no", "any", "kept"],
    is_at_it: bool,
    token_used: int,
) -> Acquired | NotAcquired:
    reply = await redis.run(
        _ACQUIRE(
            state=keys.state(key),
            log=keys.log(key),
            active=keys.ACTIVE,
            pulse=keys.PULSE,
            member=str(key),
            owner=owner,
            lease_ttl_ms=int(settings.lease_ttl_s * 1000),
            force=force,
            known_format=RECORD_FORMAT,
            is_at_it=int(is_at_it),
            token_used=token_used,
        )
    )
    match reply:
        case [b"acquired", token, *rest]:
            return Acquired(Lease(key, owner, token), *rest)
        case [b"held"]:
            return "held"
        case [b"newer"]:
            return "newer"
        case [b"closed"]:
            return "closed"
        case [b"missing"]:
            return "missing"
        case _:
            raise RuntimeError(f"acquire answered {reply!r}")


async def release(redis: RedisClient, settings: Settings, *leases: Lease) -> None:
    """Lets go at once, of all in one round trip: the sweeper rings for the responses at its next look."""
    await redis.run_many([replace(_renewal(lease, 0.0, settings), script=_RELEASE) for lease in leases])


async def lose(redis: RedisClient, lease: Lease) -> None:
    """Lets go of a response with which its owner can do nothing, which counts as the loss of an owner."""
    await redis.run(
        _LOSE(state=keys.state(lease.key), active=keys.ACTIVE, member=str(lease.key), proof=lease.proof)
    )


Loss = Literal["lost", "abandoned"]
"""Somebody else's now, or closed; or still ours, but its client has left it for good."""


async def renew_all(
    redis: RedisClient, settings: Settings, leases: Sequence[Lease]
) -> list[tuple[Lease, Loss]]:
    """Renews every lease in one write. Returns those to be given up."""
    calls = [_renewal(lease, settings.lease_ttl_s, settings) for lease in leases]
    losses: list[tuple[Lease, Loss]] = []
    for lease, reply in zip(leases, await redis.run_many(calls), strict=True):
        match reply:
            case b"ok" | Exception():  # what Redis refused is renewed by the next beat, or lapses
                pass
            case b"lost":
                losses.append((lease, "lost"))
            case b"abandoned":
                losses.append((lease, "abandoned"))
            case _:
                raise RuntimeError(f"renew answered {reply!r}")
    return losses


def _renewal(lease: Lease, ttl_s: float, settings: Settings) -> ScriptCall:
    key = lease.key
    return _RENEW(
        state=keys.state(key),
        log=keys.log(key),
        tools=keys.tools(key),
        secrets=keys.secrets(key),
        active=keys.ACTIVE,
        open=keys.open_responses(key.tenant),
        readers=keys.readers(key),
        api_nodes=keys.presence("api"),
        pulse=keys.PULSE,
        member=str(key),
        proof=lease.proof,
        lease_ttl_ms=int(ttl_s * 1000),
        live_ttl_ms=settings.live_ttl_s * 1000,
        disconnect_grace_ms=int(settings.disconnect_grace_s * 1000),
        presence_ttl_ms=int(keys.PRESENCE_TTL_S * 1000),
    )


async def lapsed(redis: RedisClient, settings: Settings, count_max: int) -> list[ResponseKey]:
    """Open responses that nobody holds, those longest without an owner first.

    None while Redis has just been away, or its primary was replaced. Asked at least six times in a lease and
    in a claim, by one process or another: the asking is how that is known.
    """
    found: list[bytes] = await redis.run(
        _LAPSED(
            active=keys.ACTIVE,
            pulse=keys.PULSE,
            lease_ttl_ms=int(settings.lease_ttl_s * 1000),
            ring_again_ms=int(settings.ring_again_s * 1000),
            count_max=count_max,
            live_ttl_ms=settings.live_ttl_s * 1000,
            break_ms=int(min(settings.lease_ttl_s, settings.tool_claim_ttl_s) * 500),
        )
    )
    return [ResponseKey.parse(member.decode()) for member in found]


async def now_ms(redis: RedisClient) -> int:
    """Redis's own clock: the only one that leases know."""
    reply = await redis.command("TIME")
    return int(reply[0]) * 1000 + int(reply[1]) // 1000
