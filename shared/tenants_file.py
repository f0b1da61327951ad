"""The tenants file: who may call, each tenant's limits, and where it is told how its responses end.

Owns the file's form, and noticing that the file changes. `api/tenants.py` looks tenants up by their keys, and
`webhooks` delivers. The code that enforces a limit owns its meaning: a limit `x` is the setting `tenant_x`.
"""

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

import msgspec

from shared.settings import Settings

OPEN_TENANT = "default"
"""The tenant of every call if there is no such file."""
_POLL_INTERVAL_S = 1.0
"""How often the file is read: a key that was removed from it is refused after this at the latest."""

_HASH = re.compile(r"[0-9a-f]{64}")
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A tenant's name is part of Redis keys and their hash tags, so it has no braces, slashes or spaces."""
_WEBHOOK = re.compile(r"[A-Za-z0-9._-]{1,32}")
"""The name of a webhook is part of Redis keys as well."""
_WEBHOOKS_MAX, _SECRETS_MAX, _URL_LENGTH_MAX = 16, 8, 2048
_SECRET_PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)
"""Source: the Standard Webhooks specification, on symmetric secrets."""

_log = logging.getLogger(__name__)

WebhookEventType = Literal[
    "response.completed", "response.failed", "response.incomplete", "response.cancelled"
]
EVENT_TYPES: tuple[WebhookEventType, ...] = get_args(WebhookEventType)


class FileInvalid(ValueError):
    """The tenants file cannot be read, or is malformed."""


class TenantLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of a tenant; None means the setting `tenant_…` of the same name."""

    responses_max: Annotated[int, msgspec.Meta(gt=0)] | None = None
    bytes_max: Annotated[int, msgspec.Meta(gt=0)] | None = None
    requests_per_minute_max: Annotated[int, msgspec.Meta(ge=0)] | None = None
    tokens_per_minute_max: Annotated[int, msgspec.Meta(ge=0)] | None = None
    weight: Annotated[float, msgspec.Meta(ge=0.01, le=100)] | None = None

    def over(self, settings: Settings) -> Settings:
        """Returns the settings with these limits in place of theirs."""
        own = {f"tenant_{name}": value for name, value in self._given().items()}
        return settings.model_copy(update=own) if own else settings

    def before(self, defaults: "TenantLimits") -> "TenantLimits":
        """Returns these limits, completed with the defaults."""
        return msgspec.structs.replace(defaults, **self._given())

    def _given(self) -> dict[str, float]:
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a tenant is told of the ends of its responses. `repr` shows neither the URL nor the secrets."""

    url: str
    secrets: tuple[str, ...]
    """`whsec_` and base64. Each of them signs, so that a receiver can change from one to another."""
    event_types: tuple[WebhookEventType, ...] = EVENT_TYPES

    def __repr__(self) -> str:
        return "Webhook(…)"


class _Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file may say about one tenant, or about all tenants by default."""

    limits: TenantLimits = TenantLimits()


class _Tenant(_Terms, frozen=True, forbid_unknown_fields=True):
    keys: list[str] = []
    """SHA-256 of each key, in hex."""
    webhooks: dict[str, Webhook] = {}
    """By a name of the operator's, which identifies the webhook when its URL changes."""


class _TenantsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenants: dict[str, _Tenant]
    defaults: _Terms = _Terms()


@dataclass(frozen=True, slots=True)
class Roster:
    """The content of the file when it was last read."""

    keys: Mapping[str, str]
    """SHA-256 hex of a key -> its tenant."""
    limits: Mapping[str, TenantLimits] = field(default_factory=dict)
    defaults: TenantLimits = field(default_factory=TenantLimits)
    webhooks: Mapping[str, Mapping[str, Webhook]] = field(default_factory=dict)
    """Tenant -> the name of a webhook -> the webhook."""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parses the file's form, or its former one, {sha256 hex of a key: tenant}. Raises ValueError."""
        found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        if not found.keys() & {"tenants", "defaults"}:
            keys = msgspec.json.decode(raw, type=dict[str, str])
            return cls(_by_digest((tenant, digest) for digest, tenant in keys.items()))
        file = msgspec.json.decode(raw, type=_TenantsFile)
        for name, tenant in file.tenants.items():
            _check_name(name)
            _check_webhooks(name, tenant.webhooks)
        pairs = ((name, digest) for name, tenant in file.tenants.items() for digest in tenant.keys)
        limits = {name: tenant.limits.before(file.defaults.limits) for name, tenant in file.tenants.items()}
        webhooks = {name: tenant.webhooks for name, tenant in file.tenants.items() if tenant.webhooks}
        return cls(_by_digest(pairs), limits, file.defaults.limits, webhooks)


