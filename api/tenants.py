"""The tenants: who may call, and their limits, from a file that is reloaded when it changes.

Owns the file's form, and the lookup of a tenant and its limits by key; stores only hashes of keys. The code
that enforces a limit owns its meaning: a limit `x` here is the setting `tenant_x` there.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

import msgspec

from api.errors import ClientError
from shared.settings import Settings

OPEN_TENANT = "default"
"""The tenant of every call if no keys are configured."""

_POLL_INTERVAL_S = 1.0
"""How often the file is read: a key that was removed from it is refused after this at the latest."""

_HASH = re.compile(r"[0-9a-f]{64}")
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A tenant's name is part of Redis keys and their hash tags, so it has no braces, slashes or spaces."""

_log = logging.getLogger(__name__)


class FileInvalid(ValueError):
    """The tenants file cannot be read, or is malformed."""


class TenantLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of a tenant; None means the setting `tenant_…` of the same name."""

    responses_max: Annotated[int, msgspec.Meta(gt=0)] | None = None
    bytes_max: Annotated[int, msgspec.Meta(gt=0)] | None = None
    requests_per_minute_max: Annotated[int, msgspec.Meta(ge=0)] | None = None
    tokens_per_minute_max: Annotated[int, msgspec.Meta(ge=0)] | None = None

    def over(self, settings: Settings) -> Settings:
        """Returns the settings with these limits in place of theirs."""
        own = {f"tenant_{name}": value for name, value in self._given().items()}
        return settings.model_copy(update=own) if own else settings

    def before(self, defaults: "TenantLimits") -> "TenantLimits":
        """Returns these limits, completed with the defaults."""
        return msgspec.structs.replace(defaults, **self._given())

    def _given(self) -> dict[str, int]:
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class _Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file may say about one tenant, or about all tenants by default."""

    limits: TenantLimits = TenantLimits()


class _Tenant(_Terms, frozen=True, forbid_unknown_fields=True):
    keys: list[str] = []
    """SHA-256 of each key, in hex."""


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

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parses the file's form, or its former one, {sha256 hex of a key: tenant}. Raises ValueError."""
        found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        if not found.keys() & {"tenants", "defaults"}:
            keys = msgspec.json.decode(raw, type=dict[str, str])
            return cls(_by_digest((tenant, digest) for digest, tenant in keys.items()))
        file = msgspec.json.decode(raw, type=_TenantsFile)
        for name in file.tenants:
            _check_name(name)
        pairs = ((name, digest) for name, tenant in file.tenants.items() for digest in tenant.keys)
        limits = {name: tenant.limits.before(file.defaults.limits) for name, tenant in file.tenants.items()}
        return cls(_by_digest(pairs), limits, file.defaults.limits)


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


class Tenants:
    """The tenants from the file, and the lookup of a call's tenant by its key."""

    def __init__(self, roster: Roster | None = None, path: Path | None = None) -> None:
        """Without a roster, any key is accepted, including no key. `path`: the file to reload it from."""
        self._roster = roster
        self._path = path

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Returns the tenants of a file; without a file, any key is accepted. Raises FileInvalid."""
        return cls() if path is None else cls(_read(path), path)

    @property
    def is_open(self) -> bool:
        return self._roster is None

    @property
    def is_in_file(self) -> bool:
        """True if there is a file for `run` to reload."""
        return self._path is not None

    def tenant_of(self, authorization: str | None) -> str:
        """Returns the tenant of an `authorization` header. Raises ClientError, a 401.

        A digest is looked up, so the timing reveals nothing about the existing keys.
        """
        if self._roster is None:
            return OPEN_TENANT
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("No API key was given: send it as 'Authorization: Bearer KEY'.")
        tenant = self._roster.keys.get(hashlib.sha256(key.strip().encode()).hexdigest())
        if tenant is None:
            raise _unauthorized("Incorrect API key provided.")
        return tenant

    def limits_of(self, tenant: str) -> TenantLimits:
        """Returns a tenant's limits, or the file's defaults for one that is not in the file."""
        if self._roster is None:
            return TenantLimits()
        return self._roster.limits.get(tenant, self._roster.defaults)

    async def run(self) -> None:
        """Reloads the file periodically, until cancelled.

        A file that is malformed or missing changes nothing, since half a file, read while it is being
        written, must not lock everyone out.
        """
        assert self._path is not None
        reported = ""
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            try:
                roster = await asyncio.to_thread(_read, self._path)
            except FileInvalid as error:
                if str(error) != reported:
                    reported = str(error)
                    _log.error("%s; its previous content still holds", reported)
                continue
            reported = ""
            if roster != self._roster:
                self._roster = roster
                _log.info("%s was reloaded: %d keys", self._path, len(roster.keys))


def _read(path: Path) -> Roster:
    """Reads the file. Raises FileInvalid."""
    try:
        return Roster.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FileInvalid(f"the tenants file {path} cannot be used: {error}") from error


def _unauthorized(message: str) -> ClientError:
    return ClientError(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})
