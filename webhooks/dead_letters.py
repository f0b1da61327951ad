"""Lists what was given up, for the operator: `python -m webhooks dead-letters [TENANT …]`."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from shared import tenants_file
from shared.settings import Settings
from shared.store.webhooks import outbox
from shared.store.webhooks.outbox import DeadLetter, WaitingEntries
from webhooks.app import connect, path_of
from webhooks.message import event_type


async def list_lines(settings: Settings, tenants: Sequence[str]) -> AsyncIterator[str]:
    """Yields a line for each webhook that has something waiting, and for each dead letter, the oldest first.

    `tenants`: those to be listed; empty: all in the tenants file. Raises REDIS_AWAY and what `path_of` does.
    """
    roster = tenants_file.read(path_of(settings))
    redis = connect(settings)
    try:
        waiting = await outbox.count_waiting(redis)
        for tenant in tenants or roster.webhooks:
            for webhook, entries in sorted(waiting.get(tenant, {}).items()):
                is_known = webhook in roster.webhooks.get(tenant, {})
                unknown = "" if is_known else ", not in the tenants file"
                yield f"{tenant}/{webhook}: {_count(entries)}{unknown}"
            for letter in await outbox.read_dead_letters(redis, tenant):
                yield _describe(letter)
    finally:
        await redis.close()


def _count(entries: WaitingEntries) -> str:
    late = f", the first due for {entries.late_s:.0f} s" if entries.late_s >= 1 else ""
    return f"{entries.number} waiting{late}"


def _describe(letter: DeadLetter) -> str:
    given_up = datetime.fromtimestamp(letter.given_up_ms / 1000, UTC).isoformat(timespec="seconds")
    entry = letter.entry
    return f"{given_up} {letter.webhook} {entry.response_id} {event_type(entry)}: {letter.reason}"
