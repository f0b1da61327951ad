"""The leases of responses: acquiring, renewing and releasing them, and finding lapsed ones.

Owns the fencing token (the attempt's number, which only rises). All times are Redis's own, so the clocks of
different machines need not agree. The scripts that write for an owner check the token themselves
(`log/append.lua`, `tools/submit.lua`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from msgspec.structs import replace

from shared.record_format import RECORD_FORMAT
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient, ScriptPipe
from shared.store.redis.joint_scripts import JointCall, JointScript
from shared.store.redis.scripts import LuaScript

_ACQUIRE = LuaScript("owning/acquire")
# Confirmed: a replaced primary still answers for some seconds, and a lease renewed there is not kept.
_RENEW = JointScript("owning/renew", is_confirmed=True, allows_full=True)
_RELEASE = JointScript("owning/renew", allows_full=True)
_LOSE = LuaScript("owning/lose", allows_full=True)
_LAPSED = LuaScript("owning/lapsed", allows_full=True)


class LeaseLost(Exception):
    """Another process owns the response now, or it is closed or gone: stop quietly, write nothing."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to append to one response, for as long as no higher fencing token exists."""

    key: ResponseKey
    owner: str
    fencing_token: int

    @property
    def proof(self) -> str:
        """What scripts compare: the token alone can occur twice after a failover."""
        return f"{self.fencing_token} {self.owner}"


@dataclass(frozen=True, slots=True)
class Acquired:
    lease: Lease
    next_sequence_number: int
    """The number of entries in the log."""
    deaths: int
    """The number of owners lost so far: those whose lease lapsed, or that could not load the record."""
    format: int
    """The format that the record began with (`shared/record_format.py`)."""
    usage: bytes = b""
    """The usage as its owners stored it (`shared/usage.py`); empty before the first token."""
    first_frame: bytes = b""
    """The frame of entry 0, if the lease was seized."""
    record_bytes: int = 0
    """The size of the request's JSON."""
    uncounted_tokens: int = 0
    """The number of tokens in the entries that `usage` does not cover, if the lease was seized."""
    age_ms: int = 0
    """How long ago the response was accepted."""
    has_lapsed: int = 0
    """1 if the owner before was lost, as its lease has lapsed."""
    answered: bytes = b""
    """What its owner stored for whoever ends the response (`log/closing.py`), if the lease was seized."""
    request: bytes = b""
    """That JSON, if it came with the lease."""


NotAcquired = Literal["held", "newer", "closed", "missing"]
"""`held`: it has an owner; `newer`: only a process of a later version can replay it."""


async def acquire(
    redis: RedisClient,
    settings: Settings,
    key: ResponseKey,
    owner: str,
    *,
    has_response: bool = True,
    token_used: int = 0,
) -> Acquired | NotAcquired:
    """Takes the lease unless another owner holds it.

    `has_response`: if False, the owner is not running the response, so a lease in its name is one whose grant
    was lost on the way, and is taken again. `token_used`: the owner's last token for this response; it gets a
    higher one even after a failover.
    """
    return await _acquire(
        redis, settings, key, owner, force="no", has_response=has_response, token_used=token_used
    )


async def seize(
    redis: RedisClient, settings: Settings, key: ResponseKey, owner: str, *, only_kept: bool = False
) -> Acquired | NotAcquired:
    """Takes the lease from its holder, whose token is then stale. Never returns `held` or `newer`.

    `only_kept`: return `missing` for a response that the API may not report (`response_store.State.is_kept`).
    """
    force: Literal["any", "kept"] = "kept" if only_kept else "any"
    return await _acquire(redis, settings, key, owner, force=force, has_response=True, token_used=0)


async def _acquire(
    redis: RedisClient,
    settings: Settings,
    key: ResponseKey,
    owner: str,
    *,
    force: Literal["no", "any", "kept"],
    has_response: bool,
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
            has_response=int(has_response),
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
    """Releases leases in one round trip; their responses are then due for the next sweep."""
    renewals = [_renew(settings, lease, lease_ttl_s=0.0) for lease in leases]
    kinds = [_RELEASE.kind(renewal.kind.keys, renewal.kind.args) for renewal in renewals]
    calls = [replace(renewal, kind=kind) for renewal, kind in zip(renewals, kinds, strict=True)]
    await redis.run_many(calls)


async def lose(redis: RedisClient, lease: Lease) -> None:
    """Releases a response that its owner cannot continue; this counts as a lost owner."""
    await redis.run(
        _LOSE(state=keys.state(lease.key), active=keys.ACTIVE, member=str(lease.key), proof=lease.proof)
    )


Loss = Literal["lost", "abandoned"]
"""`lost`: another owner's, closed or gone; `abandoned`: ours, but its client has left for good."""


@dataclass(frozen=True, slots=True, eq=False)
class Renewal:
    """A lease and the call that renews it, made once, because every beat sends the same again."""

    lease: Lease
    call: JointCall

    @classmethod
    def of(cls, settings: Settings, lease: Lease) -> Self:
        return cls(lease, _renew(settings, lease, lease_ttl_s=settings.lease_ttl_s))


async def renew_all(redis: RedisClient | ScriptPipe, renewals: Sequence[Renewal]) -> list[tuple[Lease, Loss]]:
    """Renews leases in one round trip; returns those to be given up, and why. Raises REDIS_AWAY."""
    losses: list[tuple[Lease, Loss]] = []
    replies = await redis.run_many([renewal.call for renewal in renewals])
    for renewal, reply in zip(renewals, replies, strict=True):
        match reply:
            case b"ok" | Exception():  # a refused renewal is repeated by the next beat, or the lease lapses
                pass
            case b"lost":
                losses.append((renewal.lease, "lost"))
            case b"abandoned":
                losses.append((renewal.lease, "abandoned"))
            case _:
                raise RuntimeError(f"renew answered {reply!r}")
    return losses


def _renew(settings: Settings, lease: Lease, *, lease_ttl_s: float) -> JointCall:
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
        lease_ttl_ms=int(lease_ttl_s * 1000),
        live_ttl_ms=settings.live_ttl_s * 1000,
        disconnect_grace_ms=int(settings.disconnect_grace_s * 1000),
        reader_return_ms=int(settings.reader_return_s * 1000),
        presence_ttl_ms=int(keys.PRESENCE_TTL_S * 1000),
    )


async def lapsed(redis: RedisClient, settings: Settings, count_max: int) -> list[ResponseKey]:
    """Returns open responses without an owner, those longest without one first.

    Returns none shortly after an outage of Redis or a new primary. For that to be known, some process must
    call this at least six times within the length of a lease, and of a claim.
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
    """Returns the time of Redis's clock, the only one that leases use."""
    reply = await redis.command("TIME")
    return int(reply[0]) * 1000 + int(reply[1]) // 1000
