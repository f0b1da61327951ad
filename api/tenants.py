"""Who may call, and how much they may have: the tenants file, read again when it changes.

Owns the file's form, the way from a key to its tenant, and what the file says of each tenant; keeps no key,
only hashes. What a limit means is for those who hold to it: a limit `x` here is the setting `tenant_x` there.
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
"""Whose the responses are where no keys are configured."""

_LOOK_EVERY_S = 1.0
"""How old what is known of the file may be: a key that was taken out opens nothing after this."""

_HASH = re.compile(r"[0-9a-f]{64}")
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A tenant's name is part of Redis keys and of their hash tag: no braces, no slash, no space."""

_log = logging.getLogger(__name__)


class FileInvalid(ValueError):
    """The tenants file cannot be read, or does not have its form."""


class TenantLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tenant may have at a time; None: what the setting `tenant_…` of this name says."""

    responses_max: Annotated[int, msgspec.Meta(gt=0)] | None = None
    bytes_max: Annotated[int, msgspec.Meta(gt=0)] | None = None

    def over(self, settings: Settings) -> Settings:
        """The settings as they are for this tenant."""
        own = {f"tenant_{name}": value for name, value in self._given().items()}
        return settings.model_copy(update=own) if own else settings

    def before(self, defaults: "TenantLimits") -> "TenantLimits":
        """These limits, and the defaults where these say nothing."""
        return msgspec.structs.replace(defaults, **self._given())

    def _given(self) -> dict[str, int]:
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class _Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be said of one tenant, or of all that say nothing else."""

    limits: TenantLimits = TenantLimits()


class _Tenant(_Terms, frozen=True, forbid_unknown_fields=True):
    keys: list[str] = []
    """SHA-256 of each key, in hex."""


class _TenantsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenants: dict[str, _Tenant]
    defaults: _Terms = _Terms()


@dataclass(frozen=True, slots=True)
class Roster:
    """What the file said when it was last read."""

    keys: Mapping[str, str]
    """SHA-256 hex of a key -> its tenant."""
    limits: Mapping[str, TenantLimits] = field(default_factory=dict)
    defaults: TenantLimits = field(default_factory=TenantLimits)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Reads the file's form, or the older one, {sha256 hex of a key: tenant}. Raises ValueError."""
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
    """(tenant, digest of a key) -> the tenant by the digest. Raises ValueError."""
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
        """Raises FileInvalid."""
        return cls() if path is None else cls(_read(path), path)

    @property
    def is_open(self) -> bool:
        return self._roster is None

    @property
    def is_in_file(self) -> bool:
        """Whether `run` has something to read."""
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
        """What the file says of a tenant, and where that is nothing, of all."""
        if self._roster is None:
            return TenantLimits()
        return self._roster.limits.get(tenant, self._roster.defaults)

    async def run(self) -> None:
        """Reads the file again and again, until cancelled. A file that is broken or gone changes nothing:
        half a file, seen while it is written, must not lock everybody out."""
        assert self._path is not None
        told = ""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                roster = await asyncio.to_thread(_read, self._path)
            except FileInvalid as error:
                if str(error) != told:
                    told = str(error)
                    _log.error("%s; what it said before still holds", told)
                continue
            told = ""
            if roster != self._roster:
                self._roster = roster
                _log.info("%s was read again: %d keys", self._path, len(roster.keys))


def _read(path: Path) -> Roster:
    """Raises FileInvalid."""
    try:
        return Roster.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FileInvalid(f"the tenants file {path} cannot be used: {error}") from error


def _unauthorized(message: str) -> ClientError:
    return ClientError(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})
