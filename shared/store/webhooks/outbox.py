"""The outbox of webhooks: claims what is due, and ends claims.

Owns the form of an entry. The script that closes a log writes the entry (`log/close.lua`), so there is one
for every end that is to be delivered, and none for any other. The role `webhooks` delivers, and decides what
its failures mean. docs/adr/0052-an-outbox-written-by-the-close.md.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Self

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import Argument, LuaScript, read_word
from shared.tracer import TraceContext

_DUE = LuaScript("webhooks/due", allows_full=True)
# Confirmed: a close that a failover takes back must not have been delivered.
_CLAIM = LuaScript("webhooks/claim", is_confirmed=True, allows_full=True)
_SETTLE = LuaScript("webhooks/settle", allows_full=True)

_OUTLIVES_S = 86_400
"""How much longer an outbox is kept than its entries are tried."""
_PAGE = 1_000
_CLAIMED_MAX = 256
"""Entries of one claim: Lua returns no more than a few thousand values."""


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    ttl_ms: int
    waiting_max: int
    """Entries of one webhook; further ones are given up at once."""
    dead_max: int
    """Dead letters of one tenant; the oldest ones beyond it are dropped."""
    dead_ttl_ms: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            int(settings.webhook_retry_max_s + _OUTLIVES_S) * 1000,
            settings.webhook_waiting_max,
            settings.dead_letters_max,
            settings.dead_letter_retention_s * 1000,
        )


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """The end of a response, as one webhook is to deliver it."""

    response_id: str
    status: str
    closed_ms: int
    """When it ended (Redis)."""
    failures: int = 0
    """How often its delivery has failed."""

    def __str__(self) -> str:
        return f"{self.response_id} {self.status} {self.closed_ms} {self.failures}"

    @classmethod
    def parse(cls, text: str) -> Self:
        response_id, status, closed_ms, failures = text.split(" ")
        return cls(response_id, status, int(closed_ms), int(failures))

    def failed(self) -> Self:
        return replace(self, failures=self.failures + 1)


@dataclass(frozen=True, slots=True)
class DeliveryClaim:
    """An entry that one process is to deliver."""

    tenant: str
    webhook: str
    entry: OutboxEntry
    claimed_ms: int
    """When it was claimed (Redis)."""

    @classmethod
    def of(cls, name: str, entry: OutboxEntry, claimed_ms: int) -> Self:
        tenant, _, webhook = name.partition("/")
        return cls(tenant, webhook, entry, claimed_ms)

    @property
    def name(self) -> str:
        return f"{self.tenant}/{self.webhook}"


@dataclass(frozen=True, slots=True)
class Rooms:
    """How many deliveries a claim may have of whom. `tenant_max`, `webhook_max`: of a tenant, or a webhook,
    that is not named."""

    tenant_max: int
    webhook_max: int
    ailing_max: int = 0
    """Of all that are ailing together."""
    named: Mapping[str, int] = field(default_factory=dict)
    """A tenant, or `tenant/name` -> how many."""
    ailing: Set[str] = frozenset()
    """Names of webhooks; each is in `named`."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    given_up_ms: int
    webhook: str
    """`tenant/name`"""
    entry: OutboxEntry
    reason: str