def _by_digest(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns the tenants by the digests of their keys, given (tenant, digest) pairs. Raises ValueError."""
    tenants: dict[str, str] = {}
    for tenant, digest in pairs:
        _check_name(tenant)
        if not _HASH.fullmatch(digest):
            raise ValueError(f"the key {digest[:12]!r}… is not 64 lower-case hex digits")
        if tenants.setdefault(digest, tenant) != tenant:
            raise ValueError(f"the key {digest[:12]}… belongs to two tenants")
    return tenants


def _check_name(tenant: str) -> None:
    if not _TENANT.fullmatch(tenant):
        raise ValueError(f"a tenant's name is {_TENANT.pattern}, not {tenant[:80]!r}")


def _check_webhooks(tenant: str, webhooks: Mapping[str, Webhook]) -> None:
    """Raises ValueError, whose message repeats neither a URL, which may contain a secret, nor a secret."""
    if len(webhooks) > _WEBHOOKS_MAX:
        raise ValueError(f"{tenant} has more than {_WEBHOOKS_MAX} webhooks")
    for name, webhook in webhooks.items():
        if not _WEBHOOK.fullmatch(name):
            raise ValueError(f"a webhook's name is {_WEBHOOK.pattern}, not {name[:80]!r}")
        if not _is_url(webhook.url):
            raise ValueError(f"{tenant}/{name}: the url is not https://host/… or http://host/…")
        if not webhook.event_types:
            raise ValueError(f"{tenant}/{name}: event_types is empty; without it, all events are delivered")
        if not 0 < len(webhook.secrets) <= _SECRETS_MAX or not all(map(_is_secret, webhook.secrets)):
            lengths = f"{_SECRET_BYTES.start} to {_SECRET_BYTES.stop - 1}"
            form = f"{_SECRET_PREFIX} and the base64 of {lengths} bytes"
            raise ValueError(f"{tenant}/{name}: there must be 1 to {_SECRETS_MAX} secrets, each {form}")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_whole = bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        return False
    is_printable = text.isascii() and text.isprintable() and " " not in text
    is_plain = parts.scheme in ("https", "http") and not parts.fragment
    return is_whole and is_printable and is_plain and len(text) <= _URL_LENGTH_MAX


def secret_bytes(secret: str) -> bytes:
    """Returns the key that a webhook's secret stands for. Raises ValueError."""
    if not secret.startswith(_SECRET_PREFIX):
        raise ValueError(f"a webhook's secret begins with {_SECRET_PREFIX}")
    return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)


def _is_secret(text: str) -> bool:
    try:
        return len(secret_bytes(text)) in _SECRET_BYTES
    except (ValueError, binascii.Error):
        return False


def read(path: Path) -> Roster:
    """Reads the file. Raises FileInvalid."""
    try:
        return Roster.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FileInvalid(f"the tenants file {path} cannot be used: {error}") from error


async def follow(path: Path, known: Roster, on_change: Callable[[Roster], None]) -> None:
    """Reads the file periodically, until cancelled, and reports its content when it differs from `known`.

    A file that is malformed or missing changes nothing, since half a file, read while it is being
    written, must not lock everyone out.
    """
    reported = ""
    while True:
        await asyncio.sleep(_POLL_INTERVAL_S)
        try:
            roster = await asyncio.to_thread(read, path)
        except FileInvalid as error:
            if str(error) != reported:
                reported = str(error)
                _log.error("%s; its previous content still holds", reported)
            continue
        reported = ""
        if roster != known:
            known = roster
            on_change(roster)
            _log.info("%s was reloaded: %d keys", path, len(roster.keys))
