"""What a request tells its tool servers alone: sealed with the record, read by the tool runner.

Owns the form in which it is kept; `sealing.py` encrypts it, and the end of the response deletes it.
"""

from collections.abc import Mapping

import msgspec

from shared.responses import ServerSecrets
from shared.sealing import seal, unseal
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient


def seal_secrets(settings: Settings, secrets: Mapping[str, ServerSecrets]) -> bytes:
    """Returns what is stored of secrets by server_label; empty if there are none."""
    return seal(settings, msgspec.json.encode(secrets)) if secrets else b""


async def read_secrets(
    redis: RedisClient, settings: Settings, key: ResponseKey
) -> dict[str, ServerSecrets] | None:
    """Returns the request's secrets by server_label; empty once the response is closed.

    Returns None if there are secrets that this process cannot unseal.
    """
    sealed = await redis.command("GET", keys.secrets(key))
    return {} if sealed is None else open_secrets(settings, sealed)


def open_secrets(settings: Settings, sealed: bytes) -> dict[str, ServerSecrets] | None:
    """Returns what `seal_secrets` was given, or None if this process cannot unseal it."""
    if not sealed:
        return {}
    raw = unseal(settings, sealed)
    try:
        return msgspec.json.decode(raw, type=dict[str, ServerSecrets]) if raw is not None else None
    except msgspec.DecodeError:  # sealed, and this process has no key
        return None