class Outbox:
    """The outbox as one process claims from it, one claim at a time."""

    def __init__(self, redis: RedisClient, settings: Settings, sender: str) -> None:
        self._redis = redis
        self._sender = sender
        self._limits = OutboxLimits.of(settings)
        self._claim_ms = int(settings.webhook_claim_s * 1000)
        self._claims = 0
        self._is_unanswered = False
        """Whether a claim was sent whose reply never came: what it got is not due any more."""

    async def claim(self, count_max: int, rooms: Rooms) -> Sequence[DeliveryClaim]:
        """Claims entries that are due, at most `count_max`; if it gets any, more may be due.

        What is returned no failover takes back, with `durable_writes`. Raises REDIS_AWAY; what was claimed
        then is returned by the next call, or due again when the claim lapses.
        """
        if count_max <= 0:
            return []
        if not self._is_unanswered and await self._redis.run(_DUE(outboxes=keys.OUTBOXES)) == 0:
            return []
        self._is_unanswered = True
        named: list[Argument] = []
        for name, room in rooms.named.items():
            named += (name, room, int(name in rooms.ailing))
        now_ms, *taken = await self._redis.run(
            _CLAIM(
                *named,
                outboxes=keys.OUTBOXES,
                claimed=keys.delivering(self._sender),
                claim=self._claims,
                claim_ms=self._claim_ms,
                count_max=min(count_max, _CLAIMED_MAX),
                tenant_max=rooms.tenant_max,
                webhook_max=rooms.webhook_max,
                ailing_max=rooms.ailing_max,
            )
        )
        self._claims += 1
        self._is_unanswered = False
        return [
            DeliveryClaim.of(name.decode(), OutboxEntry.parse(entry.decode()), now_ms)
            for name, entry in zip(taken[::2], taken[1::2], strict=True)
        ]

    async def claim_unanswered(self) -> Sequence[DeliveryClaim]:
        """Returns what the last claim got, if its reply never came. Raises REDIS_AWAY."""
        return await self.claim(1, Rooms(1, 1)) if self._is_unanswered else []

    async def read_trace(self, claim: DeliveryClaim) -> TraceContext:
        """Returns the trace of the response whose end is delivered, if it was accepted with one and still
        exists. Raises REDIS_AWAY."""
        state = keys.state(ResponseKey(claim.tenant, claim.entry.response_id))
        kept = await self._redis.command("HGET", state, "trace")
        return TraceContext.parse((kept or b"").decode())

    async def note_delivered(self, claim: DeliveryClaim) -> None:
        await self._settle(claim)

    async def try_again(self, claim: DeliveryClaim, entry: OutboxEntry, due_in_s: float) -> None:
        """Puts an entry, with the failures that it has now, in the place of the claimed one."""
        await self._settle(claim, again=str(entry), due_in_ms=int(due_in_s * 1000))

    async def give_up(self, claim: DeliveryClaim, reason: str) -> None:
        """Moves an entry to the dead letters."""
        await self._settle(claim, reason=reason)

    async def _settle(
        self, claim: DeliveryClaim, *, again: str = "", due_in_ms: int = 0, reason: str = ""
    ) -> None:
        limits = self._limits
        reply = await self._redis.run(
            _SETTLE(
                outboxes=keys.OUTBOXES,
                dead_letters=keys.dead_letters(claim.tenant),
                webhook=claim.name,
                entry=str(claim.entry),
                again=again,
                due_in_ms=due_in_ms,
                ttl_ms=limits.ttl_ms,
                reason=reason,
                dead_max=limits.dead_max,
                dead_ttl_ms=limits.dead_ttl_ms,
            )
        )
        read_word(reply, "settled", "gone")


async def read_dead_letters(redis: RedisClient, tenant: str) -> Sequence[DeadLetter]:
    """Returns the dead letters of a tenant, the oldest first."""
    letters: list[DeadLetter] = []
    after = "-"
    while True:
        found = await redis.command("XRANGE", keys.dead_letters(tenant), after, "+", "COUNT", _PAGE)
        for entry_id, fields in found:
            webhook, entry, reason = (fields[name].decode() for name in (b"webhook", b"entry", b"reason"))
            given_up_ms = int(entry_id.partition(b"-")[0])
            letters.append(DeadLetter(given_up_ms, webhook, OutboxEntry.parse(entry), reason))
        if len(found) < _PAGE:
            return letters
        after = f"({found[-1][0].decode()}"


@dataclass(frozen=True, slots=True)
class WaitingEntries:
    """What waits for one webhook."""

    number: int
    late_s: float
    """For how long the first of them has been due; 0 if none is."""


async def count_waiting(redis: RedisClient) -> Mapping[str, Mapping[str, WaitingEntries]]:
    """Returns what waits: tenant -> webhook -> entries, also of those that are in no file any more."""
    waiting: dict[str, dict[str, WaitingEntries]] = {}
    for name in await redis.command("ZRANGE", keys.OUTBOXES, 0, -1):
        tenant, _, webhook = name.decode().partition("/")
        place = keys.outbox(tenant, webhook)
        number, first, (now_s, _) = await redis.transaction(
            ("ZCARD", place), ("ZRANGE", place, 0, 0, "WITHSCORES"), ("TIME",)
        )
        if first:
            late_s = max(0.0, int(now_s) - float(first[1]) / 1000)
            waiting.setdefault(tenant, {})[webhook] = WaitingEntries(number, late_s)
    return waiting
